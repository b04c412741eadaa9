"""Asking people which explanation is better."""
