"""Fitting converted layers to what the stock model gave, on texts without labels."""

from bcos_peft.calibration.calibrate import Calibration
from bcos_peft.calibration.data import calibration_rows
from bcos_peft.calibration.embeddings import Embedding, embedding_of, pooling_of


__all__ = [
    "Calibration",
    "Embedding",
    "calibration_rows",
    "embedding_of",
    "pooling_of",
]
