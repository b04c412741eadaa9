"""Texts and their tokens: words, offsets, passages, and what users pass in. No torch."""
