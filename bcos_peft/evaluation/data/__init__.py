"""Data that explanations are evaluated on."""

from bcos_peft.evaluation.data.dataset import read_dataset
from bcos_peft.evaluation.data.minimal_pairs import MinimalPair, blimp_pairs, ioi_pairs, load_minimal_pairs
from bcos_peft.evaluation.data.pairs import SequencePair, build_pairs, check_options, load_pairs, save_pairs
from bcos_peft.evaluation.data.planted import PlantedAnswer, planted_answers
from bcos_peft.evaluation.data.rationales import Rationale, hatexplain_rationales
from bcos_peft.evaluation.data.sources import load_hub_data, load_rows
from bcos_peft.evaluation.data.texts import Example, Texts


__all__ = [
    "Example",
    "MinimalPair",
    "PlantedAnswer",
    "Rationale",
    "SequencePair",
    "Texts",
    "blimp_pairs",
    "build_pairs",
    "check_options",
    "hatexplain_rationales",
    "ioi_pairs",
    "load_hub_data",
    "load_minimal_pairs",
    "load_pairs",
    "load_rows",
    "planted_answers",
    "read_dataset",
    "save_pairs",
]
