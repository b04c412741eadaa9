"""What trainers do to converted models that would be silently wrong: it is refused, with a way out."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from bcos_peft._utils.accelerate_hooks import is_of_trl


def refuse_liger(model_type: str) -> None:
    """Let `use_liger_kernel=True` refuse models of a converted type, of which Liger knows nothing.

    Liger goes by a table of model types, and passes over one that it does not find without a word. Here the converted
    type gets an entry, and no other is touched. Nothing happens where Liger is not installed.
    """
    if find_spec("liger_kernel") is None:
        return
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except Exception:  # of another release, or without the Triton that it needs: a trainer cannot use it either
        return
    MODEL_TYPE_TO_APPLY_LIGER_FN.setdefault(model_type, _refuse_kernels)


def _refuse_kernels(model) -> None:
    raise ValueError(
        f"use_liger_kernel=True has no kernels for a B-cos model: those of the stock model would replace the layers "
        f"of this {type(model).__name__}, and its explanations would not be exact. Leave use_liger_kernel=False."
    )


def _check_forward(model, forward) -> None:
    """Look at a forward that is about to replace that of a converted model: is it one of TRL, and does it fit?

    TRL's trainers put theirs on each model that they are given, once they have all their models: the moment to see
    what the trainer is about to do.

    Raises:
        ValueError: the model's head is a B-cos layer; the trainer's reference model is the stock model, or would move.
    """
    if not is_of_trl(forward):
        return
    name = type(model).__name__
    if getattr(model.get_output_embeddings(), "b", None) is not None:
        raise ValueError(
            f"The language-modelling head of this {name} is a B-cos layer, which TRL's trainers would pass by: they "
            "take its weight for that of a plain layer. Convert with convert_head=False, or train with transformers' "
            "Trainer."
        )
    trainer, given = _trainer(sys._getframe(2))
    reference = getattr(trainer, "ref_model", None)
    if reference is not None and given is None and not hasattr(reference, "bcos_config"):
        raise ValueError(
            f"The trainer has made its reference model by loading {model.config._name_or_path!r}, from which this "
            f"{name} was converted: a {type(reference).__name__} that predicts differently from the start. Give it a "
            "copy, ref_model=copy.deepcopy(model); or, where it takes none, save the converted model and train what "
            "from_pretrained of that folder gives."
        )
    if trainer is not None and reference is None:
        _check_own_reference(trainer)


def _trainer(frame):
    """A trainer that compares with a reference model and is being built in one of the next frames, and the reference
    model that it was given, which is the user's own choice."""
    for _ in range(3):
        if frame is None:
            break
        trainer = frame.f_locals.get("self")
        if hasattr(trainer, "ref_model"):
            return trainer, frame.f_locals.get("ref_model")
        frame = frame.f_back
    return None, None


def _check_own_reference(trainer) -> None:
    """With adapters the reference is the same model with other adapters: what is trained beside them moves it."""
    adapters = getattr(trainer.model, "peft_config", None)
    once = getattr(trainer.args, "precompute_ref_log_probs", False) or getattr(trainer.args, "beta", None) == 0
    if not isinstance(adapters, dict) or once:
        return
    trained = (name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad)
    beside = next((name for name in trained if not adapters.keys() & set(name.split("."))), None)
    if beside is not None:
        raise ValueError(
            f"The reference of this trainer is the model itself, with the adapter as it was, and {beside!r} is "
            "trained beside the adapter: the reference would move with it. Pass precompute_ref_log_probs=True where "
            "the trainer has it, or train the adapter alone: train_only(model, 'lora')."
        )


def refuse_tensor_parallel(model) -> None:
    """Refuse a model whose weight rows are cut into pieces on several devices: the norm of a piece is not the row's.

    Raises:
        ValueError: the model has a tensor-parallel plan.
    """
    if (getattr(model, "_tp_size", None) or 1) > 1:
        raise ValueError(
            "Tensor parallelism (tp_plan, tp_size, DistributedConfig) cuts rows of weights into pieces, and a B-cos "
            "layer needs the norms of whole rows: it would compute something else. Nothing was changed. Shard the "
            "model with FSDP (version 2) or ZeRO-3 instead, which put rows together before they are used, or use "
            "device_map='auto'. See the guide 'Several processes'."
        )


def refuse_shards(model) -> None:
    """Refuse to convert a model whose parameters are spread over processes already.

    Raises:
        ValueError: a parameter is a shard, or gathered by ZeRO-3.
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id"):
            raise ValueError(
                f"The weights of this model are spread over several processes ({name!r} is a shard). Nothing was "
                "changed. Convert it first, in every process alike, and shard it then, as trainers do: see the guide "
                "'Several processes'."
            )
