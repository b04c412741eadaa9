"""The code of README.md and docs/ runs as it stands. How to write it: CONTRIBUTING.md; how it is run: docs_env.py."""

import pytest
from helpers import docs_env
from helpers.docs_env import DATASETS, MODELS, PAGES, ROOT, blocks, run_page


pytestmark = pytest.mark.newest

# Blocks marked `no-run`, by page and first line, and what they need that a test cannot have.
_SHARING = "docs/guides/saving_and_sharing.md"
NO_RUN: dict[tuple[str, str], str] = {
    ("docs/guides/llm.md", "# A file of the folder, or of the repository, that is named first."): "a GGUF file; "
    "tests/test_gguf.py writes one",
    (
        "docs/guides/human_evaluation.md",
        'result = analyse_answers(HumanKit.load("kit"), ["answers-1.json", "answers-2.json"])',
    ): "files that people returned; tests/test_evaluation_human_analysis.py simulates some",
    (_SHARING, 'model.push_to_hub("me/bcos-bert-reviews")'): "the hub; tests/test_hub.py pushes to a stand-in",
    (_SHARING, "import bcos_peft  # with the import nothing has to be trusted: the file is not run"): "the hub",
    (_SHARING, "# Where the import cannot be added, in a tool that only takes a name:"): "the hub",
}


def names(page):
    return page.relative_to(ROOT).as_posix()


def write_page(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_blocks_run(page, tmp_path):
    expected = sum(block.run for block in blocks(page))
    if expected == 0:
        return
    run = run_page(page, tmp_path)
    assert run.returncode == 0, f"{run.stdout[-2000:]}\n{run.stderr[-6000:]}"
    assert run.stdout.splitlines()[-1] == f"ran {expected} blocks"


def test_blocks_left_out_are_listed():
    left_out = [block.key for page in PAGES for block in blocks(page) if not block.run]
    assert len(left_out) == len(set(left_out)), "two blocks left out begin alike: tell them apart in their first line"
    assert set(left_out) == NO_RUN.keys()
    assert all(NO_RUN.values()), "each needs its reason"


def test_a_failing_block_fails_and_names_its_line(tmp_path):
    page = write_page(tmp_path, "# Page\n\n```python\nx = 1\n```\n\ntext\n\n```python\nassert x == 2, x\n```\n")
    run = run_page(page, tmp_path)
    assert run.returncode != 0
    assert 'page.md", line 10' in run.stderr
    assert "AssertionError: 1" in run.stderr


def test_blocks_of_a_page_share_a_namespace_and_a_folder(tmp_path):
    page = write_page(
        tmp_path,
        "```python\nx = 1\nopen('left.txt', 'w').close()\n```\n```bash\nfalse\n```\n```python no-run\nx = 2\n```\n"
        "- in a list\n\n    ```python\n    assert x == 1\n    ```\n",
    )
    assert [(block.line, block.run) for block in blocks(page)] == [(2, True), (9, False), (14, True)]
    run = run_page(page, tmp_path)
    assert run.stdout.splitlines()[-1] == "ran 2 blocks", run.stderr
    assert (tmp_path / "work" / "left.txt").exists()


@pytest.mark.parametrize("info", ["py", "python3", "Python", "python norun", "pycon", "{.python}"])
def test_no_other_mark_for_python(info, tmp_path):
    with pytest.raises(ValueError, match=r"page\.md:1"):
        blocks(write_page(tmp_path, f"```{info}\nx = 1\n```\n"))


def test_hub_names_load_offline(tmp_path):
    """Every stand-in loads through the ordinary classes, with its own tokenizer and without unknown tokens."""
    lines = ["from transformers import AutoModelForSequenceClassification, AutoTokenizer", "import torch"]
    for name, (_, _, labels) in MODELS.items():
        count = len(labels or "ab")
        lines += [
            f"tokenizer = AutoTokenizer.from_pretrained({name!r})",
            f"model = AutoModelForSequenceClassification.from_pretrained({name!r}, num_labels={count})",
            "batch = tokenizer(['A gripping film.', ('one', 'two')[0]], padding=True, return_tensors='pt')",
            "assert tokenizer.unk_token_id not in batch['input_ids'], batch",
            f"assert model(**batch).logits.shape == (2, {count})",
        ]
    for name in DATASETS:
        lines += [
            "from datasets import load_dataset",
            f"assert len(load_dataset({name!r}, split='train[:4]')) == 4",
            f"assert set(load_dataset({name!r})) == {{'train', 'test'}}",
        ]
    code = "\n".join(lines)
    run = run_page(write_page(tmp_path, f"```python\n{code}\n```\n"), tmp_path)
    assert run.returncode == 0, run.stderr[-6000:]


def test_names_outside_the_table_do_not_reach_a_network(tmp_path):
    code = "from transformers import AutoConfig\nAutoConfig.from_pretrained('someone/some-model')"
    run = run_page(write_page(tmp_path, f"```python\n{code}\n```\n"), tmp_path)
    assert run.returncode != 0
    assert "OSError" in run.stderr


def test_pages_are_found():
    assert {"README.md", "docs/index.md", "docs/concepts/maths.md"} <= {names(page) for page in docs_env.PAGES}
