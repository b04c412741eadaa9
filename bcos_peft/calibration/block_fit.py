"""One block after another becomes a B-cos block, and is fitted to what the stock block gave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcos_peft.calibration.blocks import _repairs, _Stage
from bcos_peft.calibration.fit import _is_trained, _LayerFits, _Weights
from bcos_peft.calibration.least_squares import _fit_experts, _importance_of
from bcos_peft.calibration.passes import _Passes
from bcos_peft.calibration.refine import _Batch, _refine
from bcos_peft.calibration.running import _Capture, _run_block, _wait_for
from bcos_peft.calibration.texts import _Texts
from bcos_peft.config import BcosConfig
from bcos_peft.models import Plan, apply_plan, sub_plan
from bcos_peft.nn import BcosExperts, StockExperts


class _BlockFit:
    """Converts blocks in the order of the forward pass; each reads what the converted ones below it really give.

    Args:
        model ([`~transformers.PreTrainedModel`]): whose blocks they are.
        plan (`Plan`): what the conversion does.
        config ([`BcosConfig`]): of the conversion.
        blocks (`dict[str, torch.nn.Module]`): the blocks by name, in order.
        texts (`_Texts`): what is read, and what each text is for.
        passes (`_Passes`): how the model reads them.
        layers (`_LayerFits`): fits layers in closed form.
        weights (`_Weights`): keeps the old ones.
        epochs (`int`): how often a block is refined over the texts; 0 for not at all.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        plan: Plan,
        config: BcosConfig,
        blocks: dict[str, nn.Module],
        texts: _Texts,
        passes: _Passes,
        layers: _LayerFits,
        weights: _Weights,
        epochs: int,
    ):
        self._model, self._plan, self._config, self._blocks = model, plan, config, blocks
        self._texts, self._passes, self._layers, self._weights = texts, passes, layers, weights
        self._batches = passes.batches(texts.fitted)
        self._dtype = torch.promote_types(model.dtype, torch.float32)
        self._epochs = epochs
        self.refined: list[float] = []

    def convert(self, name: str, stock: _Stage, mine: _Stage) -> Callable[[], None]:
        """Convert the block of that name, which comes next.

        Args:
            name (`str`): the block.
            stock (`_Stage`): where the data stands in the stock model; it goes on by a block.
            mine (`_Stage`): where it stands in the converted one; likewise.

        Returns:
            A function that puts the stock layers back.
        """
        block = self._blocks[name]
        linears = {
            path: self._model.get_submodule(path)
            for path in (*self._plan.bcos, *self._plan.plain)
            if path.startswith(name + ".")
        }
        streams = _repairs(block, linears, *stock.call(name, 0))
        outputs: dict[str, list[Tensor]] = {path: [] for path in linears}
        for i, members in enumerate(self._batches):
            with _Capture(outputs=linears, inputs=set(streams.values())) as capture:
                stock.hidden[i] = _run_block(block, *stock.call(name, i))
            tokens = int(self._passes.mask(members, like=stock.hidden[i]).sum())
            for path, values in list(outputs.items()):
                value = capture.outputs.get(path)
                if path in streams:
                    value = value + capture.inputs[streams[path]]
                if value is not None:
                    values.append(self._passes.flat(members, value))
                if capture.calls.get(path) != 1 or len(values[-1]) != tokens:
                    del outputs[path]  # read in another way, or for something else than tokens: relative positions
        undo = apply_plan(self._model, sub_plan(self._plan, name, list(self._blocks)), self._config)
        try:
            wanted = {path: torch.cat(values) for path, values in outputs.items()}
            self._fit(name, {path: linears[path] for path in wanted}, streams, wanted, mine)
            if self._epochs:
                self._refine(name, list(outputs), stock, mine)
            for i in range(len(self._batches)):
                mine.hidden[i] = _run_block(block, *mine.call(name, i))
        except BaseException:
            undo()
            raise
        stock.done(name)
        mine.done(name)
        return undo

    def _fit(self, name: str, linears: dict[str, nn.Module], streams, wanted, mine: _Stage) -> None:
        block = self._blocks[name]
        with _Capture(outputs=linears) as capture:
            _run_block(block, *mine.call(name, 0))
        for group in capture.groups():
            x, streamed = [], {path: [] for path in group if path in streams}
            for i, members in enumerate(self._batches):
                needed = {streams[path] for path in streamed}
                value, inputs = _wait_for(block, linears[group[0]], needed, *mine.call(name, i))
                x.append(self._passes.flat(members, value))
                for path, values in streamed.items():
                    values.append(self._passes.flat(members, inputs[streams[path]]))
            counts = [len(part) for part in x]
            x = torch.cat(x).to(self._dtype)
            for path in group:
                if isinstance(linears[path], BcosExperts):
                    self._weights.save({path: linears[path]})
                    _fit_experts(linears[path], x)
            layers = {}
            for path in group:
                if isinstance(linears[path], (BcosExperts, StockExperts)):
                    continue  # those with a formula of their own stay as they are
                target, importance = wanted.pop(path).to(self._dtype), None
                if path in streamed:
                    # What counts is the stream after the sublayer, relative to its size: norms divide by it. And what
                    # the layers below have done to the stream is repaired here as far as it can be.
                    importance = _importance_of(target)
                    target = target - torch.cat(streamed[path]).to(self._dtype)
                layers[path] = target, importance
            if layers:
                chooses = self._passes.tokens_of(self._texts.chooses, self._batches, counts)
                self._layers.fit(x, layers, chooses.to(x.device))

    def _refine(self, name: str, paths: list[str], stock: _Stage, mine: _Stage) -> None:
        """Train the layers that were fitted, together, where they have weights of their own."""
        modules = {path: self._model.get_submodule(path) for path in paths}
        names = [f"{path.removeprefix(name + '.')}.weight" for path, module in modules.items() if _is_trained(module)]
        if not names:
            return
        batches = []
        for i, members in enumerate(self._batches):
            mask = self._passes.mask(members, like=stock.hidden[i])
            chooses = torch.tensor([member in self._texts.chooses for member in members], device=mask.device)[:, None]
            batches.append(_Batch(mine.call(name, i), stock.hidden[i], mask & ~chooses, mask & chooses))
        self.refined.append(_refine(self._blocks[name], names, batches, self._epochs, self._dtype))
