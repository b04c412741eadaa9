"""From a prompt or the messages of a chat to token ids, their places in the text, and the spans of the messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bcos_peft.text import REST, Encoding, Span, align, encode, occurrences, special_ids, spell, split_inputs


# In the rendered template they show where the text of a message goes. No text has them: they are for private use.
_MARK = "\ue0f0{}\ue0f1"


@dataclass(frozen=True)
class _Prompt:
    """A prompt, tokenized, and the named spans of its text."""

    encoding: Encoding
    segments: dict[str, Span]

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.encoding.text


def _read_prompts(
    prompt: Any, messages: Any, tokenizer, max_length: int | None, template: Mapping | None
) -> tuple[list[_Prompt], bool]:
    """The prompts that a user passed, and whether it was only one.

    Args:
        prompt: text, token ids, or a list of these; or None.
        messages: one conversation, a list of `{"role", "content"}`, or a list of conversations; or None.
        tokenizer: the model's tokenizer.
        max_length: how many tokens the model reads.
        template: further arguments of the chat template.

    Raises:
        TypeError: for something that is neither text, ids nor messages.
        ValueError: for both or none of them, an empty one, one that is too long, or no chat template.
    """
    if (prompt is None) == (messages is None):
        raise ValueError("Give either a prompt or messages=[...], " + ("not both." if prompt is not None else "one."))
    if messages is None:
        if template:
            raise ValueError("chat_template_kwargs goes with messages=[...]; a prompt is read as it is.")
        items, single = split_inputs(prompt)
        names = ["prompt" if single else f"prompt[{i}]" for i in range(len(items))]
        return [_plain(*row, tokenizer, max_length) for row in zip(items, names, strict=True)], single
    single = isinstance(messages, (list, tuple)) and bool(messages) and isinstance(messages[0], Mapping)
    chats = [messages] if single else list(messages)
    if not chats:
        raise ValueError("messages is empty: there is nothing to explain.")
    names = ["messages" if single else f"messages[{i}]" for i in range(len(chats))]
    return [_chat(*row, tokenizer, max_length, template or {}) for row in zip(chats, names, strict=True)], single


def _plain(item: Any, where: str, tokenizer, max_length: int | None) -> _Prompt:
    if isinstance(item, tuple):
        raise TypeError(f"{where} is a pair of texts; a prompt is one text.")
    encoding = encode(item, tokenizer, None, False, where)
    if not isinstance(encoding.text, str):
        raise TypeError(f"{where} has two sequences; a prompt is one text.")
    _check_length(encoding, max_length, where, "shorten it")
    return _Prompt(encoding, {"prompt": (0, len(encoding.text))})


def _chat(messages: Any, where: str, tokenizer, max_length: int | None, template: Mapping) -> _Prompt:
    messages = list(messages)
    for i, message in enumerate(messages):
        # A turn that calls tools need not say anything.
        if not isinstance(message, Mapping) or "role" not in message or not {"content", "tool_calls"} & message.keys():
            raise TypeError(f'{where}[{i}] must be a dict {{"role": ..., "content": ...}}, got {message!r}.')
    if not messages:
        raise ValueError(f"{where} is empty: there is nothing to explain.")
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "messages needs a tokenizer with a chat template, and this one has none: pass the text as prompt=..., or "
            "set tokenizer.chat_template."
        )

    def render(turns: list) -> str:
        goes_on = turns[-1]["role"] == "assistant"
        options = {"add_generation_prompt": not goes_on, "continue_final_message": goes_on, **template}
        return tokenizer.apply_chat_template(turns, tokenize=False, **options)

    text = render(messages)
    encoding = _encode_rendered(text, tokenizer)
    _check_length(encoding, max_length, where, "leave out old messages")
    return _Prompt(encoding, _message_spans(messages, encoding.text, render))


def _check_length(encoding: Encoding, max_length: int | None, where: str, way_out: str) -> None:
    count = len(encoding.input_ids)
    if max_length is not None and count > max_length:
        raise ValueError(f"{where} has {count} tokens, but the model reads {max_length}; {way_out}.")


def _encode_rendered(text: str, tokenizer) -> Encoding:
    """Tokens of a text that has its special tokens already; they keep their places in it."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    ids = list(encoded["input_ids"])
    if tokenizer.is_fast:
        offsets = [tuple(span) for span in encoded["offset_mapping"]]
    else:
        text, offsets = align(*spell(ids, tokenizer), text)
    special = special_ids(tokenizer)
    return Encoding(ids, text, offsets, [0] * len(ids), [token in special for token in ids])


def _message_spans(messages: list, text: str, render) -> dict[str, Span]:
    """Where the text of each message is, by its role (numbered where a role comes several times)."""
    contents = [_content(message) for message in messages]
    spans = _by_marks(messages, contents, text, render) or _by_search(contents, text)
    roles = [str(message["role"]) for message in messages]
    names, count = [], dict.fromkeys(roles, 0)
    for role in roles:
        count[role] += 1
        numbered = roles.count(role) > 1 or role in (REST, "answer")
        names.append(f"{role} {count[role]}" if numbered else role)
    return {name: span for name, span in zip(names, spans, strict=True) if span is not None and span[0] < span[1]}


def _content(message: Mapping) -> str:
    content = message.get("content")
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(part.get("text", "") for part in content if isinstance(part, Mapping))


def _by_marks(messages: list, contents: list[str], text: str, render) -> list[Span | None] | None:
    """Spans from the template rendered with marks in the place of contents; None if it treats contents differently."""
    marks = [_MARK.format(i) for i in range(len(messages))]
    try:
        marked = render([{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)])
    except Exception:  # a template may raise what it likes about contents that it does not expect
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
