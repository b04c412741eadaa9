"""Sentences of a text, by their punctuation alone."""

from __future__ import annotations

import re

from bcos_peft.text.words import Span, strip_span


# A full stop ends a sentence where white space and no small letter follow ("e.g. this" goes on); marks of scripts
# without spaces end one anywhere; and so does a line that stands alone.
_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*(?=\s+[^\sa-z])|(?<=[。！？])|\n\s*\n|(?<=\n)(?=\S)")


def split_sentences(text: str) -> list[Span]:
    """Cut a text into sentences.

    Args:
        text (`str`): any text.

    Returns:
        `list[tuple[int, int]]`: character spans in order, without the white space between them; what is no white
        space is in exactly one.

    Example:
        >>> from bcos_peft.text import split_sentences
        >>> text = "Rome fell, e.g. in 476. Did it?  Yes!"
        >>> [text[start:end] for start, end in split_sentences(text)]
        ['Rome fell, e.g. in 476.', 'Did it?', 'Yes!']
    """
    cuts = [0, *(found.end() for found in _END.finditer(text)), len(text)]
    spans = (strip_span(text, span) for span in zip(cuts, cuts[1:], strict=False))
    return [(start, end) for start, end in spans if start < end]
