"""Metrics over the scores of attribution methods."""
