"""Tiny random models, inputs and tokenizers of every family, built in memory.

Weights are large and biases are not zero, so that logits and what is done about biases can be told from rounding.
"""

from __future__ import annotations

import copy
import functools

import torch
import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from helpers.paths import DATA


VOCAB_SIZE = 320
MAX_LENGTH = 64  # tokens that a tiny model can read
TASKS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM")

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_ALL = {"vocab_size": VOCAB_SIZE, "initializer_range": 0.2}
_ENCODER = _SIZES | _ALL | {"max_position_embeddings": MAX_LENGTH}
_ROBERTA = _ENCODER | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_ROBERTA["max_position_embeddings"] = MAX_LENGTH + 2  # positions are counted from the padding id on
_DEBERTA = _ENCODER | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}

# model_type: the prefix of its classes, and the fields of its config.
_CONFIGS = {
    "bert": ("Bert", _ENCODER),
    "roberta": ("Roberta", _ROBERTA),
    "xlm-roberta": ("XLMRoberta", _ROBERTA),
    "distilbert": (
        "DistilBert",
        _ALL | {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": MAX_LENGTH},
    ),
    "electra": ("Electra", _ENCODER | {"embedding_size": 16}),
    "modernbert": (
        "ModernBert",
        _ENCODER
        | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
        | {"local_attention": 4, "global_attn_every_n_layers": 2},
    ),
    "deberta": ("Deberta", _DEBERTA | {"max_relative_positions": 20}),
    "deberta-v2": (
        "DebertaV2",
        _DEBERTA
        | {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
        | {"position_biased_input": False, "conv_kernel_size": 3},
    ),
}
FAMILIES = tuple(_CONFIGS)

_DECODER = _ENCODER | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED = _DECODER | {"num_key_value_heads": 2}
_DECODERS = {
    "llama": ("Llama", _GROUPED | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "mistral": ("Mistral", _GROUPED | {"sliding_window": 4}),
    "qwen2": ("Qwen2", _GROUPED),
    "qwen3": ("Qwen3", _GROUPED | {"head_dim": 8}),
    "smollm3": ("SmolLM3", _GROUPED),
    "gemma": ("Gemma", _GROUPED | {"head_dim": 8}),
    "gemma2": (
        "Gemma2",
        _GROUPED | {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0},
    ),
    "gemma3_text": ("Gemma3Text", _GROUPED | {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0}),
    "gpt2": (
        "GPT2",
        _ALL
        | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": MAX_LENGTH}
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "gpt_neox": ("GPTNeoX", _DECODER),
    "opt": (
        "OPT",
        {"vocab_size": VOCAB_SIZE, "init_std": 0.2, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64}
        | {"num_attention_heads": 4, "max_position_embeddings": MAX_LENGTH, "word_embed_proj_dim": 16}
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "phi3": ("Phi3", _GROUPED),
    "mixtral": ("Mixtral", _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3Moe",
        _GROUPED
        | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 16, "decoder_sparse_step": 2},
    ),
}
DECODERS = tuple(_DECODERS)
_CONFIGS |= _DECODERS
# The kind of tokenizer whose special tokens have the ids of the family's config.
TOKENIZER_KINDS = ("wordpiece", "bpe", "sentencepiece")
KIND_OF = dict.fromkeys(FAMILIES, "wordpiece") | {"roberta": "bpe", "xlm-roberta": "sentencepiece"}


def config(family: str, num_labels: int = 3, **changes) -> transformers.PretrainedConfig:
    """A new config of a family."""
    prefix, fields = _CONFIGS[family]
    cls = getattr(transformers, f"{prefix}Config")
    return cls(**(copy.deepcopy(fields) | {"num_labels": num_labels} | changes))


def model_class(family: str, task: str) -> type[transformers.PreTrainedModel]:
    name = f"{_CONFIGS[family][0]}For{task}"
    irregular = {"GPT2ForCausalLM": "GPT2LMHeadModel", "Gemma3TextForCausalLM": "Gemma3ForCausalLM"}
    return getattr(transformers, irregular.get(name, name))


def model(
    family: str = "bert",
    task: str = "SequenceClassification",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    cls: type[transformers.PreTrainedModel] | None = None,
    **changes,
) -> transformers.PreTrainedModel:
    """A stock model in evaluation mode; equal arguments give equal weights. `changes` go to the config."""
    if task == "QuestionAnswering":
        changes.setdefault("num_labels", 2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stock = (cls or model_class(family, task))(config(family, **changes))
        for parameter in stock.parameters():
            if parameter.dim() == 1:  # biases and the weights of norms
                parameter.data += 0.3 * torch.randn_like(parameter)
    return stock.to(dtype).eval()


@functools.cache
def pad_token_id(family: str) -> int:
    return config(family).pad_token_id


def inputs(
    batch: int = 2, length: int = 8, padding: str | None = "right", family: str = "bert", seed: int = 0
) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`; every row but the first is padded on one side, the last row by most.

    Ids 0 to 9, among them the special tokens of every family, are only used for padding.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, VOCAB_SIZE, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch if padding else 0):
        count = min(length - 2, 3 * row)
        if count > 0:
            where = slice(length - count, None) if padding == "right" else slice(0, count)
            ids[row, where], mask[row, where] = pad_token_id(family), 0
    return {"input_ids": ids, "attention_mask": mask}


# Trained once, on a few sentences about films, and stored: the ids that training gives differ from process to process.
_TOKENIZERS = DATA / "tokenizers"


def tokenizer(kind: str = "wordpiece", padding_side: str = "right") -> PreTrainedTokenizerFast:
    """A fast tokenizer of at most `VOCAB_SIZE` entries.

    Args:
        kind: `"wordpiece"` (ids of BERT), `"bpe"` (byte-level, of RoBERTa) or `"sentencepiece"` (unigram, of XLM-R).
        padding_side: `"right"` or `"left"`.
    """
    if kind not in TOKENIZER_KINDS:
        raise ValueError(f"kind must be one of {TOKENIZER_KINDS}, got {kind!r}")
    special = (
        {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        if kind == "wordpiece"
        else {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    )
    names = {f"{key}_token": token for key, token in special.items()}
    if kind != "wordpiece":
        names |= {"cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(_TOKENIZERS / f"{kind}.json")),
        **names,
        padding_side=padding_side,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", *(["token_type_ids"] if kind == "wordpiece" else []), "attention_mask"],
    )
