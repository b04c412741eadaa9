"""Are the explanations good? Metrics over the scores of any method, for any classifier or causal language model."""

from bcos_peft.evaluation.data.dataset import read_dataset
from bcos_peft.evaluation.data.minimal_pairs import MinimalPair, blimp_pairs, ioi_pairs, load_minimal_pairs
from bcos_peft.evaluation.data.pairs import SequencePair, build_pairs, load_pairs, save_pairs
from bcos_peft.evaluation.data.planted import PlantedAnswer, planted_answers
from bcos_peft.evaluation.data.rationales import Rationale, hatexplain_rationales
from bcos_peft.evaluation.data.texts import Example, Texts
from bcos_peft.evaluation.human.analysis import HumanResult, analyse_answers
from bcos_peft.evaluation.human.explain import explain_with
from bcos_peft.evaluation.human.kit import HumanKit
from bcos_peft.evaluation.methods.base import Method
from bcos_peft.evaluation.methods.cost import Cost, Metered
from bcos_peft.evaluation.methods.names import METHODS, get_method
from bcos_peft.evaluation.methods.precomputed import PrecomputedScores
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
from bcos_peft.evaluation.questions.question import Question, ask, logits, probabilities, score
from bcos_peft.evaluation.results.record import Record
from bcos_peft.evaluation.results.result import EvaluationResult
from bcos_peft.evaluation.results.statistics import Interval, PairedTest, bootstrap_interval, paired_test
from bcos_peft.evaluation.run import evaluate


__all__ = [
    "METHODS",
    "METRICS",
    "Completeness",
    "Comprehensiveness",
    "ContrastiveEvidence",
    "Cost",
    "EvaluationResult",
    "Example",
    "HumanKit",
    "HumanResult",
    "Interval",
    "Metered",
    "Method",
    "Metric",
    "MinimalPair",
    "PairedTest",
    "ParameterRandomization",
    "PassageAttribution",
    "PlantedAnswer",
    "Plausibility",
    "PrecomputedScores",
    "Question",
    "Rationale",
    "Record",
    "SequencePair",
    "SequencePointingGame",
    "Sufficiency",
    "Texts",
    "Value",
    "analyse_answers",
    "ask",
    "blimp_pairs",
    "bootstrap_interval",
    "build_pairs",
    "cascading_randomization",
    "completeness_gaps",
    "evaluate",
    "explain_with",
    "get_method",
    "get_metric",
    "hatexplain_rationales",
    "ioi_pairs",
    "load_minimal_pairs",
    "load_pairs",
    "logits",
    "paired_test",
    "perturbation_curves",
    "planted_answers",
    "probabilities",
    "read_dataset",
    "save_pairs",
    "score",
]
