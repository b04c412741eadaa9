"""What an evaluation gives."""

from bcos_peft.evaluation.results.checkpoint import Checkpoint, asked, fingerprint
from bcos_peft.evaluation.results.record import Record, find_row
from bcos_peft.evaluation.results.result import EvaluationResult
from bcos_peft.evaluation.results.statistics import (
    Interval,
    PairedTest,
    adjusted_p_values,
    bootstrap_interval,
    format_number,
    paired_test,
)


__all__ = [
    "Checkpoint",
    "EvaluationResult",
    "Interval",
    "PairedTest",
    "Record",
    "adjusted_p_values",
    "asked",
    "bootstrap_interval",
    "find_row",
    "fingerprint",
    "format_number",
    "paired_test",
]
