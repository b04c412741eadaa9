"""Fitting converted layers to what the stock model gave, on texts without labels."""
