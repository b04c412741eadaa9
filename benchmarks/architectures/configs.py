"""Tiny random models of every text architecture of the installed transformers.

Sizes follow from the names of a config's fields, by the patterns in `_SIZES`. What an architecture needs besides is in
`_SPECIAL`, with the reason.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import torch
import transformers
from transformers.models.auto import configuration_auto, modeling_auto

from bcos_peft.models import PREFIX


VOCABULARY = 120
LENGTH = 64  # tokens that a tiny model can read
_TASKS = {
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "classes": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "tags": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}
AUTO_CLASSES = {
    "seq2seq": "AutoModelForSeq2SeqLM",
    "causal": "AutoModelForCausalLM",
    "classes": "AutoModelForSequenceClassification",
    "masked": "AutoModelForMaskedLM",
    "tags": "AutoModelForTokenClassification",
}

# In the same mappings, and no text alone.
_OTHER_INPUTS = {
    "images": """emu3 fuyu gemma3 gemma3n gemma4 gemma4_unified git got_ocr2 llama4 mllama modernvbert neomme perceiver
        qwen3_5 qwen3_5_moe qwen4_exp dots3_note t5gemma2 trocr ultravbert phi4_multimodal""",
    "audio": """audioflamingo3 glmasr granite_speech granite_speech_plus moshi moss_transcribe_diarize musicflamingo
        musicgen musicgen_melody nemo_speechlm qwen2_audio qwen3_asr seamless_m4t seamless_m4t_v2 vibevoice_asr voxtral
        voxtral_realtime whisper""",
    "boxes on a page": "bros layoutlm layoutlmv2 layoutlmv3 lilt markuplm",
    "proteins": "esm esmc",
    "the states of another model": "gemma4_assistant gemma4_unified_assistant",
    "whatever its two parts read": "encoder-decoder",
}
_NOT_TEXT = frozenset(" ".join(_OTHER_INPUTS.values()).split())

# The first pattern that is the whole name of a field counts; None leaves a field as it is.
_SIZES: tuple[tuple[str, int | None], ...] = (
    (r"chunk_size_.*|max_(relative_positions|inference_chunksize|window_layers)|index_(block|local|topk_)\w*", None),
    # Layers.
    (r"num_(hidden_|encoder_|decoder_)?layers|n_layers?|(en|de)coder_layers|num_blocks", 2),
    (r"first_k_dense_replace", 1),
    (r"(num_(nextn_predict|mtp)_layers|mtp_num_layers|moe_layer_start_index|num_kv_shared_layers)", 0),
    # Heads.
    (r"(swa_)?num_key_value_heads|num_kv_heads|index_n_heads", 2),
    (r"(swa_)?num_((en|de)coder_)?(attention_)?heads|n_heads?|((en|de)coder_)?attention_heads", 4),
    (r"mamba_n(um)?_heads|n_mamba_heads|linear_num_(key_|value_)?heads", 4),
    # Widths.
    (r"hidden_size|d_model|n_embd|dim|emb_dim|embed_dim|word_embed_proj_dim|lru_width", 64),
    (
        r"(prefix_dense_|dense_)?intermediate_size(_mlp)?|((en|de)coder_)?ffn_dim|d_ff|dff|dim_ff|d_inner|hidden_dim",
        96,
    ),
    (r"(ffn_hidden|feed_forward)_size", 96),
    (r"\w*(moe|shared|expert)\w*_(intermediate|ffn_hidden)_size|shared_intermediate_size", 32),
    (r"(input_|output_)?embedding_size|mamba_(d_head|head_dim)|moe_latent_size|prediction_head_size", 32),
    (r"(swa_)?head_dim|d_kv|d_head|kv_channels|v_head_dim|qk_head_dim|index_head_dim|kv_lora_rank|\w+_embed_dim", 16),
    (r"q_lora_rank|o_lora_rank", 24),
    (r"qk_(rope|nope)_head_dim|linear_(key_|value_)?head_dim|rotary_dim|hidden_size_per_layer_input|\w*_rank", 8),
    (r"(mamba_d|ssm)?_?state(_size)?|(mamba_)?chunk_size|relative_attention_num_buckets", 8),
    (r"mamba_n_?groups|n_groups", 1),
    # Mixtures of experts.
    (r"(num|moe_num|num_local|n_routed)_experts", 4),
    (r"num_experts_per_tok(en)?|moe_k|moe_topk|top_k_experts", 2),
    (r"n_group|topk_group|(n|num|moe_num)_shared_experts|zero_expert_num", 1),
    # What can be told apart, and how many of it.
    (r"(src_|tgt_|unpadded_)?vocab_size(_per_layer_input)?", VOCABULARY),
    (r"(entity|pronunciation|shape)_vocab_size|num_lang_embeddings", 10),
    (r"max_(encoder_|decoder_)?position_embeddings|n_positions|n_ctx|max_seq_len(gth)?|context_length", LENGTH),
    (r"sliding_window(_size)?|local_attention|attention_window_size|window_size", 4),
    (r"pad_token_id|pad_index", 0),
    (r"(bos|cls|decoder_start)_token_id|bos_index", 1),
    (r"(eos|sep)_token_id|eos_index", 2),
    (r"type_vocab_size", 2),
)

_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
_ONE_KIND_OF_HEAD = {"num_key_value_heads": 4}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_T5GEMMA = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_T5GEMMA |= {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 16}
_T5GEMMA |= {"vocab_size": VOCABULARY}
_BLT = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 96}
_BLT |= {"max_position_embeddings": LENGTH}
_ZAMBA = {"layers_block_type": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4}

# Which types, by a pattern; fields; why.
_SPECIAL: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("qwen3_next|qwen3_5(_moe)?_text|olmo_hybrid|granitemoehybrid|kimi_linear|bailing_hybrid", _HYBRID, "both kinds"),
    ("lfm2|lfm2_moe|lfm3", {"layer_types": ["conv", "full_attention"]}, "both kinds"),
    ("gemma(3|3n|4|4_unified)_text", {"layer_types": ["sliding_attention", "full_attention"]}, "both kinds"),
    ("axk1|axk2|bailing_hybrid|deepseek_v(2|3|32)|glm4_moe_lite|glm_moe_dsa", _ONE_KIND_OF_HEAD, "latent attention"),
    ("kimi_linear|minicpm3|mistral4|youtu|dots3_note_text", _ONE_KIND_OF_HEAD, "latent attention"),
    ("axk2|deepseek_v32|glm_moe_dsa", {"index_topk": LENGTH, "head_dim": 8}, "an indexer that takes all tokens"),
    ("lfm2_moe", {"rope_parameters": _ROPE, "num_dense_layers": 1}, "no default"),
    ("longcat_flash", {"head_dim": 8, "qk_head_dim": None, "num_key_value_heads": None}, "sizes from others"),
    ("zaya", {"num_experts_per_tok": 1}, "asserted"),
    (
        "cohere_compass_text",
        {"layer_types": ["sliding_attention", "full_attention"]}
        | {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
        "no default",
    ),
    ("gemma3n_text", {"laurel_rank": 8, "activation_sparsity_pattern": [0.5, 0.0]}, "one value for each layer"),
    ("gemma4(_unified)?_text", {"global_head_dim": 16}, "512 by default"),
    ("qwen4_exp_text", {**_HYBRID, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16}, "no default"),
    ("qwen4_exp_text", {"indexer_budget": 16, "indexer_compress_ratio": 4}, "no default"),
    (
        "dbrx",
        {"rope_parameters": _ROPE, "attn_config": {"kv_n_heads": 2, "clip_qkv": 1.0, "rope_theta": 1e4}}
        | {"ffn_config": {"hidden_size": 64, "ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2}},
        "configs within",
    ),
    ("t5gemma", {"encoder": _T5GEMMA, "decoder": {**_T5GEMMA, "cross_attention_hidden_size": 64}}, "configs within"),
    (
        "blt",
        {f"{part}_config": {**_BLT, "hidden_size_global": 64} for part in ("encoder", "decoder")}
        | {"global_config": _BLT, "patcher_config": _BLT, "vocab_size": 260, "patch_in_forward": False}
        | {"encoder_hash_byte_group_vocab": 50},
        "reads bytes; configs within",
    ),
    ("bloom", {"num_key_value_heads": None}, "no such heads"),
    ("switch_transformers", {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}, "one of two layers"),
    ("nllb-moe", {"encoder_sparse_step": 2, "decoder_sparse_step": 2}, "one of two layers"),
    ("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1}, "one of two layers"),
    ("mamba2", {"head_dim": 32}, "heads × their size = 2 × width"),
    ("bamba", {"attn_layer_indices": [1]}, "one of two layers"),
    ("zamba", {**_ZAMBA, "attention_hidden_size": 128, "attention_head_dim": 32}, "all kinds of layers"),
    ("zamba", {"num_key_value_heads": 4, "n_mamba_heads": 2}, "all kinds of layers"),
    ("zamba2", {**_ZAMBA, "num_mem_blocks": 1, "mamba_headdim": 32, "num_key_value_heads": 4}, "all kinds of layers"),
    ("recurrent_gemma", {"num_hidden_layers": 3}, "two recurrent layers to one of attention"),
    ("rwkv", {"attention_hidden_size": 64}, "as wide as the rest"),
    (
        "xlstm",
        {"mlstm_round_up_to_multiple_of": 8, "ffn_round_up_to_multiple_of": 8, "num_heads": 4, "num_blocks": 2}
        | {"chunkwise_kernel": "chunkwise--native_autograd", "sequence_kernel": "native_sequence__native"}
        | {"step_kernel": "native"},
        "widths are rounded up; no Triton",
    ),
    ("gpt_neo", {"attention_types": [[["global", "local"], 1]]}, "a pattern for all layers"),
    ("gpt_neox_japanese", {"intermediate_multiple_size": 2}, "a factor"),
    ("funnel", {"block_sizes": [1, 1], "num_decoder_layers": 1}, "depth by blocks"),
    (
        "mobilebert",
        {"intra_bottleneck_size": 64, "true_hidden_size": 64, "num_feedforward_networks": 2},
        "bottlenecks",
    ),
    ("convbert|squeezebert|roformer", {"embedding_size": 64}, "as wide as the rest"),
    ("convbert", {"conv_kernel_size": 3}, "short texts"),
    ("canine", {"num_hash_buckets": 64, "num_hash_functions": 4}, "hashes instead of a vocabulary"),
    ("canine", {"local_transformer_stride": 128, "downsampling_rate": 4}, "short texts"),
    (
        "reformer",
        {"attention_head_size": 16, "axial_pos_shape": [4, 4], "axial_pos_embds_dim": [32, 32], "hash_seed": 0}
        | {"attn_layers": ["local", "lsh"], "num_buckets": 2, "max_position_embeddings": 16}
        | {"lsh_attn_chunk_length": 4, "local_attn_chunk_length": 4},
        "chunks and positions multiply to the length",
    ),
    ("mra", {"block_per_row": 1}, "as many blocks as there are"),
    ("longformer|led", {"attention_window": [4, 4]}, "one for each layer"),
    ("nystromformer", {"num_landmarks": 4, "segment_means_seq_len": 16}, "whole segments"),
    ("big_bird|bigbird_pegasus", {"attention_type": "original_full"}, "block-sparse attention needs long texts"),
    ("pegasus_x", {"block_size": 4, "num_global_tokens": 2}, "short texts"),
    ("yoso", {"num_hash": 4, "use_expectation": True}, "without chance"),
    ("mpnet", {"relative_attention_num_buckets": 32}, "its code counts on 32"),
    ("luke", {"entity_emb_size": 32}, "small"),
    ("fsmt", {"langs": ["en", "de"]}, "no default"),
    ("xmod", {"languages": ["en_XX"], "default_language": "en_XX"}, "no default"),
    ("tapas", {"type_vocab_sizes": [3, 4, 4, 2, 4, 4, 2]}, "small"),
    ("prophetnet", {"ngram": 2, "num_buckets": 8, "relative_max_distance": 16}, "short texts"),
    ("cpmant", {"segment_types": 4, "prompt_types": 4, "prompt_length": 2, "dim_head": 16}, "prompts of its own"),
    ("cpmant", {"position_bias_num_buckets": 16, "position_bias_max_distance": 32}, "short texts"),
)

# How many tokens are read at once, where it is not any number.
BLOCKS = {"reformer": 16, "nystromformer": 16, "mra": 32}


def text_types() -> list[str]:
    """The `model_type` of every architecture that reads text and has a head."""
    found = {name for names in _TASKS.values() for name in names if not name.startswith(PREFIX)}
    return sorted(found - _NOT_TEXT)


def task_of(model_type: str) -> str:
    """What its model is built for: that of an encoder classifies texts, those of others write."""
    order = ("seq2seq", "causal", "classes", "masked", "tags")
    if model_type in _TASKS["masked"]:
        order = ("seq2seq", "classes", "masked", "tags")
    return next(task for task in order if model_type in _TASKS[task])


def config(model_type: str) -> transformers.PretrainedConfig:
    """A new tiny config."""
    cls = getattr(transformers, configuration_auto.CONFIG_MAPPING_NAMES[model_type])
    values: dict[str, Any] = {}
    for one in dataclasses.fields(cls):
        size = next((size for pattern, size in _SIZES if re.fullmatch(pattern, one.name)), None)
        default = None if one.default is dataclasses.MISSING else one.default
        takes = default is None or (isinstance(default, int) and not isinstance(default, bool))
        if size is not None and takes and one.default_factory is dataclasses.MISSING:
            values[one.name] = size
    for pattern, more, _ in _SPECIAL:
        if re.fullmatch(pattern, model_type):
            values |= more
    made = cls(**values)
    # T5's takes it as a keyword and has no default.
    if getattr(made, "is_encoder_decoder", False) and getattr(made, "decoder_start_token_id", None) is None:
        made.decoder_start_token_id = 1
    return made


def model(model_type: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> transformers.PreTrainedModel:
    """A stock model in evaluation mode; equal arguments give equal weights, none of which is too small to matter."""
    name = _TASKS[task_of(model_type)][model_type]
    cls = getattr(transformers, name if isinstance(name, str) else name[0])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # In this precision from the start, as it is loaded: buffers that are computed differ otherwise.
        built = cls._from_config(config(model_type), dtype=dtype, experts_implementation="eager")
        for parameter in built.parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.dim() < 2:  # biases and the weights of norms
                parameter.data += 0.2 * torch.randn_like(parameter) * (parameter.numel() > 1)
            elif not 0.08 <= float(parameter.std()) <= 2:
                parameter.data.normal_(0, 0.15)
    return built.to(dtype).eval()
