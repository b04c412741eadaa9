"""What `BcosExplainer` does with causal language models: the next token, and whole generated texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.attribution import attribute_sequence, is_causal_lm
from bcos_peft.explanation.decoding import _as_list, _continuations
from bcos_peft.explanation.explanation import Explanation
from bcos_peft.explanation.generation import _ANSWER, GenerationExplanation
from bcos_peft.explanation.prompts import _Prompt, _read_prompts
from bcos_peft.explanation.targets import _RUNNER_UP, _check_contrast, _read_completion, _read_foils, _read_targets
from bcos_peft.text import special_ids, spell_on


_OURS = ("input_ids", "inputs", "inputs_embeds", "attention_mask")


class _GenerationExplainer:
    """The part of [`BcosExplainer`] that explains causal language models: `explain`, `generate`, `explain_generation`.

    Example:
        >>> from bcos_peft import BcosExplainer
        >>> issubclass(BcosExplainer, _GenerationExplainer)
        True
    """

    @checked_arguments
    def explain(
        self,
        prompt: Any = None,
        *,
        messages: Sequence | None = None,
        target: int | str | Sequence[int | str] | None = None,
        foil: int | str | Sequence[int | str] | None = None,
        contrast: str | None = _RUNNER_UP,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Explanation | list[Explanation]:
        """Explain what a causal language model says next.

        Args:
            prompt: A text, token ids, or a list of these.
            messages (`list[dict]`, *optional*): Instead of a prompt a conversation, `[{"role": "user", "content":
                "..."}]`, or a list of conversations, which the tokenizer's chat template writes. A last message of the
                assistant is gone on with.
            target (`int`, `str` or a list of these, *optional*):
                What to explain. A string of one token, or its id: the logit of that next token. A string of several
                tokens: the sum of the logits along it, each explained where the model would say it, given the tokens
                before (which then have contributions as well). A list: alternatives of one token each, whose
                contributions add. Default: what the model predicts.
            foil (`int`, `str` or a list of these, *optional*): Explain the target against this token; against several,
                each target is compared with their mean.
            contrast (`"runner_up"`, *optional*): Without a foil, what to compare with: the largest logit that is no
                target. `None` explains the plain logit, as calling the explainer does.
            chat_template_kwargs (`dict`, *optional*): Further arguments of the chat template, such as `tools`.

        Returns:
            [`Explanation`]; a list of them for several prompts. That of a chat has the messages as `segments`.

        Raises:
            TypeError: The prompt, the messages or a target is of the wrong kind.
            ValueError: The model is no causal language model, a prompt is empty or too long, the tokenizer has no chat
                template, or a target or foil does not exist or fit. Nothing was computed.

        Example:
            >>> from transformers import AutoModelForCausalLM, AutoTokenizer
            >>> from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
            >>> name = "HuggingFaceTB/SmolLM2-135M-Instruct"
            >>> model = get_bcos_model(AutoModelForCausalLM.from_pretrained(name), BcosConfig())
            >>> explainer = BcosExplainer(model, AutoTokenizer.from_pretrained(name))
            >>> explanation = explainer.explain("This is", target=" the", foil=" a")
            >>> abs(explanation.residual) < 1e-3
            True

        Source: B-cos LM (arXiv 2502.12992), section 3; contrastive form: Yin & Neubig (arXiv 2202.10419).
        """
        self._check_causal("explain")
        _check_contrast(contrast)
        wanted, several = _read_targets(target, self.tokenizer, self.labels)
        others = None if foil is None else [self.labels.index(one, "foil") for one in _as_list(foil, "foil")]
        if several and others is not None:
            raise ValueError(
                f"target={target!r} is {len(wanted)} tokens, and a foil is compared with one. Leave the foil out "
                "(each token is compared with its runner-up), or explain the first token against it."
            )
        if others is not None and wanted is not None and (both := {*others} & {*wanted}):
            raise ValueError(f"foil equals target (both have {self.labels.name(both.pop())!r}): nothing to explain.")
        prompts, single = self._prompts(prompt, messages, chat_template_kwargs)
        found = []
        for one in prompts:
            if several:
                found.append(self._sequence(one, wanted, contrast).summed())
            else:
                found.append(self._next_token(one, wanted, contrast if others is None else [others]))
        return found[0] if single else found

    @checked_arguments
    def generate(
        self,
        prompt: Any = None,
        *,
        messages: Sequence | None = None,
        contrast: str | None = _RUNNER_UP,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **generate_kwargs,
    ) -> GenerationExplanation | list:
        """Generate a text, and explain each of its tokens by all tokens before it.

        The text is made as `model.generate` makes it, with any decoding strategy; then the finished sequence is
        explained in one forward pass and batched backward passes, with memory linear in its length.

        Args:
            prompt: A text, token ids, or a list of these.
            messages (`list[dict]`, *optional*): Instead of a prompt a conversation or a list of them, as in `explain`.
            contrast (`"runner_up"`, *optional*): Explain each token against the token with the next largest logit (the
                largest, where sampling took another one). `None` explains its plain logit.
            chat_template_kwargs (`dict`, *optional*): Further arguments of the chat template.
            **generate_kwargs: For `model.generate`: `max_new_tokens`, `num_beams`, `do_sample`, ...

        Returns:
            [`GenerationExplanation`]; a list for several prompts; with `num_return_sequences` above 1 a list in the
            place of each.

        Raises:
            TypeError: The prompt or the messages are of the wrong kind.
            ValueError: The model is no causal language model, a prompt is empty or too long, there is no chat
                template, or an argument of `generate` would replace the prompt.

        Example:
            >>> from transformers import AutoModelForCausalLM, AutoTokenizer
            >>> from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
            >>> name = "HuggingFaceTB/SmolLM2-135M-Instruct"
            >>> model = get_bcos_model(AutoModelForCausalLM.from_pretrained(name), BcosConfig())
            >>> explainer = BcosExplainer(model, AutoTokenizer.from_pretrained(name))
            >>> explanation = explainer.generate("The film was", max_new_tokens=3, min_new_tokens=3)
            >>> len(explanation), explanation.scores.shape[0]
            (3, 3)
        """
        self._check_causal("generate")
        _check_contrast(contrast)
        if given := [name for name in _OURS if name in generate_kwargs]:
            raise ValueError(
                f"{given[0]} cannot be given to generate: pass the prompt itself, as text or as token ids."
            )
        prompts, single = self._prompts(prompt, messages, chat_template_kwargs)
        found: list = []
        for start in range(0, len(prompts), self.batch_size):
            some = prompts[start : start + self.batch_size]
            for one, answers in zip(
                some, _continuations(self.bcos_model, self.tokenizer, some, generate_kwargs), strict=True
            ):
                explained = [self._sequence(one, answer, contrast) for answer in answers]
                found.append(explained if len(explained) > 1 else explained[0])
        return found[0] if single else found

    @checked_arguments
    def explain_generation(
        self,
        prompt: Any = None,
        completion: str | Sequence | None = None,
        *,
        messages: Sequence | None = None,
        foil: int | str | Sequence[int | str] | None = None,
        contrast: str | None = _RUNNER_UP,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> GenerationExplanation | list[GenerationExplanation]:
        """Explain each token of a text that exists, as if the model had generated it.

        Args:
            prompt: A text, token ids, or a list of these.
            completion (`str` or `list[int]`): What comes after it, as text or token ids; a list of them for several
                prompts.
            messages (`list[dict]`, *optional*): Instead of a prompt a conversation or a list of them, as in `explain`.
            foil (`int`, `str` or a list of these, *optional*): A token that each one is compared with, or a list with
                one for each token of the completion (for a single prompt).
            contrast (`"runner_up"`, *optional*): Without a foil, what to compare with; see `generate`.
            chat_template_kwargs (`dict`, *optional*): Further arguments of the chat template.

        Returns:
            [`GenerationExplanation`], or a list of them.

        Raises:
            TypeError: An argument is of the wrong kind.
            ValueError: As in `generate`; or the completion is empty, or a foil is what it is compared with.

        Example:
            >>> from transformers import AutoModelForCausalLM, AutoTokenizer
            >>> from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
            >>> name = "HuggingFaceTB/SmolLM2-135M-Instruct"
            >>> model = get_bcos_model(AutoModelForCausalLM.from_pretrained(name), BcosConfig())
            >>> explainer = BcosExplainer(model, AutoTokenizer.from_pretrained(name))
            >>> explainer.explain_generation("The film was", " good.").answer
            ' good.'
        """
        self._check_causal("explain_generation")
        _check_contrast(contrast)
        prompts, single = self._prompts(prompt, messages, chat_template_kwargs)
        if not single and isinstance(completion, str):
            raise TypeError(f"completion must be a list of {len(prompts)}, one for each prompt, got {completion!r}.")
        completions = [completion] if single else list(completion or [])
        if len(completions) != len(prompts):
            raise ValueError(
                f"completion has {len(completions)} entries for {len(prompts)} prompts; give one for each."
            )
        if foil is not None and not single:
            raise ValueError("foil goes with a single prompt; explain several one by one.")
        answers = [
            _read_completion(*row, self.tokenizer, self.labels) for row in zip(completions, prompts, strict=True)
        ]
        against = contrast if foil is None else _read_foils(foil, answers[0], self.labels)
        found = [self._sequence(*row, against) for row in zip(prompts, answers, strict=True)]
        return found[0] if single else found

    # ---- prompts ----------------------------------------------------------------------------------------------------

    def _check_causal(self, method: str) -> None:
        if not is_causal_lm(self.bcos_model):
            raise ValueError(
                f"{method} needs a causal language model, and {type(self.bcos_model).__name__} is none. Call the "
                "explainer itself to explain what this model predicts."
            )

    def _prompts(self, prompt: Any, messages: Any, template: Mapping | None) -> tuple[list[_Prompt], bool]:
        return _read_prompts(prompt, messages, self.tokenizer, self._max_length(), template)

    # ---- explaining -------------------------------------------------------------------------------------------------

    def _next_token(self, prompt: _Prompt, targets: list[int] | None, foils: Any) -> Explanation:
        encoding = prompt.encoding
        ids, last = torch.tensor(encoding.input_ids, device=self.bcos_model.device), len(encoding.input_ids) - 1
        result = attribute_sequence(self.model, ids, [last], [targets], foils, baseline=self.baseline)
        targets, foils = result.targets[0], result.foils[0]
        predicted = int(result.predicted[0])
        return Explanation(
            tokens=self.tokenizer.convert_ids_to_tokens(encoding.input_ids),
            scores=result.scores[0].cpu().double().numpy(),
            text=encoding.text,
            offsets=encoding.offsets,
            sequence_ids=encoding.sequence_ids,
            special=encoding.special,
            token_ids=encoding.input_ids,
            target=targets[0],
            target_label=self._names(targets),
            predicted=predicted,
            predicted_label=self.labels.name(predicted),
            logit=float(result.logit[0]),
            probability=float(result.probability[0]),
            foil=foils[0] if foils else None,
            foil_label=self._names(foils) if foils else None,
            position=last,
            segments=prompt.segments or None,  # of messages without text there are none
            target_ids=targets if len(targets) > 1 else None,
            foil_ids=foils if len(foils) > 1 else None,
            baseline=None if result.baseline is None else float(result.baseline[0]),
        )

    def _names(self, tokens: list[int]) -> str:
        return " | ".join(self.labels.name(token) for token in tokens)

    def _sequence(self, prompt: _Prompt, answer: list[int], foils: Any) -> GenerationExplanation:
        before = prompt.encoding.input_ids
        ids = [*before, *answer]
        result = attribute_sequence(
            self.model,
            torch.tensor(ids[:-1], device=self.bcos_model.device),
            range(len(before) - 1, len(ids) - 1),
            [[token] for token in answer],
            foils,
            self.batch_size,
            self.baseline,
        )
        text, spans = spell_on(before, answer, self.tokenizer)
        start = len(prompt.text)
        special = special_ids(self.tokenizer)
        shown = [span for span, token in zip(spans, answer, strict=True) if token not in special and span[0] < span[1]]
        segments = dict(prompt.segments)
        if shown:
            segments[_ANSWER] = (start + shown[0][0], start + shown[-1][1])
        predicted = result.predicted.tolist()
        foils = [row[0] for row in result.foils] if all(result.foils) else None
        return GenerationExplanation(
            text=prompt.text + text,
            tokens=self.tokenizer.convert_ids_to_tokens(ids),
            token_ids=ids,
            offsets=[*prompt.encoding.offsets, *((low + start, high + start) for low, high in spans)],
            special=[*prompt.encoding.special, *(token in special for token in answer)],
            prompt_length=len(before),
            scores=[row[: len(before) + i] for i, row in enumerate(result.scores.cpu().double().numpy())],
            logits=result.logit.cpu().double().numpy(),
            probabilities=result.probability.cpu().double().numpy(),
            predicted=predicted,
            labels={token: self.labels.name(token) for token in {*answer, *predicted, *(foils or [])}},
            foils=foils,
            segments=segments or None,
            baselines=None if result.baseline is None else result.baseline.cpu().double().numpy(),
        )
