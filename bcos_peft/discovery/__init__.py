"""What a table would say, found out by running a model once."""

from bcos_peft.discovery.infer import infer_family
from bcos_peft.discovery.inputs import (
    example_inputs,
    is_headless,
    needs_prefix,
    ordinary_ids,
    outputs_of,
    vocabulary_of,
)


__all__ = [
    "example_inputs",
    "infer_family",
    "is_headless",
    "needs_prefix",
    "ordinary_ids",
    "outputs_of",
    "vocabulary_of",
]
