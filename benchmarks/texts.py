"""Texts to calibrate on and texts to test on, from two sources that have nothing to do with each other, from PyPI.

The source distribution of `vaderSentiment` carries the data of its paper (Hutto and Gilbert 2014, MIT licence):
snippets of movie reviews, and editorials of a newspaper.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path


FOLDER = Path(__file__).parent.parent / "outputs" / "texts"
PACKAGE = "vaderSentiment==3.3.2"


@cache
def _lines(name: str) -> list[list[str]]:
    path = FOLDER / name
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "--dest", str(FOLDER), PACKAGE], check=True)
        with tarfile.open(next(FOLDER.glob("vaderSentiment*.tar.gz"))) as outer:
            member = next(m for m in outer.getmembers() if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
            data = outer.extractfile(member).read()
        with tarfile.open(fileobj=io.BytesIO(data)) as inner:
            member = next(m for m in inner.getmembers() if m.name.endswith(name))
            path.write_bytes(inner.extractfile(member).read())
    return [line.rstrip("\n").split("\t") for line in path.read_text("latin-1").splitlines()]


def reviews() -> list[tuple[str, float]]:
    """10,605 sentences of movie reviews, each with the mean rating that readers gave it, from -4 to 4."""
    return [(text, float(rating)) for _, rating, text in _lines("movieReviewSnippets_GroundTruth.txt")]


def editorials() -> list[str]:
    """300 or so articles of a newspaper, as long as their snippets."""
    articles: dict[str, list[str]] = {}
    for number, _, text in _lines("nytEditorialSnippets_GroundTruth.txt"):
        articles.setdefault(number.split("_")[0], []).append(text)
    return [" ".join(snippets) for snippets in articles.values()]


def news_sentences() -> list[str]:
    """The 5,190 snippets of these articles, most of them a sentence."""
    return [text for _, _, text in _lines("nytEditorialSnippets_GroundTruth.txt")]
