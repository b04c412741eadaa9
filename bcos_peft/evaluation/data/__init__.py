"""Data that explanations are evaluated on."""
