"""`BcosExplainer.explain_span`: a stretch of an answer as one, traced back through what came before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.attribution import attribute_span, writes_answers
from bcos_peft.explanation.explanation import Explanation
from bcos_peft.explanation.generation import GenerationExplanation, _explain_together
from bcos_peft.explanation.generation_explainer import _GenerationExplainer
from bcos_peft.explanation.prompts import _Prompt
from bcos_peft.explanation.sequences import _Written, _written
from bcos_peft.explanation.targets import _RUNNER_UP, _check_contrast, _read_completion, _read_foils
from bcos_peft.text import Encoding, shares


class _SpanExplainer(_GenerationExplainer):
    """The part of [`BcosExplainer`] that explains stretches of an answer: `explain_span`.

    Example:
        >>> from bcos_peft import BcosExplainer
        >>> issubclass(BcosExplainer, _SpanExplainer)
        True
    """

    @checked_arguments
    def explain_span(
        self,
        prompt: Any = None,
        completion: str | Sequence | None = None,
        *,
        messages: Sequence | None = None,
        span: str | Sequence | None = None,
        foil: int | str | Sequence | None = None,
        contrast: str | None = _RUNNER_UP,
        hops: int = 0,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Explanation:
        r"""Explain a stretch of an answer as one: the sum of its tokens' logits, in one backward pass.

        The scores are those of `explain_generation(...).summed(start, stop)`, at the cost of explaining one token.

        With `hops`, what the answer before the span received (a reasoning, of which the span is the conclusion) is
        passed on to what it came from itself. A token `j` with the share `r_j`, said for `L_j` (its logit less that of
        its runner-up) by the contributions `c_jk`, gives `r_j·c_jk / L_j` to each token `k` before it. The sum stays
        as it is. Where `r_j` is more than `L_j` for each token of the span, the rest stays with `j`, and so does
        the share of a token that was not the likeliest. `Explanation.stayed` says how much the answer before the span
        still holds.

        Args:
            prompt: A text, token ids, or a [`GenerationExplanation`], of which the span is explained anew.
            completion (`str` or `list[int]`): What comes after the prompt, as in `explain_generation`.
            messages (`list[dict]`, *optional*): Instead of a prompt a conversation, as in `explain`.
            span (`tuple[int, int]` or `str`, *optional*): The first token of the answer and one past the last, counted
                in the answer, or a substring of it that occurs once. Default: the whole answer.
            foil (`int`, `str` or a list of these, *optional*): A token that each one of the span is compared with, or
                a list with one for each token of the span.
            contrast (`"runner_up"`, *optional*): Without a foil, what to compare with; see `generate`.
            hops (`int`, defaults to 0): How often shares are passed on. Each takes one more backward pass.
            chat_template_kwargs (`dict`, *optional*): Further arguments of the chat template.

        Returns:
            [`Explanation`]: Its tokens are the prompt, and the answer before the last token of the span; its logit is
            the sum of the logits (or differences) of the span, which scores, baseline and constants add up to.

        Raises:
            TypeError: An argument is of the wrong kind, or there are several prompts.
            ValueError: As in `explain_generation`; or the answer has no such span, or none of it comes before the span
                that hops could pass on.

        Example:
            >>> from transformers import AutoModelForCausalLM, AutoTokenizer
            >>> from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
            >>> name = "HuggingFaceTB/SmolLM2-135M-Instruct"
            >>> model = get_bcos_model(AutoModelForCausalLM.from_pretrained(name), BcosConfig())
            >>> explainer = BcosExplainer(model, AutoTokenizer.from_pretrained(name))
            >>> explanation = explainer.explain_span("The film was", " short, so it was good.", span=" good.", hops=1)
            >>> explanation.target_label
            ' good.'

        Source: B-cos LM (arXiv 2502.12992), section 3; hops over a reasoning: FlashTrace (arXiv 2602.01914).
        """
        self._check_causal("explain_span")
        _check_contrast(contrast)
        if hops < 0:
            raise ValueError(f"hops must be 0 or more, got {hops}.")
        written = self._read_answer(prompt, completion, messages, chat_template_kwargs)
        start, stop = _place(span, written)
        if hops and not start:
            raise ValueError(
                f"hops={hops} passes on what the answer before the span received, and the span begins with it: give "
                "a span that begins later, or leave hops out."
            )
        begin = written.prompt_length
        foils = contrast
        if foil is not None:
            before = _before_span(written, begin + start)
            answer = written.token_ids[begin + start : begin + stop]
            foils = _read_foils(foil, "foil", before, answer, self.tokenizer, self.labels)
        result = attribute_span(
            self.model,
            torch.tensor(written.token_ids[: begin + stop], device=self.bcos_model.device),
            (begin + start, begin + stop),
            foils,
            hops,
            answer_start=begin,
            # What starts an answer is no part of the source.
            source=begin - 1 if writes_answers(self.bcos_model) else None,
            baseline=self.baseline,
        )
        predicted = int(result.predicted[0])
        others = [row[0] for row in result.foils] if all(result.foils) else None
        named = {*written.token_ids[begin + start : begin + stop], predicted, *(others or [])[:1]}
        return _explain_together(
            written,
            start,
            stop,
            labels={token: self.labels.name(token, written.token_ids[:begin]) for token in named},
            foils=others,
            against="" if foil is None else "the foils",
            predicted=predicted,
            scores=result.scores[0].cpu().double().numpy(),
            logit=float(result.logit),
            probability=float(result.probability.double().prod()),
            baseline=None if result.baseline is None else float(result.baseline),
            constants=None if result.constants is None else float(result.constants),
            stayed=None if result.stayed is None else float(result.stayed),
            note=result.note,
        )

    def _read_answer(
        self, prompt: Any, completion: Any, messages: Any, template: Mapping | None
    ) -> _Written | GenerationExplanation:
        if isinstance(prompt, GenerationExplanation):
            if completion is not None or messages is not None or template is not None:
                raise ValueError("A GenerationExplanation has its prompt and answer: give nothing but span with it.")
            return prompt
        prompts, single = self._prompts(prompt, messages, template)
        if not single:
            raise TypeError(f"explain_span explains one answer at a time, got {len(prompts)} prompts.")
        answer = _read_completion(completion, "completion", prompts[0], self.tokenizer, self.labels)
        return _written(prompts[0], answer, self.tokenizer)


def _place(span: Any, written: _Written | GenerationExplanation) -> tuple[int, int]:
    """The first token of a span and one past the last, counted in the answer."""
    begin = written.prompt_length
    count = len(written.token_ids) - begin
    if span is None:
        return 0, count
    if isinstance(span, str):
        offsets = written.offsets[begin:]
        low = min((place[0] for place in offsets if place is not None), default=len(written.text))
        found = written.text.count(span, low) if span else 0
        if found != 1:
            raise ValueError(f"span={span!r} occurs {found} times in the answer, not once; give its tokens instead.")
        at = written.text.index(span, low)
        inside = shares(written.text, offsets, [(at, at + len(span))])[0].nonzero()[0]
        if not len(inside):
            raise ValueError(f"span={span!r} holds no token of the answer, only space between tokens.")
        return int(inside[0]), int(inside[-1]) + 1
    if len(span) != 2 or not all(isinstance(end, Integral) and not isinstance(end, bool) for end in span):
        raise TypeError(f"span must be two numbers of tokens, (start, stop), or a text of the answer, got {span!r}.")
    start, stop = (int(end) for end in span)
    if not 0 <= start < stop <= count:
        raise ValueError(f"span={tuple(span)} is empty or lies outside the {count} tokens of the answer.")
    return start, stop


def _before_span(written: _Written | GenerationExplanation, end: int) -> _Prompt:
    """What the span follows, as a prompt that foils follow."""
    place = written.offsets[end]
    text = written.text if place is None else written.text[: place[0]]
    return _Prompt(Encoding(written.token_ids[:end], text, [], [], []), {})
