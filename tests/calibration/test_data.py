"""What conversions are calibrated on: kinds of data, what is skipped or refused, what models write themselves."""

import copy

import pandas
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from helpers import tiny
from transformers import GenerationConfig

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.calibration import calibration_rows
from bcos_peft.calibration.data import _replay


LINES = [f"the film was {word} and the plot {other}" for word in ("good", "bad", "slow") for other in "abcd"]


def llama(**changes):
    return tiny.model("llama", "CausalLM", **changes)


def rows(data, tokenizer=None, model=None):
    return calibration_rows(data, tokenizer or tiny.tokenizer("bpe"), model or llama(), 10_000)


@pytest.mark.parametrize(
    "settings",
    [
        {"eos_token_id": [2, *range(50, 100)]},
        {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2},
        {"top_p": 0.1, "min_p": 0.5, "num_beams": 2},
        {"stop_strings": ["a"], "return_dict_in_generate": True},
    ],
)
def test_what_a_model_writes_does_not_depend_on_its_generation_config(settings):
    model = llama(max_position_embeddings=32, eos_token_id=None)
    model.generation_config = GenerationConfig()
    wanted = _replay(model, 32 * 6)
    model.generation_config = own = GenerationConfig(pad_token_id=0, **settings)
    assert _replay(model, 32 * 6) == wanted
    assert model.generation_config is own
    assert [len(row["input_ids"]) for row in wanted] == [32] * 6


def test_texts_without_words_are_skipped():
    tokenizer = tiny.tokenizer("bpe")
    assert rows([line for text in LINES for line in (text, "", "  ")], tokenizer) == rows(LINES, tokenizer)
    with pytest.raises(ValueError, match="calibration_data has 2 texts"):
        rows(["a film", ""] * 2 + [""] * 20, tokenizer)


def test_language_models_need_a_next_token():
    ids = [[5, 6, 7]] * 9
    assert len(rows([[5]] * 9 + ids)) == 9
    assert len(rows([[5]] * 9 + ids, model=tiny.model())) == 18


def test_streams_that_do_not_know_their_columns():
    stream = IterableDataset.from_generator(lambda: ({"text": line} for line in LINES))
    assert stream.column_names is None
    assert rows(stream) == rows(LINES)
    with pytest.raises(ValueError, match="calibration_data has 0 texts"):
        rows(IterableDataset.from_generator(lambda: iter(())))


def test_chats_and_completions():
    tokenizer = tiny.tokenizer("bpe")
    tokenizer.chat_template = "{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] }} {% endfor %}"
    chats = [[{"role": "user", "content": line}, {"role": "assistant", "content": "good"}] for line in LINES]
    written = [f"user: {line} assistant: good " for line in LINES]  # its special tokens are the template's business
    wanted = [{"input_ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in written]
    apart = {"prompt": [chat[:1] for chat in chats], "completion": [chat[1:] for chat in chats]}
    for data in (chats, Dataset.from_dict({"messages": chats}), Dataset.from_dict(apart)):
        assert rows(data, tokenizer) == wanted
    texts = Dataset.from_dict({"prompt": LINES, "completion": [" good"] * len(LINES)})
    assert rows(texts, tokenizer) == rows([f"{line} good" for line in LINES], tokenizer)


def test_tables_of_pandas_are_refused_and_their_columns_taken():
    """A table is an iterable of the names of its columns, which would do for texts if they are many."""
    table = pandas.DataFrame({"text": LINES, **{f"the feature {i}": [i] * len(LINES) for i in range(9)}})
    with pytest.raises(TypeError, match=r"with the columns text, .*Dataset\.from_pandas\(df\)"):
        rows(table)
    for data in (Dataset.from_pandas(table), table["text"].tolist(), table["text"]):
        assert rows(data) == rows(LINES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([[5, 6, tiny.VOCAB_SIZE]] * 9, f"calibration_data has token id {tiny.VOCAB_SIZE}"),
        ([[5, -100, 6]] * 9, "calibration_data has token id -100"),
        (DatasetDict(train=Dataset.from_dict({"text": LINES})), "one of its splits: 'train'"),
        ([[{"role": "user", "content": "a film"}]] * 9, "no chat template"),
        ([{"text": 5}] * 9, "calibration_data has an item that cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named_and_nothing_changes(data, message):
    model = llama()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((TypeError, ValueError), match=message):
        get_bcos_model(model, BcosConfig(), calibration_data=data, tokenizer=tiny.tokenizer("bpe"), progress=False)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---- Where it happens -----------------------------------------------------------------------------------------------


def calibrated(model):
    texts = torch.randint(5, 300, (20, 9), generator=torch.Generator().manual_seed(0)).tolist()
    return get_bcos_model(model, BcosConfig(calibration_replay=0), calibration_data=texts, progress=False)


def same(one, other) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    "context", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", dtype=torch.bfloat16)]
)
@pytest.mark.parametrize("convert", [calibrated, lambda model: get_bcos_model(model, BcosConfig())])
@pytest.mark.parametrize(("family", "task"), [("llama", "CausalLM"), ("bert", "SequenceClassification")])
def test_a_conversion_is_the_same_in_any_context(context, convert, family, task):
    wanted = convert(tiny.model(family, task))
    model = tiny.model(family, task)
    with context():
        convert(model)
    assert same(model, wanted)
    assert attribute(model, torch.tensor([[5, 6, 7]])).residual.abs().max() < 1e-4


def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model = tiny.model()
    with pytest.raises(ValueError, match="made inside torch.inference_mode"):
        get_bcos_model(model, BcosConfig())


def test_models_that_give_tuples_are_calibrated():
    model = calibrated(tiny.model(return_dict=False))
    assert same(model, calibrated(tiny.model()))
    assert model.config.return_dict is False
