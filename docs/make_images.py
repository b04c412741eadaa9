"""Draws the pictures of the documentation from real models.

python docs/make_images.py explanation    # explanation.svg, from the model that `make demo` has trained
python docs/make_images.py generation      # generation.png, the page of examples/rag_attribution.py; needs Chromium
python docs/make_images.py similarity      # similarity.svg and, with Chromium, similarity.png, from MiniLM of PyPI
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).parent.parent
TEXT = "@JetBlue the flight was late and the seats were small, but your crew was wonderful. Thank you!"
QUESTION = "How can I get a refund for a delayed flight?"
PASSAGE = (
    "Passengers who arrive more than three hours late may claim compensation from the airline. Tickets are paid back "
    "within seven days."
)


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


def draw_similarity(folder: Path) -> None:
    """What `explanation.show()` prints of a question and a passage, and the page, on which a word is held."""
    sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]
    from bundled import minilm, read_tweets
    from helpers.browser_check import run, with_script
    from sentence_transformers import SentenceTransformer

    from bcos_peft import BcosConfig, SimilarityExplainer, get_bcos_model
    from bcos_peft.explanation.views import draw_svg

    model = SentenceTransformer(minilm(), device="cpu")
    texts = [tweet["text"] for tweet in read_tweets()[::60]]
    config = BcosConfig(b=1.1, calibration_replay=0, calibration_epochs=0)
    get_bcos_model(model, config, calibration_data=[QUESTION, PASSAGE, *texts])
    found = SimilarityExplainer(model)(QUESTION, PASSAGE)
    title = "SimilarityExplainer(model)(question, passage).show()"
    svg = draw_svg(lambda console: found.show(console=console, hide_special=True, top=6), 88, title)
    (folder / "similarity.svg").write_text(svg, encoding="utf-8")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        return
    click = (
        "<script>[...document.querySelectorAll('.bcosx-unit')].find((unit) => unit.textContent === 'refund').click()"
    )
    with tempfile.TemporaryDirectory() as scratch:
        page = with_script(found.to_html(hide_special=True, top=6), f"<script>{click}</script>", scratch)
        picture = (folder / "similarity.png").resolve()
        run(page, "--window-size=800,760", f"--screenshot={picture}", "--force-prefers-reduced-motion")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("picture", nargs="?", choices=("explanation", "generation", "similarity"), default="explanation")
parser.add_argument("--model", default="outputs/demo/model", help="folder of the demo's model (default: %(default)s)")
parser.add_argument("--page", default="outputs/rag/answer.html", help="the example's page (default: %(default)s)")
parser.add_argument("--step", type=int, default=6, help="the token of the answer that is held (default: %(default)s)")
parser.add_argument("--output", default="docs/images", help="folder for the pictures (default: %(default)s)")
options = parser.parse_args()

target = Path(options.output)
target.mkdir(parents=True, exist_ok=True)
if options.picture == "explanation":
    draw_explanation(options.model, target)
elif options.picture == "similarity":
    draw_similarity(target)
else:
    draw_generation(options.page, options.step, target)
