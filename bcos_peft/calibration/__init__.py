"""Fitting converted layers to what the stock model gave, on texts without labels."""

from bcos_peft.calibration.calibrate import Calibration
from bcos_peft.calibration.data import calibration_rows


__all__ = [
    "Calibration",
    "calibration_rows",
]
