"""What the outputs of a model are called: labels, start and end of an answer, or vocabulary tokens."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from bcos_peft.models.generated import BcosModel
from bcos_peft.text import Encoding, ids_after, spell_on


_SHOWN = 20  # labels that an error lists


class Labels:
    """Names of a model's outputs, and back.

    Args:
        model: a converted model.
        tokenizer: its tokenizer, which names the outputs of a language model.

    Attributes:
        of_tokens (`bool`): the outputs are the tokens of the vocabulary.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.models import Labels
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> labels = Labels(get_bcos_model(BertForSequenceClassification(config), BcosConfig()), tokenizer=None)
        >>> labels.index("LABEL_1", "target"), labels.name(0)
        (1, 'LABEL_0')
    """

    def __init__(self, model: BcosModel, tokenizer):
        self.model = model
        self.tokenizer = tokenizer
        self.of_tokens = model.get_output_embeddings() is not None
        self.of_answers = type(model).__name__.endswith("ForQuestionAnswering")

    @property
    def count(self) -> int:
        """How many outputs the model has."""
        config = self.model.config
        return config.vocab_size if self.of_tokens else 2 if self.of_answers else config.num_labels

    def name(self, index: int, after: list[int] | None = None) -> str:
        """The name of an output; of a token that follows others, the text that it adds to them."""
        if not self.of_tokens:
            return self._names().get(index, str(index))
        if after:
            return spell_on(after, [index], self.tokenizer)[0] or self.tokenizer.decode([index])
        return self.tokenizer.decode([index])

    def index(self, value: Any, argument: str, after: tuple[list[int], str] | None = None) -> int:
        """The number of an output, from its number or its name.

        Args:
            value: the number or the name.
            argument: what errors call it.
            after: the token ids, and their text, that a token follows; a text is then read as going on with them.

        Raises:
            TypeError: it is neither.
            ValueError: there is no such output, or several have that name; the message names the argument, and what
                there is.
        """
        if isinstance(value, str):
            return self._token(value, argument, after) if self.of_tokens else self._label(value, argument)
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{argument} must be a number or a label of an output, got {value!r}.")
        if not 0 <= value < self.count:
            raise ValueError(f"{argument} must be between 0 and {self.count - 1}, got {value}.")
        return int(value)

    def __contains__(self, name: str) -> bool:
        return not self.of_tokens and name in self._names().values()

    def _names(self) -> dict[int, str]:
        if self.of_answers:
            return {0: "start", 1: "end"}
        return {int(number): str(label) for number, label in self.model.config.id2label.items()}

    def _label(self, value: str, argument: str) -> int:
        names = self._names()
        numbers = [number for number, name in names.items() if name == value]
        if len(numbers) == 1:
            return numbers[0]
        if numbers:
            raise ValueError(
                f"{argument}={value!r} is the label of outputs {', '.join(map(str, numbers))}; pass the number."
            )
        distinct = list(dict.fromkeys(names.values()))
        known = [repr(label) for label in distinct][:_SHOWN] + ["..."] * (len(distinct) > _SHOWN)
        hint = " 'all' stands for itself, not in a list." if value == "all" else ""
        raise ValueError(f"{argument}={value!r} is not a label of the model; it has {', '.join(known)}.{hint}")

    def after(self, encoding: Encoding) -> tuple[list[int], str] | None:
        """What the next token goes on with, for `index`; `None` where outputs are no tokens."""
        if not self.of_tokens:
            return None
        return encoding.input_ids, encoding.text if isinstance(encoding.text, str) else encoding.text[-1]

    def tokens(self, value: str, argument: str, after: tuple[list[int], str]) -> list[int]:
        """The tokens of a text that follows others; a single token as the tokenizer itself writes it ('##ing').

        Raises:
            ValueError: the text is empty, or no tokens spell it there.
        """
        if not value:
            raise ValueError(f"{argument} is an empty text; there is nothing to explain.")
        written = self._written(value)
        try:
            ids = ids_after(*after, value, self.tokenizer, argument)
        except ValueError:
            if written is None:
                raise
            return [written]
        return ids if written is None or len(ids) == 1 else [written]

    def _token(self, value: str, argument: str, after: tuple[list[int], str] | None) -> int:
        """The one token of a word, as the tokenizer reads it in a text or as it writes it itself."""
        if after is not None:
            ids = self.tokens(value, argument, after)
            return ids[0] if len(ids) == 1 else self._refuse(value, argument, ids)
        unknown = self.tokenizer.unk_token_id
        ids = self.tokenizer(value, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) == 1 and (ids[0] != unknown or value == self.tokenizer.unk_token):
            return ids[0]
        written = self._written(value)
        if written is not None:
            return written
        if len(ids) == 1:
            raise ValueError(
                f"{argument}={value!r} is not in the tokenizer's vocabulary; a target is one token of it."
            )
        return self._refuse(value, argument, ids)

    def _written(self, value: str) -> int | None:
        """The token that the tokenizer writes so. Byte-level ones write a byte as the letter of its number."""
        token = self.tokenizer.get_vocab().get(value)
        if token is None or len(value) > 1 or value.isascii():
            return token
        return None if "\ufffd" in self.tokenizer.decode([token]) else token

    def _refuse(self, value: str, argument: str, ids: list[int]) -> int:
        raise ValueError(
            f"{argument}={value!r} is {len(ids)} tokens for this tokenizer, "
            f"{self.tokenizer.convert_ids_to_tokens(ids)}; a language model's target is one token."
        )
