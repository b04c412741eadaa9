"""The examples in docstrings run, and print what they say. docs_env.py gives them models under the hub's names."""

import pytest
from helpers.docs_env import run_docstrings


pytestmark = pytest.mark.newest


def test_examples_run(tmp_path):
    run = run_docstrings(tmp_path)
    assert run.returncode == 0, f"{run.stdout[-6000:]}\n{run.stderr[-3000:]}"
    assert {"bcos_peft.attribution.contributions.attribute", "bcos_peft.explanation.explainer.BcosExplainer"} <= set(
        run.stdout.splitlines()
    )
    assert run.stdout.splitlines()[-1].endswith(" examples, 0 failed")


def test_a_wrong_example_fails(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "wrong.py").write_text('"""A module.\n\n>>> 1 + 1\n3\n"""\n')
    run = run_docstrings(tmp_path, package="wrong")
    assert run.returncode == 1, run.stderr
    assert "Failed example" in run.stdout
