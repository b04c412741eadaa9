"""How well a calibrated conversion went: predictions on texts that it was not fitted on, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcos_peft.calibration.least_squares import _Fit
from bcos_peft.calibration.running import _is_language_model


def _predictions(
    model: PreTrainedModel, batches: Iterable[dict[str, Tensor]], causal: bool, pool: nn.Module | None = None
) -> dict[str, Any]:
    """What a model predicts: `choices`, the classes or tokens, or `values` where there is one number; the mean
    negative log-likelihood of the texts, `loss`, in nats per token, where the model is a causal language model; and
    `embeddings`, of length 1, where there is a `pool` that makes them of hidden states."""
    language = _is_language_model(model)
    choices, values, embeddings, loss, count = [], [], [], 0.0, 0
    for batch in batches:
        output = model(**batch, **({"use_cache": False} if causal or "decoder_input_ids" in batch else {}))
        mask = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
        if pool is not None:
            embeddings.append(nn.functional.normalize(pool(output[0], mask).float(), dim=-1))
        if language:
            logits, following, kept = output.logits[:, :-1].float(), batch["input_ids"][:, 1:], mask[:, 1:]
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none")
            loss, count = loss + float(losses[kept.flatten()].double().sum()), count + int(kept.sum())
            choices.append(logits.argmax(-1)[kept])
        elif "start_logits" in output:
            found = [x.masked_fill(~mask, float("-inf")).argmax(-1) for x in (output.start_logits, output.end_logits)]
            choices.append(torch.cat(found))
        elif "logits" not in output:  # without a head: hidden states
            states = output[0].float()
            values.append((states[mask] if states.shape[:2] == mask.shape else states).flatten())
        elif output.logits.shape[-1] == 1:
            values.append(output.logits.float().flatten())
        else:
            best = output.logits.argmax(-1)
            choices.append(best[mask] if best.shape == mask.shape else best.flatten())
    return {
        "choices": torch.cat(choices).cpu() if choices else None,
        "values": torch.cat(values).cpu() if values else None,
        "embeddings": torch.cat(embeddings).cpu() if embeddings else None,
        "loss": loss / count if count else None,
    }


def _report(
    method: str, read: dict[str, int], before: dict, after: dict, fits: dict[str, _Fit], factor: float | None
) -> dict[str, Any]:
    """What is kept in the config: JSON's types only. `factor`: by which the last norm was scaled."""
    strengths = Counter("none" if fit.ridge is None else f"{fit.ridge:g}" for fit in fits.values())
    result: dict[str, Any] = {"method": method, **read, "ridges": dict(strengths)}
    if factor is not None:
        result["prediction_scale"] = factor
    if before["choices"] is not None:
        result["agreement"] = float((before["choices"] == after["choices"]).double().mean())
    if before["values"] is not None:
        result["mean_difference"] = float((before["values"] - after["values"]).abs().mean())
    if before["embeddings"] is not None:
        result["embedding_cosine"] = float((before["embeddings"] * after["embeddings"]).sum(1).mean())
    if before["loss"] is not None:
        result["loss_before"], result["loss_after"] = before["loss"], after["loss"]
    return result
