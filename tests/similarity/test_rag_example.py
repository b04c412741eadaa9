"""The example from a question to its answer, with names of the hub."""

import re

import pytest
from helpers.docs_env import run_page
from helpers.paths import ROOT


pytestmark = [pytest.mark.newest, pytest.mark.slow]


def test_rag_with_names_of_the_hub(tmp_path):
    """The default path, against the documentation's stand-ins for the hub."""
    page, script = tmp_path / "page.md", (ROOT / "examples" / "rag.py").as_posix()
    code = f"""
import runpy, sys
sys.argv = ["rag.py", "--output", "out"]
names = runpy.run_path({script!r})
options = names["options"]
assert (options.embedder, options.model) == (
    "sentence-transformers/all-MiniLM-L6-v2", "HuggingFaceTB/SmolLM2-135M-Instruct"
)
assert options.reranker == "cross-encoder/ms-marco-MiniLM-L6-v2"
for one, _ in names["ranked"]:
    assert abs(one.matrix.sum() + (one.constants or 0) - one.similarity) < 1e-5
margin = names["margin"]
total = sum(word.score for word in margin.query) + margin.first - margin.second + margin.rest
assert abs(total - margin.logit) < 1e-4
"""
    page.write_text(f"```python\n{code}\n```\n", encoding="utf-8")
    finished = run_page(page, tmp_path)
    assert finished.returncode == 0, finished.stderr[-5000:]
    assert len(re.findall(r"residual \S+\)", finished.stdout)) >= 3
    written = (tmp_path / "work" / "out" / "rag.html").read_text(encoding="utf-8")
    assert "How tall is the Eiffel Tower?" in written
    assert written.count("<iframe") == 3
