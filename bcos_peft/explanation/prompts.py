"""From a prompt or the messages of a chat to token ids, their places in the text, and the spans of the messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bcos_peft.text import (
    Encoding,
    Span,
    align,
    encode,
    fit_messages,
    message_spans,
    message_texts,
    special_ids,
    spell,
    split_inputs,
)


@dataclass(frozen=True)
class _Prompt:
    """A prompt, tokenized, and the named spans of its text."""

    encoding: Encoding
    segments: dict[str, Span]
    # Of an encoder-decoder: how many of the tokens are the source, before the one that starts an answer.
    source: int | None = None

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.encoding.text


def _read_prompts(
    prompt: Any, messages: Any, tokenizer, max_length: int | None, template: Mapping | None
) -> tuple[list[_Prompt], bool]:
    """The prompts that a user passed, and whether it was only one.

    Args:
        prompt: text, token ids, or a list of these; or what `messages` takes; or None.
        messages: one message, one conversation (a list of `{"role", "content"}`), or a list of them; or None.
        tokenizer: the model's tokenizer.
        max_length: how many tokens the model reads.
        template: further arguments of the chat template.

    Raises:
        TypeError: for something that is neither text, ids nor messages.
        ValueError: for both or none of them, an empty one, one that is too long, or no chat template.
    """
    if messages is None and _is_chat(prompt):
        prompt, messages = None, prompt
    if (prompt is None) == (messages is None):
        raise ValueError("Give either a prompt or messages=[...], " + ("not both." if prompt is not None else "one."))
    if messages is None:
        if template:
            raise ValueError("chat_template_kwargs goes with messages=[...]; a prompt is read as it is.")
        items, single = split_inputs(prompt, name="prompt", columns=False)
        names = ["prompt" if single else f"prompt[{i}]" for i in range(len(items))]
        return [_plain(*row, tokenizer, max_length) for row in zip(items, names, strict=True)], single
    if isinstance(messages, Mapping):
        messages = [messages]
    single = isinstance(messages, (list, tuple)) and bool(messages) and isinstance(messages[0], Mapping)
    chats = [messages] if single else list(messages)
    if not chats:
        raise ValueError("messages is empty: there is nothing to explain.")
    names = ["messages" if single else f"messages[{i}]" for i in range(len(chats))]
    return [_chat(*row, tokenizer, max_length, template or {}) for row in zip(chats, names, strict=True)], single


def _as_source(prompt: _Prompt, start: int) -> _Prompt:
    """A prompt as the source of an answer, which a token of the model's begins on a line of its own."""
    one = prompt.encoding
    encoding = Encoding(
        [*one.input_ids, start], one.text + "\n", [*one.offsets, None], [*one.sequence_ids, None], [*one.special, True]
    )
    segments = {"source" if name == "prompt" else name: span for name, span in prompt.segments.items()}
    return _Prompt(encoding, segments, len(one.input_ids))


def _plain(item: Any, where: str, tokenizer, max_length: int | None) -> _Prompt:
    if isinstance(item, tuple):
        raise TypeError(f"{where} is a pair of texts; a prompt is one text.")
    encoding = encode(item, tokenizer, None, False, where)
    if not isinstance(encoding.text, str):
        raise TypeError(f"{where} has two sequences; a prompt is one text.")
    _check_length(encoding, max_length, where, "shorten it")
    return _Prompt(encoding, {"prompt": (0, len(encoding.text))})


def _is_chat(value: Any) -> bool:
    """Whether it is a message, a conversation, or several of them."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, Mapping) and "role" in value and not {"input_ids", "text"} & value.keys()


def _chat(messages: Any, where: str, tokenizer, max_length: int | None, template: Mapping) -> _Prompt:
    messages = [_message(*row) for row in zip(messages, (f"{where}[{i}]" for i in range(len(messages))), strict=True)]
    if not messages:
        raise ValueError(f"{where} is empty: there is nothing to explain.")
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "messages needs a tokenizer with a chat template, and this one has none: pass the text as prompt=..., or "
            "set tokenizer.chat_template."
        )
    # A last message that an assistant has only begun is gone on with; an empty one is yet to be begun.
    last = messages[-1]
    goes_on = last["role"] == "assistant" and bool("".join(message_texts(last)))
    if last["role"] == "assistant" and not goes_on and "tool_calls" not in last and len(messages) > 1:
        messages = messages[:-1]

    def render(turns: list) -> str:
        options = {"add_generation_prompt": not goes_on, "continue_final_message": goes_on, **template}
        return tokenizer.apply_chat_template(turns, tokenize=False, **options)

    messages = fit_messages(messages, render)
    encoding = _encode_rendered(render(messages), tokenizer)
    _check_length(encoding, max_length, where, "leave out old messages")
    return _Prompt(encoding, message_spans(messages, encoding.text, render))


def _message(message: Any, where: str) -> dict:
    """A message with its content as text, a list of parts of text, or None."""
    # A turn that calls tools need not say anything.
    if not isinstance(message, Mapping) or "role" not in message or not {"content", "tool_calls"} & message.keys():
        raise TypeError(f'{where} must be a dict {{"role": ..., "content": ...}}, got {message!r}.')
    content = message.get("content")
    if content is None or isinstance(content, str):
        return dict(message)
    if not isinstance(content, (list, tuple, Mapping)):
        raise TypeError(f"{where}: content must be a text, a list of parts, or None, got {type(content).__name__}.")
    parts = []
    for part in [content] if isinstance(content, Mapping) else content:
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        if not isinstance(part, Mapping):
            raise TypeError(f'{where}: a part of the content must be {{"type": "text", "text": ...}}, got {part!r}.')
        kind = part.get("type", "text" if "text" in part else "part without a type")
        if kind != "text":
            raise ValueError(
                f"{where} has a part of type {kind!r}, and only text is explained: leave it out, or put it into words."
            )
        if not isinstance(part.get("text"), str):
            raise TypeError(f"{where}: the text of a part must be a string, got {part.get('text')!r}.")
        parts.append({**part, "type": "text"})
    return {**message, "content": parts}


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
