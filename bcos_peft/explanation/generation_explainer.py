"""What `BcosExplainer` does with causal language models: the next token, and whole generated texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.attribution import attribute_answer, attribute_sequences, is_causal_lm, writes_answers
from bcos_peft.explanation.decoding import _continuations, _start_of_answers
from bcos_peft.explanation.explanation import Explanation
from bcos_peft.explanation.generation import GenerationExplanation
from bcos_peft.explanation.prompts import _as_source, _Prompt, _read_prompts
from bcos_peft.explanation.sequences import _batches_of, _explained, _Task
from bcos_peft.explanation.targets import (
    _RUNNER_UP,
    Alternatives,
    _check_contrast,
    _check_pair,
    _for_each,
    _read_completion,
    _read_foil,
    _read_foils,
    _read_target,
)


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
        target: int | str | Alternatives | Sequence | None = None,
        foil: int | str | Alternatives | Sequence | None = None,
        contrast: str | None = _RUNNER_UP,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Explanation | list[Explanation]:
        """Explain what a causal language model says next.

        Args:
            prompt: A text, token ids, or a list of these.
            messages (`list[dict]`, *optional*): Instead of a prompt a conversation, `[{"role": "user", "content":
                "..."}]`, or a list of conversations, which the tokenizer's chat template writes. A content is a text,
                a list of parts of text, or None. A last message of the assistant is gone on with.
            target (`int`, `str`, [`Alternatives`] or a list of these, *optional*):
                What to explain, for all prompts, or in a list for each. A string is what follows the prompt, with its
                space in front if it has one. If it is one token, or a token's id is given: the logit of that next
                token. A string of several tokens: the sum of the logits along it, each explained where the model would
                say it, given the tokens before (which then have contributions as well). `Alternatives(a, b)`, or a
                list in the list: tokens whose contributions add. Default (`None`, also in a list): what the model
                predicts.
            foil (`int`, `str`, [`Alternatives`] or a list of these, *optional*): Explain the target against this
                token, for all prompts or for each; against several, each target is compared with their mean.
            contrast (`"runner_up"`, *optional*): Without a foil, what to compare with: the largest logit that is no
                target. `None` explains the plain logit, as calling the explainer does.
            chat_template_kwargs (`dict`, *optional*): Further arguments of the chat template, such as `tools`.

        Returns:
            [`Explanation`]; a list of them for several prompts. That of a chat has the messages as `segments`.

        Raises:
            TypeError: The prompt, the messages or a target is of the wrong kind.
            ValueError: The model is no causal language model, a prompt is empty or too long, the tokenizer has no chat
                template, or a target or foil does not exist or fit, or cannot follow its prompt. Nothing was computed.

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
        prompts, single = self._prompts(prompt, messages, chat_template_kwargs)
        tasks = []
        targets, foils = (_for_each(v, n, len(prompts)) for v, n in ((target, "target"), (foil, "foil")))
        for one, wanted, other in zip(prompts, targets, foils, strict=True):
            ids, several = _read_target(wanted, "target", one, self.labels)
            others = _read_foil(other, "foil", one, self.labels)
            _check_pair(wanted, ids, several, others, self.labels)
            if several:
                tasks.append(_Task(one, answer=ids, foils=contrast))
            else:
                tasks.append(_Task(one, targets=ids, foils=contrast if others is None else [others]))
        found = [one.summed() if task.answer else one for task, one in zip(tasks, self._explain(tasks), strict=True)]
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
        _check_contrast(contrast, "; explain_generation compares with tokens of your own")
        if given := [name for name in _OURS if name in generate_kwargs]:
            raise ValueError(
                f"{given[0]} cannot be given to generate: pass the prompt itself, as text or as token ids."
            )
        prompts, single = self._prompts(prompt, messages, chat_template_kwargs)
        found: list = []
        starts = list(range(0, len(prompts), self.batch_size))
        for start in self._progress(starts):
            some = prompts[start : start + self.batch_size]
            answers = _continuations(self.bcos_model, self.tokenizer, some, generate_kwargs)
            tasks = [
                _Task(one, answer=answer, foils=contrast)
                for one, several in zip(some, answers, strict=True)
                for answer in several
            ]
            explained = iter(self._explain(tasks, together=False, shown=False))
            for several in answers:
                row = [next(explained) for _ in several]
                found.append(row if len(row) > 1 else row[0])
        return found[0] if single else found

    @checked_arguments
    def explain_generation(
        self,
        prompt: Any = None,
        completion: str | Sequence | None = None,
        *,
        messages: Sequence | None = None,
        foil: int | str | Sequence | None = None,
        contrast: str | None = _RUNNER_UP,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> GenerationExplanation | list[GenerationExplanation]:
        """Explain each token of a text that exists, as if the model had generated it.

        Args:
            prompt: A text, token ids, or a list of these.
            completion (`str` or `list[int]`): What comes after it, as text (with its space in front, if it has one)
                or token ids; a list of them for several prompts.
            messages (`list[dict]`, *optional*): Instead of a prompt a conversation or a list of them, as in `explain`.
            foil (`int`, `str` or a list of these, *optional*): A token that each one is compared with, or a list with
                one for each token of the completion; for several prompts, one of these for all or in a list for each.
            contrast (`"runner_up"`, *optional*): Without a foil, what to compare with; see `generate`.
            chat_template_kwargs (`dict`, *optional*): Further arguments of the chat template.

        Returns:
            [`GenerationExplanation`], or a list of them.

        Raises:
            TypeError: An argument is of the wrong kind.
            ValueError: As in `generate`; or the completion is empty or no tokens spell it after the prompt, or a foil
                is what it is compared with.

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
        foils = [foil] if single else _for_each(foil, "foil", len(prompts), lists=True)
        tasks = []
        for i, (one, written, other) in enumerate(zip(prompts, completions, foils, strict=True)):
            name = "completion" if single else f"completion[{i}]"
            answer = _read_completion(written, name, one, self.tokenizer, self.labels)
            if other is not None:
                other = _read_foils(other, "foil", one, answer, self.tokenizer, self.labels)
            tasks.append(_Task(one, answer=answer, foils=contrast if other is None else other))
        found = self._explain(tasks, together=False)
        return found[0] if single else found

    # ---- prompts ----------------------------------------------------------------------------------------------------

    def _check_causal(self, method: str) -> None:
        if not is_causal_lm(self.bcos_model) and not writes_answers(self.bcos_model):
            raise ValueError(
                f"{method} needs a causal language model, or an encoder-decoder that writes, and "
                f"{type(self.bcos_model).__name__} is neither. Call the explainer itself to explain what this model "
                "predicts."
            )

    def _prompts(self, prompt: Any, messages: Any, template: Mapping | None) -> tuple[list[_Prompt], bool]:
        prompts, single = _read_prompts(prompt, messages, self.tokenizer, self._max_length(), template)
        if writes_answers(self.bcos_model):
            prompts = [_as_source(one, _start_of_answers(self.bcos_model)) for one in prompts]
        return prompts, single

    # ---- explaining -------------------------------------------------------------------------------------------------

    def _explain(self, tasks: list[_Task], together: bool = True, shown: bool = True) -> list:
        """Explanations of tasks, which share batches; those of whole answers have one each, for all of its tokens."""
        found: list = [None] * len(tasks)
        if writes_answers(self.bcos_model):
            for i in self._progress(list(range(len(tasks)))) if shown else range(len(tasks)):
                found[i] = _explained(tasks[i], self._attribute_answer(tasks[i]), self.tokenizer, self.labels)
            return found
        batches = _batches_of(tasks, self.batch_size if together else 1, self.bcos_model.device)
        for batch in self._progress(batches) if shown else batches:
            some = [tasks[i] for i in batch]
            results = attribute_sequences(
                self.model,
                [torch.tensor(task.ids, device=self.bcos_model.device) for task in some],
                [task.places for task in some],
                [task.wanted for task in some],
                [task.foils for task in some],
                self.batch_size,
                self.baseline,
            )
            for i, task, result in zip(batch, some, results, strict=True):
                found[i] = _explained(task, result, self.tokenizer, self.labels)
        return found

    def _attribute_answer(self, task: _Task):
        ids = torch.tensor(task.ids, device=self.bcos_model.device)
        source, prefix = ids[: task.prompt.source], ids[task.prompt.source :]
        return attribute_answer(self.model, source, prefix, task.wanted, task.foils, self.baseline)
