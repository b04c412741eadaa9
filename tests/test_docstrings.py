"""The examples in docstrings run, and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import bcos_peft


pytestmark = pytest.mark.newest

MODULES = sorted(info.name for info in pkgutil.walk_packages(bcos_peft.__path__, "bcos_peft."))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(module):
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = []
    for test in examples(importlib.import_module(name)):
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        runner.run(test, out=report.append)
    assert "Failed example" not in "".join(report), "".join(report)


def test_the_runner_sees_examples_and_failures():
    found = [test.name for name in MODULES for test in examples(importlib.import_module(name))]
    assert "bcos_peft.attribution.attribute" in found
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    report = []
    doctest.DocTestRunner(optionflags=FLAGS).run(wrong, out=report.append)
    assert "Failed example" in "".join(report)
