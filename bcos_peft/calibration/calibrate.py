"""Calibrated conversion: a model becomes a B-cos model block by block, and each layer is fitted to what the stock
layer gave, on the inputs that the converted layers below it really give.

Source: section 4 of B-cos LM (arXiv 2502.12992) leaves the way back to training; what is done here instead is in the
guide 'Calibration'.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcos_peft.attribution import named_outputs
from bcos_peft.calibration.block_fit import _BlockFit
from bcos_peft.calibration.blocks import _find_blocks, _layers_outside, _Stage
from bcos_peft.calibration.distill import _Distillation
from bcos_peft.calibration.embeddings import _Embeddings
from bcos_peft.calibration.fit import _is_trained, _LayerFits, _Weights
from bcos_peft.calibration.passes import _Passes
from bcos_peft.calibration.report import _predictions, _report
from bcos_peft.calibration.running import _Capture, _is_language_model, _modes, _without_cache
from bcos_peft.calibration.scale import _PredictionScale
from bcos_peft.calibration.texts import _gather
from bcos_peft.config import BcosConfig
from bcos_peft.families import Family
from bcos_peft.models import Plan, apply_plan, sub_plan
from bcos_peft.nn import quantized_class


class Calibration:
    """One calibrated conversion. `get_bcos_model` calls `convert_blocks`, gives the model its class, and calls
    `convert_heads`.

    Args:
        model ([`~transformers.PreTrainedModel`]): the stock model.
        plan (`Plan`): what the conversion does.
        config ([`BcosConfig`]): its `calibration` says how.
        family ([`Family`]): the model's table.
        rows (`list[dict]`): token ids, from `calibration_rows`.
        progress (`bool`): show a progress bar.
        pool (`torch.nn.Module`, *optional*): of a model for embeddings, what makes them of hidden states.

    Raises:
        ValueError: a model that has no blocks, or no weights here.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> texts = torch.randint(1000, (20, 8), generator=torch.Generator().manual_seed(0)).tolist()
        >>> model = get_bcos_model(BertForSequenceClassification(small), BcosConfig(), calibration_data=texts)
        >>> model.bcos_config.calibration_report["texts"]
        20
    """

    def __init__(
        self,
        model: PreTrainedModel,
        plan: Plan,
        config: BcosConfig,
        family: Family,
        rows,
        progress: bool,
        pool: nn.Module | None = None,
    ):
        if any(parameter.is_meta for parameter in model.parameters()):
            raise ValueError(
                "calibration_data was given, but weights of the model are on the meta device or offloaded. Load the "
                "model onto devices that hold all of it, or convert it without calibration_data."
            )
        self.model, self.plan, self.config, self.family = model, plan, config, family
        self.dtype = torch.promote_types(model.dtype, torch.float32)
        self.blocks = _find_blocks(model)
        self.texts = _gather(model, rows, config.calibration_replay)
        self.passes = _Passes(model, family, self.texts.rows)
        self.batches = self.passes.batches(self.texts.fitted)
        self.outside = _layers_outside(model, plan, self.blocks, family)
        self.activations = {name.rpartition(".")[0]: model.get_submodule(name) for name in plan.dropped_activations}
        language = _is_language_model(model)
        epochs = config.epochs(language) if config.calibration == "auto" else 0
        self.pool, self.distillation = pool, None
        if epochs and language:
            self.distillation = _Distillation(model, self.passes, self.texts, epochs)
        elif epochs and pool is not None:
            self.distillation = _Embeddings(model, self.passes, self.texts, epochs, pool)
        self.progress = progress
        self.weights = _Weights(model)
        self.layers = _LayerFits(model, self.weights, config.calibration, self.dtype)
        # Blocks of language models hardly come closer on held-out text. Their predictions say more to learn from.
        block_epochs = 0 if language else epochs
        self.block_fit = _BlockFit(
            model, plan, config, self.blocks, self.texts, self.passes, self.layers, self.weights, block_epochs
        )
        self.refined = self.block_fit.refined
        # Adapters of quantised models carry gains, and no norms.
        quantised = any(map(quantized_class, model.modules()))
        self.scale = _PredictionScale(model) if language and not quantised else None

    def convert_blocks(self) -> list[Callable[[], None]]:
        """Convert and fit everything up to the last block.

        Returns:
            Functions that undo it, to be called in reverse order.
        """
        undo: list[Callable[[], None]] = [self.weights.restore]
        restore_modes = _modes(self.model)
        undo.append(restore_modes)
        try:
            self.model.eval()
            with torch.no_grad(), named_outputs(self.model.config), _without_cache(self.model.config):
                read = self._told_predictions
                self.before = self.scale.record(read) if self.scale else read()
                stock = self._run_all(self.distillation)
                self.wanted = stock.outputs
                before = [name for name in self.outside if name in stock.before_blocks]
                undo.append(apply_plan(self.model, sub_plan(self.plan, None, list(self.blocks)), self.config))
                self._fit_outside(before)
                mine = self._run_all()
                for name in self._progress(self.blocks):
                    if name in stock.entering:
                        stock.hidden = stock.entering.pop(name)
                        if self.family.seq2seq:  # what a decoder reads of the encoder is another thing by now
                            mine = self._run_all()
                        mine.hidden = [self.passes.input_of(self.blocks[name], members) for members in self.batches]
                    undo.append(self.block_fit.convert(name, stock, mine))
        except BaseException:
            for step in reversed(undo):
                step()
            raise
        restore_modes()
        return undo

    def convert_heads(self) -> None:
        """Fit the layers after the last block, once the model has its class, and write the report."""
        learnt = None
        restore_modes = _modes(self.model)
        try:
            self.model.eval()
            with torch.no_grad(), named_outputs(self.model.config), _without_cache(self.model.config):
                self._fit_outside([name for name in self.outside if name not in self.layers.found])
                if self.distillation:
                    modules = map(self.model.get_submodule, self.layers.found)
                    layers = [module for module in modules if _is_trained(module)]
                    learnt = self.distillation.learn(layers, self.progress)
                factor = self._fit_scale()
                after = self._told_predictions()
        finally:
            restore_modes()
        given, count = self.texts.given, len(self.texts.rows)
        read = {"texts": given, "tokens": self.texts.tokens(0, given)}
        read["replayed_tokens"] = self.texts.tokens(given, count)
        if self.refined:
            read["refinement"] = sum(self.refined) / len(self.refined)
        if learnt is not None:
            read["distillation" if self.pool else "refinement"] = learnt
        self.config.calibration_report = _report(
            self.config.calibration, read, self.before, after, self.layers.found, factor
        )

    def _fit_scale(self) -> float | None:
        if self.scale is None:
            return None
        mask = torch.cat([self.passes.mask(members).flatten() for members in self._told_batches()])
        found = self.scale.fit(self._told_predictions, mask)
        if found is None:
            return None
        norm, factor = found
        self.weights.save({name: module for name, module in self.model.named_modules() if module is norm})
        norm.scale_output(factor)
        return factor

    def _chooses(self, counts: list[int]) -> Tensor:
        return self.passes.tokens_of(self.texts.chooses, self.batches, counts)

    def _told_batches(self) -> list[list[int]]:
        return self.passes.batches(sorted(self.texts.told))

    def _told_predictions(self):
        batches = map(self.passes.collate, self._told_batches())
        return _predictions(self.model, batches, causal=self.family.causal, pool=self.pool)

    def _run_all(self, distillation: _Distillation | _Embeddings | None = None) -> _Stage:
        """One pass over the data: what feeds the first block, what else every block is called with, and the outputs
        of the layers outside."""
        stage = _Stage(self.model, self.blocks, self.outside)
        for members in self.batches:
            with stage:
                output = self.passes.forward(self.passes.collate(members))
            if distillation:
                distillation.record(members, output)
            stage.outputs_to(lambda value, members=members: self.passes.flat(members, value, pooled=True))
        return stage

    def _fit_outside(self, names: list[str]) -> None:
        names = [name for name in names if self.wanted.get(name)]
        if not names:
            return
        modules = {name: self.model.get_submodule(name) for name in names}
        with _Capture(outputs=modules) as capture:
            self.passes.forward(self.passes.collate(self.batches[0]))
        for group in capture.groups():
            x = []
            for members in self.batches:
                x.append(self.passes.flat(members, self.passes.input_of(modules[group[0]], members), pooled=True))
            counts = [len(part) for part in x]
            targets = {}
            for name in group:
                target = torch.cat(self.wanted[name]).to(self.dtype)
                parent = name.rpartition(".")[0]
                if parent in self.activations:  # the layer stands for itself and the activation that is gone
                    target = self.activations[parent](target)
                targets[name] = target, None
            x = torch.cat(x).to(self.dtype)
            self.layers.fit(x, targets, self._chooses(counts).to(x.device))

    def close(self) -> None:
        """Forget the old weights."""
        self.weights.close()

    def _progress(self, blocks):
        if not self.progress:
            return blocks
        from tqdm.auto import tqdm

        return tqdm(blocks, desc="Calibrating", unit="block")
