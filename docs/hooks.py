"""Hooks of the documentation site (mkdocs.yml)."""

import re
from pathlib import Path

from mkdocs.structure.files import File


RESULTS = Path(__file__).parent.parent / "results"


def on_files(files, config, **kwargs):
    """Take along the pictures of the studies, which lie outside of docs/."""
    for picture in sorted(RESULTS.glob("*/*.svg")):
        place = f"results/{picture.parent.name}/{picture.name}"
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **kwargs) -> str:
    """Put the studies' results in their places, and drop the `no-run` mark of tests/test_docs.py.

    The link before such a place is for readers of the page itself, outside of the site.
    """
    place = r"(?:\[[^]\n]+\]\(\S+\) )?<!-- results: (\w+) -->"
    markdown = re.sub(place, lambda match: _results(match[1]), markdown)
    # The highlighter would take the mark for an unknown option.
    return markdown.replace("```python no-run\n", "```python\n")


def _results(study: str) -> str:
    """What a study wrote, to stand under a heading of the second level."""
    path = RESULTS / study / "results.md"
    if not path.exists():
        return "*This study has not been run in full yet.*"
    _, _, text = path.read_text(encoding="utf-8").partition("\n")  # the page has a title already
    text = re.sub(r"^##", "###", text, flags=re.MULTILINE)
    return re.sub(r"\]\(([\w.-]+\.svg)\)", rf"](results/{study}/\1)", text).strip()
