"""Contributions as tensors: the mode in which a model is linear, and reading the linear map off."""

from bcos_peft.attribution.answers import attribute_answer, writes_answers
from bcos_peft.attribution.certificate import certify, certify_adapter, probe_inputs
from bcos_peft.attribution.checks import check_baseline, max_tokens, refuses_padding
from bcos_peft.attribution.contributions import attribute
from bcos_peft.attribution.embedding import EmbeddingMap, embedding_map
from bcos_peft.attribution.hops import attribute_span
from bcos_peft.attribution.leaves import average_embedding
from bcos_peft.attribution.linear_map import called_part, forward_parameters, frozen, named_outputs
from bcos_peft.attribution.mode import explanation_mode, reading
from bcos_peft.attribution.padding import collate
from bcos_peft.attribution.result import Attribution
from bcos_peft.attribution.rounding import ResidualWarning
from bcos_peft.attribution.sequence import attribute_sequence, attribute_sequences, is_causal_lm


__all__ = [
    "Attribution",
    "EmbeddingMap",
    "ResidualWarning",
    "attribute",
    "attribute_answer",
    "attribute_sequence",
    "attribute_sequences",
    "attribute_span",
    "average_embedding",
    "called_part",
    "certify",
    "certify_adapter",
    "check_baseline",
    "collate",
    "embedding_map",
    "explanation_mode",
    "forward_parameters",
    "frozen",
    "is_causal_lm",
    "max_tokens",
    "named_outputs",
    "probe_inputs",
    "reading",
    "refuses_padding",
    "writes_answers",
]
