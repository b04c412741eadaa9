"""What a chat template makes of messages: the form of contents that it wants, and where their texts go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bcos_peft.text.segments import REST, occurrences
from bcos_peft.text.words import Span


# In the rendered template they show where the text of a message goes. No text has them: they are for private use.
_MARK = "\ue0f0{}\ue0f1"


def message_texts(message: dict) -> list[str]:
    """The texts of a message: one, or those of its parts; none where it has no content.

    Example:
        >>> from bcos_peft.text import message_texts
        >>> message_texts({"role": "user", "content": [{"type": "text", "text": "Is it"}]})
        ['Is it']
    """
    content = message.get("content")
    if content is None:
        return []
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def fit_messages(messages: list[dict], render: Callable[[list], str]) -> list[dict]:
    """Messages with their contents in the form that a template writes: as given, as one text, or as parts.

    Templates that want a string print the Python list of parts, or nothing; those that want parts leave strings out;
    and many print "None" where there is no content.

    Args:
        messages: each with a text, a list of parts `{"type": "text", "text"}`, or None as its content.
        render: the template.

    Example:
        >>> from bcos_peft.text import fit_messages
        >>> parts = [{"role": "user", "content": [{"type": "text", "text": "Is it"}, {"type": "text", "text": "?"}]}]
        >>> fit_messages(parts, lambda turns: "".join(str(turn["content"]) for turn in turns))
        [{'role': 'user', 'content': 'Is it?'}]
    """
    forms = [messages]
    for make in (_without_none, _as_strings, _as_parts):
        if (form := [make(message) for message in messages]) not in forms:
            forms.append(form)
    if len(forms) == 1:
        return messages
    return max(forms, key=lambda form: _shown(form, render))  # of equals the first


def _without_none(message: dict) -> dict:
    return {**message, "content": ""} if message.get("content", "") is None else message


def _as_strings(message: dict) -> dict:
    return {**message, "content": "".join(message_texts(message))} if "content" in message else message


def _as_parts(message: dict) -> dict:
    if "content" not in message:
        return message
    parts = message["content"] if isinstance(message["content"], list) else None
    return {**message, "content": parts or [{"type": "text", "text": text} for text in message_texts(message)]}


def _shown(messages: list[dict], render: Callable[[list], str]) -> float:
    """The share of the texts that the template writes as they are; a little less where it prints "None"."""
    marks = [_MARK.format(i) for i in range(sum(len(message_texts(message)) for message in messages))]
    try:
        marked = render(_with_texts(messages, marks))
    except Exception:  # a template may raise what it likes about contents that it does not expect
        return -1.0
    # Within the JSON of a list a text is not written as it is.
    found = sum(mark in marked and f'"text": "{mark}' not in marked for mark in marks)
    return found / max(1, len(marks)) - 1e-3 * marked.count("None")


def _with_texts(messages: list[dict], texts: list[str]) -> list[dict]:
    """The messages with other texts, in their order."""
    left = iter(texts)

    def content(value: Any) -> Any:
        if isinstance(value, str):
            return next(left)
        return value if value is None else [{**part, "text": next(left)} for part in value]

    return [
        {**message, "content": content(message["content"])} if "content" in message else message
        for message in messages
    ]


def message_spans(messages: list[dict], text: str, render: Callable[[list], str]) -> dict[str, Span]:
    """Where the text of each message is, by its role (numbered where a role comes several times).

    Example:
        >>> from bcos_peft.text import message_spans
        >>> message_spans([{"role": "user", "content": "hi"}], "<hi>", lambda turns: f"<{turns[0]['content']}>")
        {'user': (1, 3)}
    """
    texts = [message_texts(message) for message in messages]
    flat = [one for row in texts for one in row]
    found = iter(_by_marks(messages, flat, text, render) or _by_search(flat, text))
    spans: list[Span | None] = []
    for row in texts:  # of a message with several parts, from the first to the last
        places = [next(found) for _ in row]
        known = [place for place in places if place is not None]
        spans.append((known[0][0], known[-1][1]) if known and len(known) == len(places) else None)
    roles = [str(message["role"]) for message in messages]
    names, count = [], dict.fromkeys(roles, 0)
    for role in roles:
        count[role] += 1
        numbered = roles.count(role) > 1 or role in (REST, "answer")
        names.append(f"{role} {count[role]}" if numbered else role)
    return {name: span for name, span in zip(names, spans, strict=True) if span is not None and span[0] < span[1]}


def _by_marks(messages: list, contents: list[str], text: str, render) -> list[Span | None] | None:
    """Spans from the template rendered with marks in the place of contents; None if it treats contents differently."""
    marks = [_MARK.format(i) for i in range(len(contents))]
    try:
        marked = render(_with_texts(messages, marks))
    except Exception:  # as above
        return None
    cursor, shift, spans = 0, 0, []
    for mark, content in zip(marks, contents, strict=True):
        start = marked.find(mark, cursor)
        if start < 0 or marked.count(mark) != 1:
            return None
        cursor = start + len(mark)
        start += shift
        kept = next((one for one in (content, content.strip()) if text.startswith(one, start)), None)
        if kept is None:
            return None
        spans.append((start, start + len(kept)))
        shift += len(kept) - len(mark)
    return spans if marked[cursor:] == text[cursor + shift :] else None


def _by_search(contents: list[str], text: str) -> list[Span | None]:
    """Spans of the contents that occur once; the others are left out, and count with the rest. So are those that share
    characters: one of them is not where it was looked for, but stands within another's."""
    found = [occurrences(text, content.strip()) for content in contents]
    spans = [places[0] if len(places) == 1 else None for places in found]
    known = [span for span in spans if span is not None]
    return [
        span if span and sum(one[0] < span[1] and span[0] < one[1] for one in known) == 1 else None for span in spans
    ]
