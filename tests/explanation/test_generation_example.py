"""The example with retrieved passages, with names of the hub, and the explained answers of a real model."""

import re
import sys

import numpy as np
import pytest
from helpers.docs_env import run_page
from helpers.paths import ROOT

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model


EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(EXAMPLES))

pytestmark = [pytest.mark.newest, pytest.mark.slow]


def test_rag_attribution_with_names_of_the_hub(tmp_path):
    """The default path, against the documentation's stand-ins for the hub."""
    page = tmp_path / "page.md"
    script = (EXAMPLES / "rag_attribution.py").as_posix()
    code = f"""
import runpy, sys
sys.argv = ["rag_attribution.py", "--output", "out", "--b", "1.1", "--calibration-texts", "8", "--max-new-tokens", "4"]
options = runpy.run_path({script!r})["options"]
assert (options.model, options.texts) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "stanfordnlp/imdb")
"""
    page.write_text(f"```python\n{code}\n```\n", encoding="utf-8")
    finished = run_page(page, tmp_path)
    assert finished.returncode == 0, finished.stderr[-5000:]
    gap = re.search(r"largest gap to a token's logit (\S+)\)", finished.stdout)
    assert float(gap[1]) < 1e-4
    for name in ("Mount Fuji", "Eiffel Tower", "Danube", "question", "rest"):
        assert re.search(rf"^  {name} +[+-]\d", finished.stdout, re.MULTILINE), name
    written = (tmp_path / "work" / "out" / "answer.html").read_text(encoding="utf-8")
    assert "How tall is the Eiffel Tower?" in written


@pytest.mark.usefixtures("smollm2_folder")
def test_a_real_answer_comes_from_the_passage_that_has_it():
    """SmolLM2 at B = 1, where only its norms and gates are held: it copies the number out of one of three passages."""
    from bundled import smollm2

    passages = {
        "Fuji": "Mount Fuji is the highest mountain in Japan, at 3,776 metres.",
        "Eiffel": "The Eiffel Tower in Paris was finished in 1889 and is 330 metres tall.",
        "Danube": "The Danube is a river in Europe. It flows through ten countries.",
    }
    question = "How tall is the Eiffel Tower?"
    model, tokenizer = smollm2()
    explainer = BcosExplainer(get_bcos_model(model, BcosConfig(b=1.0)), tokenizer)
    messages = [{"role": "user", "content": "\n".join([*passages.values(), "", question])}]
    found = explainer.generate(messages=messages, max_new_tokens=12, do_sample=False)
    assert "330" in found.answer
    size = np.abs(found.scores).sum(1)
    assert (np.abs(found.residuals) <= 1e-4 * size).all()
    each = found.by_segment(passages)
    np.testing.assert_allclose(sum(each.values()) + found.residuals, found.logits, atol=1e-6 * size.max())
    digits = [i for i, token in enumerate(found.tokens[found.prompt_length :]) if token in "330"][:3]
    for name in ("Fuji", "Danube", "rest"):
        assert each["Eiffel"][digits].sum() > 2 * abs(each[name][digits].sum()), name
