"""Draws the pictures of the documentation from real models.

python docs/make_images.py explanation    # explanation.svg, from the model that `make demo` has trained
python docs/make_images.py generation      # generation.png, the page of examples/rag_attribution.py; needs Chromium
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parent.parent
TEXT = "@JetBlue the flight was late and the seats were small, but your crew was wonderful. Thank you!"


def draw_explanation(model: str, folder: Path) -> None:
    """What `explanation.show()` prints."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from bcos_peft import BcosExplainer
    from bcos_peft.explanation import export_svg

    explainer = BcosExplainer(
        AutoModelForSequenceClassification.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    )
    export_svg(explainer(TEXT), folder / "explanation.svg", title="BcosExplainer(model, tokenizer)(text).show()")


def draw_generation(page: str, step: int, folder: Path) -> None:
    """The page of an explained answer, one token held."""
    command = [sys.executable, str(ROOT / "tests" / "browser_check.py"), "--page", page, "--step", str(step)]
    subprocess.run([*command, "--draw", str(folder / "generation.png"), "--size", "1240,990"], check=True)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("picture", nargs="?", choices=("explanation", "generation"), default="explanation")
parser.add_argument("--model", default="outputs/demo/model", help="folder of the demo's model (default: %(default)s)")
parser.add_argument("--page", default="outputs/rag/answer.html", help="the example's page (default: %(default)s)")
parser.add_argument("--step", type=int, default=6, help="the token of the answer that is held (default: %(default)s)")
parser.add_argument("--output", default="docs/images", help="folder for the pictures (default: %(default)s)")
options = parser.parse_args()

target = Path(options.output)
target.mkdir(parents=True, exist_ok=True)
if options.picture == "explanation":
    draw_explanation(options.model, target)
else:
    draw_generation(options.page, options.step, target)
