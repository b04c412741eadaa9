"""Draws docs/images/explanation.svg from the model that `make demo` has trained.

python docs/make_images.py [--model outputs/demo/model] [--output docs/images]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bcos_peft import BcosExplainer
from bcos_peft.visualize import export_svg


TEXT = "@JetBlue the flight was late and the seats were small, but your crew was wonderful. Thank you!"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="outputs/demo/model", help="folder of the demo's model (default: %(default)s)")
parser.add_argument("--output", default="docs/images", help="folder for the pictures (default: %(default)s)")
options = parser.parse_args()

model = AutoModelForSequenceClassification.from_pretrained(options.model)
explainer = BcosExplainer(model, AutoTokenizer.from_pretrained(options.model))
folder = Path(options.output)
folder.mkdir(parents=True, exist_ok=True)
export_svg(explainer(TEXT), folder / "explanation.svg", title="BcosExplainer(model, tokenizer)(text).show()")
