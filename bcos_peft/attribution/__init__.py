"""Contributions as tensors: the mode in which a model is linear, and reading the linear map off."""
