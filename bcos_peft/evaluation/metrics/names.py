"""Metrics by name."""

from __future__ import annotations

from bcos_peft.evaluation.metrics.base import Metric
from bcos_peft.evaluation.metrics.completeness import Completeness
from bcos_peft.evaluation.metrics.contrastive import ContrastiveEvidence
from bcos_peft.evaluation.metrics.passages import PassageAttribution
from bcos_peft.evaluation.metrics.perturbation import Comprehensiveness, Sufficiency
from bcos_peft.evaluation.metrics.plausibility import Plausibility
from bcos_peft.evaluation.metrics.pointing import SequencePointingGame
from bcos_peft.evaluation.metrics.sensitivity import ParameterRandomization


METRICS: dict[str, type[Metric]] = {
    cls.name: cls
    for cls in (
        Comprehensiveness,
        Sufficiency,
        SequencePointingGame,
        ContrastiveEvidence,
        PassageAttribution,
        Plausibility,
        ParameterRandomization,
        Completeness,
    )
}


def get_metric(name: str, **options) -> Metric:
    """A metric by its name.

    Args:
        name (`str`): one of `METRICS`: `"comprehensiveness"`, `"sufficiency"`, `"seqpg"`, `"contrastive_evidence"`,
            `"passage_attribution"`, `"plausibility"`, `"parameter_randomization"`, `"completeness"`.
        **options: of its class.

    Returns:
        [`Metric`]

    Raises:
        ValueError: there is no such metric, or an option has no such value.
        TypeError: the metric has no such option.

    Example:
        >>> from bcos_peft.evaluation import get_metric
        >>> get_metric("sufficiency", perturbation="delete").name
        'sufficiency'
    """
    if name not in METRICS:
        raise ValueError(f"There is no metric {name!r}; there are: {', '.join(METRICS)}.")
    return METRICS[name](**options)
