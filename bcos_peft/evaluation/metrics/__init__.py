"""Metrics over the scores of attribution methods."""

from bcos_peft.evaluation.metrics.base import Metric, Value
from bcos_peft.evaluation.metrics.completeness import Completeness, completeness_gaps
from bcos_peft.evaluation.metrics.contrastive import ContrastiveEvidence
from bcos_peft.evaluation.metrics.curves import perturbation_curves
from bcos_peft.evaluation.metrics.names import METRICS, get_metric
from bcos_peft.evaluation.metrics.passages import PassageAttribution
from bcos_peft.evaluation.metrics.perturbation import Comprehensiveness, Sufficiency
from bcos_peft.evaluation.metrics.plausibility import Plausibility
from bcos_peft.evaluation.metrics.pointing import SequencePointingGame
from bcos_peft.evaluation.metrics.sensitivity import ParameterRandomization, cascading_randomization


__all__ = [
    "Completeness",
    "Comprehensiveness",
    "ContrastiveEvidence",
    "METRICS",
    "Metric",
    "ParameterRandomization",
    "PassageAttribution",
    "Plausibility",
    "SequencePointingGame",
    "Sufficiency",
    "Value",
    "cascading_randomization",
    "completeness_gaps",
    "get_metric",
    "perturbation_curves",
]
