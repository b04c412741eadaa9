"""Layers and functions: the B-cos transform and what makes a network dynamic-linear. Only torch is needed."""
