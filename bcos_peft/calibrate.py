"""Calibrated conversion: a model becomes a B-cos model block by block, and each layer is fitted to what the stock
layer gave, on the inputs that the converted layers below it really give.

Source: section 4 of B-cos LM (arXiv 2502.12992) leaves the way back to training; what is done here instead is in the
guide 'Calibration'.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcos_peft.calibration_blocks import Capture, Stage, find_blocks, modes, repairs, run_block, wait_for
from bcos_peft.calibration_data import collate, into_batches, replay
from bcos_peft.calibration_report import is_language_model, predictions, report
from bcos_peft.config import BcosConfig
from bcos_peft.families.base import Family
from bcos_peft.families.conv1d import BcosConv1D
from bcos_peft.families.moe import BcosExperts
from bcos_peft.layers import BcosLayer
from bcos_peft.least_squares import Fit, Layer, fit_experts, fit_layers
from bcos_peft.structure import Plan, apply_plan, matches_any, sub_plan


__all__ = ["Calibration"]


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

    Raises:
        ValueError: a model whose blocks cannot be run one after the other, or that has no weights here.

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

    def __init__(self, model: PreTrainedModel, plan: Plan, config: BcosConfig, family: Family, rows, progress: bool):
        if any(parameter.is_meta for parameter in model.parameters()):
            raise ValueError(
                "calibration_data was given, but weights of the model are on the meta device or offloaded. Load the "
                "model onto devices that hold all of it, or convert it without calibration_data."
            )
        self.model, self.plan, self.config, self.family = model, plan, config, family
        self.dtype = torch.promote_types(model.dtype, torch.float32)
        self.blocks = find_blocks(model)
        # A tenth of the texts only tells how well it went; of the rest, a fifth chooses the strength of each fit.
        self.told = set(range(9, len(rows), 10)) or {len(rows) - 1}
        self.rows, self.texts = rows, len(rows)
        fitted = [i for i in range(len(rows)) if i not in self.told]
        self.chooses = set(fitted[::5])
        if is_language_model(model) and config.calibration_replay:
            own = self._replay()
            mine = range(len(self.rows), len(self.rows) + len(own))
            self.rows = [*rows, *own]
            fitted += mine
            self.chooses.update(mine[::5])
        self.batches = [[fitted[i] for i in batch] for batch in self._batches(fitted)]
        self.outside = self._outside()
        self.activations = {name.rpartition(".")[0]: model.get_submodule(name) for name in plan.dropped_activations}
        self.fits: dict[str, Fit] = {}
        self.progress = progress
        self._saved = tempfile.TemporaryDirectory(prefix="bcos-calibration-")
        self._files: list[Path] = []
        self._gained: list[nn.Module] = []
        # On some CPUs the first prediction would round 4-bit weights again.
        self._packing = [m for m in model.modules() if getattr(m, "support_avx512bf16_for_cpu", False)]
        for module in self._packing:
            module.support_avx512bf16_for_cpu = False

    def _replay(self) -> list[dict[str, list]]:
        restore_modes = modes(self.model)
        self.model.eval()
        try:
            with torch.no_grad():
                return replay(self.model, self.config.calibration_replay)
        finally:
            restore_modes()

    def _batches(self, members: list[int]) -> list[list[int]]:
        rows = [self.rows[i] for i in members]
        if self.model.config.pad_token_id is None and self._pools_last():  # stock classifiers refuse padding then
            return [[i] for i in range(len(rows))]
        return into_batches(rows)

    def _pools_last(self) -> bool:
        return self.family.causal and "ForSequenceClassification" in type(self.model).__name__

    def _outside(self) -> list[str]:
        """Linear layers that are in no block, but for language-modelling heads, which are never fitted."""
        embedded = {id(m.weight) for m in self.model.modules() if isinstance(m, nn.Embedding)}
        return [
            name
            for name in (*self.plan.bcos, *self.plan.plain)
            if not any(name.startswith(block + ".") for block in self.blocks)
            and not matches_any(self.family.lm_heads, name)
            and id(getattr(self.model.get_submodule(name), "weight", None)) not in embedded
        ]

    # The forward passes.

    def _collate(self, members: list[int]) -> dict[str, Tensor]:
        device = self.model.get_input_embeddings().weight.device
        return collate([self.rows[i] for i in members], self.model.config.pad_token_id or 0, device)

    def _forward(self, batch: dict[str, Tensor]):
        extra = {"use_cache": False} if self.family.causal else {}
        # The logits of a language model are large, and no layer waits for them.
        return (self.model.base_model if is_language_model(self.model) else self.model)(**batch, **extra)

    def _input_of(self, module: nn.Module, members: list[int]) -> Tensor:
        return wait_for(self._forward, module, set(), (self._collate(members),), {})[0]

    def _mask(self, members: list[int], last: bool = False) -> Tensor:
        mask = self._collate(members)["attention_mask"].bool()
        if last:
            final = mask.sum(1, keepdim=True) - 1
            return torch.arange(mask.shape[1], device=mask.device) == final
        return mask

    def _flat(self, members: list[int], value: Tensor, last: bool = False) -> Tensor:
        """`(tokens, width)` without padding; of pooled values, `(texts, width)`."""
        mask = self._mask(members, last)
        if value.dim() == 3 and value.shape[:2] == mask.shape:
            return value[mask.to(value.device)]
        if value.dim() == 2 and value.shape[0] == mask.numel() and mask.shape[1] > 1:
            return value[mask.flatten().to(value.device)]
        return value.reshape(-1, value.shape[-1])

    def _held_out(self, counts: list[int]) -> Tensor:
        """Which of the tokens belong to texts that choose, in the order of `_flat` over all batches."""
        flags: list[Tensor] = []
        for members, count in zip(self.batches, counts, strict=True):
            chooses = torch.tensor([i in self.chooses for i in members])
            mask = self._mask(members).cpu()
            tokens = chooses[:, None].expand_as(mask)[mask]
            flags.append(tokens if len(tokens) == count else chooses)
        return torch.cat(flags)

    # The conversion.

    def convert_blocks(self) -> list[Callable[[], None]]:
        """Convert and fit everything up to the last block.

        Returns:
            Functions that undo it, to be called in reverse order.
        """
        undo: list[Callable[[], None]] = [self._restore_weights]
        restore_modes = modes(self.model)
        undo.append(restore_modes)
        try:
            self.model.eval()
            with torch.no_grad():
                self.before = self._told_predictions()
                stock = self._stage()
                self.wanted = stock.outputs
                before = [name for name in self.outside if name in stock.before_blocks]
                undo.append(apply_plan(self.model, sub_plan(self.plan, None, list(self.blocks)), self.config))
                self._fit_outside(before)
                mine = self._stage()
                for name in self._progress(self.blocks):
                    if name in stock.entering:
                        stock.hidden = stock.entering.pop(name)
                        mine.hidden = [self._input_of(self.blocks[name], members) for members in self.batches]
                    undo.append(self._convert_block(name, stock, mine))
        except BaseException:
            for step in reversed(undo):
                step()
            raise
        restore_modes()
        return undo

    def convert_heads(self) -> None:
        """Fit the layers after the last block, once the model has its class, and write the report."""
        restore_modes = modes(self.model)
        try:
            self.model.eval()
            with torch.no_grad():
                self._fit_outside([name for name in self.outside if name not in self.fits])
                after = self._told_predictions()
        finally:
            restore_modes()
        tokens = [len(row["input_ids"]) for row in self.rows]
        read = {"texts": self.texts, "tokens": sum(tokens[: self.texts]), "replayed_tokens": sum(tokens[self.texts :])}
        self.config.calibration_report = report(self.config.calibration, read, self.before, after, self.fits)

    def _told_predictions(self):
        told = sorted(self.told)
        batches = [[told[i] for i in batch] for batch in self._batches(told)]
        return predictions(self.model, (self._collate(batch) for batch in batches), causal=self.family.causal)

    def _stage(self) -> Stage:
        """One pass over the data: what feeds the first block, what else every block is called with, and the outputs
        of the layers outside."""
        stage = Stage(self.model, self.blocks, self.outside)
        for members in self.batches:
            with stage:
                self._forward(self._collate(members))
            stage.outputs_to(lambda value, members=members: self._flat(members, value, self._pools_last()))
        return stage

    def _convert_block(self, name: str, stock: Stage, mine: Stage) -> Callable[[], None]:
        block = self.blocks[name]
        linears = {
            path: self.model.get_submodule(path)
            for path in (*self.plan.bcos, *self.plan.plain)
            if path.startswith(name + ".")
        }
        streams = repairs(block, linears, *stock.call(name, 0))
        outputs: dict[str, list[Tensor]] = {path: [] for path in linears}
        for i, members in enumerate(self.batches):
            with Capture(outputs=linears, inputs=set(streams.values())) as capture:
                stock.hidden[i] = run_block(block, *stock.call(name, i))
            tokens = int(self._mask(members).sum())
            for path, values in list(outputs.items()):
                value = capture.outputs.get(path)
                if path in streams:
                    value = value + capture.inputs[streams[path]]
                if value is not None:
                    values.append(self._flat(members, value))
                if capture.calls.get(path) != 1 or len(values[-1]) != tokens:
                    del outputs[path]  # read in another way, or for something else than tokens: relative positions
        undo = apply_plan(self.model, sub_plan(self.plan, name, list(self.blocks)), self.config)
        try:
            wanted = {path: torch.cat(values) for path, values in outputs.items()}
            self._fit_block(name, {path: linears[path] for path in wanted}, streams, wanted, mine)
            for i in range(len(self.batches)):
                mine.hidden[i] = run_block(block, *mine.call(name, i))
        except BaseException:
            undo()
            raise
        stock.done(name)
        mine.done(name)
        return undo

    def _fit_block(self, name: str, linears: dict[str, nn.Module], streams, wanted, mine: Stage) -> None:
        block = self.blocks[name]
        with Capture(outputs=linears) as capture:
            run_block(block, *mine.call(name, 0))
        for group in capture.groups():
            x, streamed = [], {path: [] for path in group if path in streams}
            for i, members in enumerate(self.batches):
                needed = {streams[path] for path in streamed}
                value, inputs = wait_for(block, linears[group[0]], needed, *mine.call(name, i))
                x.append(self._flat(members, value))
                for path, values in streamed.items():
                    values.append(self._flat(members, inputs[streams[path]]))
            counts = [len(part) for part in x]
            x = torch.cat(x).to(self.dtype)
            if isinstance(linears[group[0]], BcosExperts):
                self._save_weights({group[0]: linears[group[0]]})
                fit_experts(linears[group[0]], x)
                continue
            layers = {}
            for path in group:
                target, importance = wanted.pop(path).to(self.dtype), None
                if path in streamed:
                    # What counts is the stream after the sublayer, relative to its size: norms divide by it. And what
                    # the layers below have done to the stream is repaired here as far as it can be.
                    importance = 1 / target.square().sum(-1).clamp_min(torch.finfo(self.dtype).tiny)
                    importance = importance / importance.mean()
                    target = target - torch.cat(streamed[path]).to(self.dtype)
                layers[path] = target, importance
            self._fit(x, layers, self._held_out(counts).to(x.device))

    def _fit_outside(self, names: list[str]) -> None:
        names = [name for name in names if self.wanted.get(name)]
        if not names:
            return
        modules = {name: self.model.get_submodule(name) for name in names}
        with Capture(outputs=modules) as capture:
            self._forward(self._collate(self.batches[0]))
        for group in capture.groups():
            x = []
            for members in self.batches:
                x.append(self._flat(members, self._input_of(modules[group[0]], members), self._pools_last()))
            counts = [len(part) for part in x]
            targets = {}
            for name in group:
                target = torch.cat(self.wanted[name]).to(self.dtype)
                parent = name.rpartition(".")[0]
                if parent in self.activations:  # the layer stands for itself and the activation that is gone
                    target = self.activations[parent](target)
                targets[name] = target, None
            x = torch.cat(x).to(self.dtype)
            self._fit(x, targets, self._held_out(counts).to(x.device))

    def _fit(self, x: Tensor, targets: dict[str, tuple[Tensor, Tensor | None]], held_out: Tensor) -> None:
        modules = {name: self.model.get_submodule(name) for name in targets}
        layers = []
        for name, (target, importance) in targets.items():
            module = modules[name]
            bias = getattr(module, "bias", None)
            b = module.b if isinstance(module, BcosLayer) else None
            target = target if bias is None else target - bias.to(target)
            layers.append(Layer(_matrix(module).to(self.dtype), b, target, importance))
        self._save_weights(modules)
        quantised = any(hasattr(module, "scale_rows") for module in modules.values())
        fits = fit_layers(x, layers, held_out, "rows" if quantised else self.config.calibration)
        for (name, module), fit in zip(modules.items(), fits, strict=True):
            self.fits[name] = fit
            if hasattr(module, "scale_rows"):
                self._scale_rows(module, fit.weight)
            else:
                _matrix(module).copy_(fit.weight)

    def _scale_rows(self, module: nn.Module, wanted: Tensor) -> None:
        """A quantised weight stays as it is, and the lengths of its rows become a gain beside it."""
        weight = _matrix(module).to(wanted)
        squares = weight.square().sum(1).clamp_min(torch.finfo(weight.dtype).tiny)
        factors = (wanted * weight).sum(1) / squares
        if (factors - 1).abs().max() > 1e-6:
            self._gained.append(module)
            module.scale_rows(factors)

    # Undoing: old weights wait on disk, so that memory does not hold the model twice.

    def _save_weights(self, modules: dict[str, nn.Module]) -> None:
        path = Path(self._saved.name) / f"{len(self._files)}.pt"
        weights = {f"{name}.{key}": value for name, m in modules.items() for key, value in m.named_parameters()}
        torch.save({name: weight.detach() for name, weight in weights.items()}, path)
        self._files.append(path)

    def _restore_weights(self) -> None:
        with torch.no_grad():
            for path in reversed(self._files):
                for name, weight in torch.load(path, weights_only=True).items():
                    self.model.get_parameter(name).copy_(weight)
        for module in self._gained:
            module._modules.pop("gain", None)
        for module in self._packing:
            module.support_avx512bf16_for_cpu = True
        self.close()

    def close(self) -> None:
        """Remove the old weights."""
        self._files.clear()
        self._saved.cleanup()

    def _progress(self, blocks):
        if not self.progress:
            return blocks
        from tqdm.auto import tqdm

        return tqdm(blocks, desc="Calibrating", unit="block")


def _matrix(module: nn.Module) -> Tensor:
    """A view of the weight, `(out, in)`; of a quantised one, what it stands for."""
    if hasattr(module, "dequantized"):
        return module.dequantized()
    return module.weight.t() if isinstance(module, BcosConv1D) else module.weight
