"""A family, found out: who is query, key, value and router, where the input enters, what is added to it."""

from __future__ import annotations

import re

import torch
from torch import nn
from transformers import PreTrainedModel

from bcos_peft.discovery.classes import _replacements_of
from bcos_peft.discovery.inputs import _LENGTHS, _run_somehow, _takes, outputs_of
from bcos_peft.discovery.watch import _is_layer, _Watch
from bcos_peft.families import Family


# Scans and linear attention, whose products can be shared in more than one exact way.
_SCANS = re.compile(
    "Mamba|BambaMixer|FalconH1Mixer|Delta|Rwkv|xLSTM|mLSTM|Rglru|ShortConv|Lightning|LinearAttention|KimiLinear"
)
_OF_SCANS = (
    "Experimental: a scan, or linear attention, multiplies several functions of the input, and more than one way of "
    "sharing such products sums to the logit. Here decay and step sizes are held; of a product of matrices the left "
    "one, or the vector that reads a state; other products are shared half and half"
)


def infer_family(model: PreTrainedModel) -> Family:
    """Find out about a stock model what a table would say, by one pass over a few token ids.

    Layers whose outputs get no gradient in the linear map only decide (query, key, router), those with a block of
    such features do so in part (fused projections), and a layer that reads what they read gives the values: these stay
    plain. Embeddings whose outputs get some are the input. Constants that reach an output have to be zero.

    Args:
        model ([`~transformers.PreTrainedModel`]): a stock model; it comes back as it was.

    Returns:
        [`Family`]: what was found.

    Raises:
        ValueError: the model cannot be run on token ids alone, or nothing in it depends on them.

    Example:
        >>> from transformers import MPNetConfig, MPNetForSequenceClassification
        >>> from bcos_peft.discovery import infer_family
        >>> small = MPNetConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> infer_family(MPNetForSequenceClassification(small)).parts["word"]
        'embeddings.word_embeddings'
    """
    seq2seq = bool(getattr(model.config, "is_encoder_decoder", False)) and _takes(model, "decoder_input_ids")
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    named = model.config.return_dict
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        model.config.return_dict = True
        model.eval()
        with torch.inference_mode(False), torch.enable_grad():
            return _infer(model, seq2seq)
    finally:
        model.config.return_dict = named
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


def _infer(model: PreTrainedModel, seq2seq: bool) -> Family:
    with torch.no_grad():
        inputs, _ = _run_somehow(model, seq2seq)
    lengths = frozenset(inputs[name].shape[1] for name in ("input_ids", "decoder_input_ids") if name in inputs)
    with _Watch(model, lengths) as watch:
        output = model(**inputs)
    outputs = [y for y in outputs_of(output) if y.requires_grad]
    if not outputs:
        raise ValueError(
            f"Cannot convert: no output of {type(model).__name__} depends on an embedding of its token ids by "
            "operations that gradients go through. Nothing was changed."
        )
    gradients = watch.gradients(outputs)
    names = _Names(model)
    plain, held = _plain(model, watch, gradients)
    head = model.get_output_embeddings()
    heads = [name for name, module in model.named_modules() if module is head]
    replacements = _replacements_of(model)
    pooled = _pooled(model, watch, replacements)
    biases = [f"{name}.bias" for name in held]
    live = [(name, leaf) for name, leaf in watch.constants.leaves if id(leaf) in gradients]
    untouched = watch.untouched - set(heads)
    zeroed = [
        name
        for name, _ in live
        if name and (_parent(name) in untouched or not _is_layer_bias(model, name, replacements))
    ]
    written = {call.name for call in watch.layers if call.gave._version != call.version}
    scans = any(_SCANS.search(type(module).__name__) for module in model.modules())
    return Family(
        model_type=model.config.model_type,
        architectures=(type(model).__name__,),
        parts=_parts(model, watch, gradients),
        plain=names.patterns(plain - set(heads)),
        lm_heads=names.patterns(set(heads)),
        pooler_activations=names.patterns(pooled),
        replacements=replacements,
        zeroed=names.patterns(set(zeroed) - {"position"}),
        harmless_biases=names.patterns({name.removesuffix(".bias") for name in biases}),
        copied=names.patterns(written),
        untouched=names.patterns(untouched),
        positions=any(name == "position" for name, _ in live),
        learned=any(name == "" and bool(leaf.detach().any()) for name, leaf in live),
        causal=not seq2seq and _is_causal(model, inputs),
        seq2seq=seq2seq,
        block=1 if inputs["input_ids"].shape[1] == _LENGTHS[0] else inputs["input_ids"].shape[1],
        note=_OF_SCANS if scans else None,
    )


class _Names:
    """Patterns of names of modules, as they are below the model's body, with a number for each layer left open."""

    def __init__(self, model: PreTrainedModel):
        prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
        self._names = {name: name.removeprefix(prefix) for name, _ in model.named_modules()}
        self._names |= {name: name.removeprefix(prefix) for name, _ in model.named_parameters()}

    def patterns(self, names: set[str]) -> tuple[str, ...]:
        """Patterns that match these names, and no others."""
        found = {}
        for name in sorted(names):
            exact = re.escape(self._names[name])
            anyone = re.sub(r"(?<=\\\.)\d+(?=\\\.|$)|^\d+(?=\\\.)", r"\\d+", exact)
            others = (other for other in self._names if other not in names)
            same = re.compile(rf"(?:.*\.)?(?:{anyone})$")
            found[exact if any(same.match(other) for other in others) else anyone] = None
        return tuple(found)


def _plain(model: PreTrainedModel, watch: _Watch, gradients: dict) -> tuple[set[str], set[str]]:
    """Layers that decide, or give values, and those of them whose output is held wholly."""
    nothing: dict[str, bool] = {}
    partly = set()
    for call in watch.layers:
        gradient = gradients.get(id(call.gave))
        nothing[call.name] = nothing.get(call.name, True) and gradient is None
        if gradient is not None and bool((gradient.reshape(-1, gradient.shape[-1]) == 0).all(0).any()):
            partly.add(call.name)
    held = {name for name, none in nothing.items() if none}
    partly -= held
    deciding = [call for call in watch.layers if call.name in held]
    values = {
        call.name
        for call in watch.layers
        if call.name not in held | partly
        and any(_parent(call.name) == _parent(one.name) and _same(call.read, one.read) for one in deciding)
    }
    return held | partly | values, held


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def _parts(model: PreTrainedModel, watch: _Watch, gradients: dict) -> dict[str, str]:
    """Embeddings that are inputs of the linear map, by what they say of a token."""
    # All names of a module: what is one embedding here may be several, of one weight, when the model is loaded.
    paths: dict[int, list[str]] = {}
    for path, module in model.base_model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    modules = dict(model.named_modules(remove_duplicate=False))
    word = _word_embedding(model)
    found: dict[str, str] = {}
    for call in watch.embeddings:
        module = modules[call.name]
        for path in paths.get(id(module), ()) if id(call.gave) in gradients else ():
            if path in found.values():
                continue
            last = path.rpartition(".")[2]
            if module is word or getattr(module, "weight", None) is getattr(word, "weight", 0):
                kind = "word"
            elif "pos" in last or last == "wpe":
                kind = "position"
            elif "type" in last or "segment" in last:
                kind = "token_type"
            else:
                kind = last
            count = sum(name == kind or name.startswith(f"{kind}@") for name in found)
            found[f"{kind}@{count}" if count else kind] = path
    return found


def _word_embedding(model: PreTrainedModel) -> nn.Module | None:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def _is_layer_bias(model: PreTrainedModel, name: str, replacements: dict[str, str]) -> bool:
    """Whether a parameter is one that a conversion takes away with the layer that it belongs to."""
    module = model.get_submodule(_parent(name))
    # Not that of a convolution: while a text goes on, stock code adds it itself.
    known = _is_layer(module) or isinstance(module, nn.Embedding) or type(module) is nn.LayerNorm
    replaced = replacements.get(type(module).__name__) not in (None, "head", "stock_experts")
    return name.endswith(".bias") and (known or replaced)


def _pooled(model: PreTrainedModel, watch: _Watch, replacements: dict[str, str]) -> set[str]:
    """Activation modules between body and classes; heads that call theirs as functions go to `replacements`."""
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return set()
    modules, found = dict(model.named_modules()), set()
    body = {id(module) for module in model.base_model.modules()}
    for name in watch.squashed:
        module = modules[name]
        if module is model or (id(module) in body and "pooler" not in name):
            continue
        if any(True for _ in module.parameters()):
            replacements[type(module).__name__] = "head"
        else:
            found.add(name)
    return found


def _is_causal(model: PreTrainedModel, inputs: dict) -> bool:
    """Whether no token sees those after it: another last token changes no other hidden state."""
    body = model.base_model
    ids = inputs["input_ids"]
    other = ids.clone()
    other[:, -1] = ids[:, 0]
    with torch.no_grad():
        states = [body(**{**inputs, "input_ids": one})[0] for one in (ids, other)]
    before, after = (state[:, : ids.shape[1] - 1].float() for state in states)
    return before.shape == after.shape and torch.allclose(before, after, rtol=1e-4, atol=1e-5)
