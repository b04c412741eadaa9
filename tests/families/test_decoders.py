"""Decoders: the certificate, agreement with the reference, generation, pipelines, saving."""

import json

import pytest
import torch
import transformers
from helpers import tiny
from helpers.paths import DATA
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, pipeline

from bcos_peft import BcosConfig, attribute, explanation_mode, get_bcos_model
from bcos_peft.families import find_family
from bcos_peft.nn import BcosLayer


def tasks(family: str) -> list[str]:
    """The tasks of a family's table."""
    covered = find_family(family).architectures
    endings = {"CausalLM": ("ForCausalLM", "LMHeadModel")}
    names = ("CausalLM", "SequenceClassification", "TokenClassification")
    return [task for task in names if any(name.endswith(endings.get(task, f"For{task}")) for name in covered)]


CASES = [(family, task) for family in tiny.DECODERS for task in tasks(family)]


def converted(family: str, task: str = "CausalLM", dtype=torch.float32, b: float = 1.25, **changes):
    return get_bcos_model(tiny.model(family, task, dtype=dtype, **changes), BcosConfig(b=b))


def test_every_decoder_has_a_language_model():
    assert {family for family, task in CASES if task == "CausalLM"} == set(tiny.DECODERS)


@pytest.mark.parametrize("b", [1.0, 1.25, 2.0])
@pytest.mark.parametrize(("family", "task"), CASES)
def test_contributions_sum_to_the_logit(family, task, b):
    model = converted(family, task, torch.float64, b)
    for implementation in ("sdpa", "eager"):
        if implementation == "sdpa" and family == "gemma2":
            continue  # it caps its attention logits, which only eager attention does
        model.set_attn_implementation(implementation)
        for padding in ("right", "left", None):
            inputs = tiny.inputs(3, 9, padding, family)
            result = attribute(model, **inputs, target=1, split=True)
            assert result.residual.abs().max() < 1e-10
            assert torch.allclose(sum(result.parts.values()), result.scores, atol=1e-12)
            assert (result.scores[inputs["attention_mask"] == 0] == 0).all()


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("family", "task"), CASES)
def test_alone_and_in_a_batch(family, task, dtype, atol):
    model = converted(family, task, dtype)
    for padding in ("right", "left"):
        inputs = tiny.inputs(3, 9, padding, family)
        together = attribute(model, **inputs, target=1)
        assert (together.residual.abs() <= atol * together.logit.abs().clamp_min(1e-2)).all()
        for row in range(3):
            kept = inputs["attention_mask"][row].bool()
            alone = attribute(model, inputs["input_ids"][row : row + 1, kept], target=1)
            assert torch.allclose(together.scores[row, kept], alone.scores[0], atol=atol)
            assert torch.allclose(together.logit[row], alone.logit[0], atol=atol)


@pytest.mark.newest  # transformers 5.0 reads it of no family but Gemma 3
@pytest.mark.parametrize(
    ("family", "setting"),
    [("llama", {"is_causal": False}), ("mistral", {"is_causal": False}), ("qwen3", {"is_causal": False})]
    + [("gemma3_text", {"use_bidirectional_attention": True})],
)
@pytest.mark.parametrize("padding", ["right", "left"])
def test_padding_stays_hidden_from_tokens_that_look_ahead(family, setting, padding):
    model = converted(family, "SequenceClassification", torch.float64, **setting)
    inputs = tiny.inputs(3, 9, padding, family)
    together = attribute(model, **inputs, target=1)
    assert (together.residual.abs() <= 1e-10).all()
    for row in range(3):
        kept = inputs["attention_mask"][row].bool()
        alone = attribute(model, inputs["input_ids"][row : row + 1, kept], target=1)
        assert torch.allclose(together.scores[row, kept], alone.scores[0], atol=1e-10)
        with torch.no_grad():
            assert torch.allclose(alone.logits, model(input_ids=inputs["input_ids"][row : row + 1, kept]).logits)


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_without_alignment_and_biases_it_is_the_stock_model(family):
    stock = tiny.model(family, "CausalLM")
    for name, parameter in stock.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    inputs = tiny.inputs(2, 9, "right", family)
    with torch.no_grad():
        before = stock(**inputs).logits
        after = get_bcos_model(stock, BcosConfig(b=1.0))(**inputs).logits
    visible = inputs["attention_mask"].bool()
    assert torch.allclose(before[visible], after[visible], atol=1e-4)


@pytest.mark.parametrize("b", ["1.25", "2.0"])
def test_gpt2_agrees_with_the_reference_and_sums_where_it_does_not(b):
    facts = json.loads((DATA / f"gpt2_b{b}.json").read_text())
    tensors = load_file(DATA / f"gpt2_b{b}.safetensors")
    stock = GPT2LMHeadModel(GPT2Config(**facts["config"])).eval()
    stock.load_state_dict({name[6:]: t for name, t in tensors.items() if name.startswith("model.")})
    model = get_bcos_model(stock, BcosConfig(b=float(b), normalize_weights=True))
    inputs = {name: tensors[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = model(**inputs).logits
    assert torch.allclose(logits, tensors["logits"], atol=1e-4)
    result = attribute(model, **inputs, target=facts["target"], split=True)
    # The reference explains the word embeddings alone, which miss the logit; with the positions they reach it.
    assert torch.allclose(result.parts["word"], tensors["contributions"], atol=1e-4)
    assert (result.logit - tensors["contributions"].sum(-1)).abs().max() > 1e-2
    assert result.residual.abs().max() < 1e-5


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_generate_with_cache_equals_without(family):
    model = converted(family)
    inputs = tiny.inputs(2, 6, "left", family)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(**inputs, **options)
    assert torch.equal(cached, model.generate(**inputs, **options, use_cache=False))
    kept = inputs["attention_mask"][1].bool()
    alone = model.generate(inputs["input_ids"][1:, kept], **options)
    assert torch.equal(cached[1, 6:], alone[0, kept.sum() :])


@pytest.mark.parametrize(
    "options", [{"num_beams": 3}, {"do_sample": True, "top_k": 5}, {"cache_implementation": "static"}]
)
def test_decoding_strategies(options):
    torch.manual_seed(0)
    generated = converted("llama").generate(**tiny.inputs(1, 6), max_new_tokens=4, pad_token_id=0, **options)
    assert generated.shape[1] <= 10


@pytest.mark.parametrize(("family", "task"), CASES)
def test_save_and_load(family, task, tmp_path):
    # Of a model that was loaded itself: what transformers renames on loading it names as before on saving.
    tiny.model(family, task).save_pretrained(tmp_path / "stock")
    stock = getattr(transformers, f"AutoModelFor{task}").from_pretrained(tmp_path / "stock")
    model = get_bcos_model(stock.eval(), BcosConfig(b=1.25))
    model.save_pretrained(tmp_path)
    again = getattr(transformers, f"AutoModelFor{task}").from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert {name: type(module) for name, module in again.named_modules()} == {
        name: type(module) for name, module in model.named_modules()
    }
    inputs = tiny.inputs(2, 9, "right", family)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    assert torch.equal(attribute(model, **inputs).scores, attribute(again, **inputs).scores)
    if model.config.tie_word_embeddings and task == "CausalLM":
        assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


def test_plain_transposed_layers_stay_plain():
    model = converted("gpt2", b=2.0)
    model.set_b(1.5)
    assert model.transformer.h[0].attn.c_attn.b is None
    assert {layer.b for layer in model.modules() if isinstance(layer, BcosLayer)} == {None, 1.5}


@pytest.mark.newest  # the pipeline of transformers 5.0 passes itself what it calls deprecated
def test_text_generation_pipeline():
    tokenizer = tiny.tokenizer("bpe")
    generator = pipeline("text-generation", model=converted("llama"), tokenizer=tokenizer)
    assert generator("A gripping film", max_new_tokens=3, do_sample=False)[0]["generated_text"].startswith(
        "A gripping"
    )


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_logits_are_made_where_they_are_explained_only(family):
    model, seen = converted(family, dtype=torch.float64), []
    inputs = tiny.inputs(3, 9, "left", family)
    rows = [ids[mask.bool()] for ids, mask in zip(*inputs.values(), strict=True)]
    with torch.no_grad():
        full = [model(ids[None]).logits[0] for ids in rows]
    hook = model.get_output_embeddings().register_forward_hook(lambda *call: seen.append(call[-1].shape[1]))
    result = attribute(model, **inputs)
    given = attribute(model, **inputs, position=torch.tensor([4, 8, 7]), target=3)
    hook.remove()
    assert seen == [3, 3]  # the last tokens are at three places, once padding is on the right
    # Where stock code rounds to float32, what is explained stays in float64.
    assert torch.allclose(result.logits, torch.stack([logits[-1] for logits in full]), atol=1e-6)
    assert result.position.tolist() == [8, 8, 8]
    expected = [logits[place - 9, 3] for logits, place in zip(full, [4, 8, 7], strict=True)]
    assert torch.allclose(given.logit, torch.stack(expected), atol=1e-6)
    assert given.residual.abs().max() < 1e-10
    with pytest.raises(ValueError, match="logits_to_keep is chosen by attribute"):
        attribute(model, **inputs, logits_to_keep=1)


def test_parameters_are_constants_while_explaining():
    model = get_bcos_model(tiny.model("llama", "CausalLM", tie_word_embeddings=False), BcosConfig())
    model.model.norm.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    ids = tiny.inputs(1, 5, "right", "llama")["input_ids"]
    inputs = model.get_input_embeddings()(ids).detach().requires_grad_()
    with explanation_mode(model):
        logit = model(inputs_embeds=inputs).logits[0, -1, 3]
        logit.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    torch.testing.assert_close((inputs.grad * inputs).sum(), logit)
