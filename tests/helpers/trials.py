"""Tiny converted models of any architecture, none of which goes by a table, and what they are trained on."""

from __future__ import annotations

import torch
import transformers
from architectures import check, configs

from bcos_peft.discovery import outputs_of
from bcos_peft.models import PREFIX, find_bcos_model


def stock(model_type, dtype=torch.float32):
    return configs.model(model_type, dtype)


def converted(model_type, dtype=torch.float32, **arguments):
    with check.without_tables():
        return check.converted(model_type, dtype, **arguments)


def auto_class(model_type):
    return getattr(transformers, configs.AUTO_CLASSES[configs.task_of(model_type)])


def inputs_of(model):
    return check.inputs_of(find_bcos_model(model))


def batch_of(model):
    """Inputs with labels: a model learns to say again what it reads."""
    inputs = inputs_of(model)
    task = configs.task_of(model.config.model_type.removeprefix(PREFIX))
    if task == "classes":
        return inputs | {"labels": torch.tensor([1])}
    return inputs | {"labels": inputs.get("decoder_input_ids", inputs["input_ids"]), "use_cache": False}


@torch.no_grad()
def logits(model):
    return outputs_of(model.eval()(**inputs_of(model)))[0].float()


def distance(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def residual(model):
    return check.residual_of(check.attribute(model, **inputs_of(model)))


def without_dropout(model):
    for module in model.modules():
        for name in ("dropout", "layerdrop", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def train(model, steps=3):
    """Some steps, without dropout; all that is trained has learnt something, and the loss has fallen."""
    without_dropout(model).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=5e-3), []
    for _ in range(steps):
        loss = model(**batch_of(model)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert min(losses[1:]) < losses[0], losses
    return model.eval()
