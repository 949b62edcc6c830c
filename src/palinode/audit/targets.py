"""Models of other libraries at a size that an audit takes: small configs of transformers, and the vocabulary of a module.

A config of transformers has up to a hundred fields. The small value of most fields follows from the field's name: `SIZES` lists the
small value of each name. Fields that depend on several others (layers that differ, rotary sections, heads of a recurrence) have a
rule below. `OWN` lists the fields of single types that no rule covers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from palinode.base.errors import BadInput

SMALL_VOCABULARY = 64
WINDOW_TOKENS = 32
WIDTH, INNER_WIDTH, HEADS, HEAD_WIDTH, LAYERS, MOST_LAYERS = 32, 64, 4, 8, 2, 4
# An audit reads rows of up to 64 tokens. Two layers that see 40 tokens each see all of such a row together, and each cuts the row.
SLIDING_TOKENS = 40
SHORT_SLIDING_TOKENS = 8  # used where other layers see the whole row
MOST_POSITIONS = 128

# The small values, each with the names of its fields in configs of transformers. A field that is None or false stays as it is.
SIZES: tuple[tuple[int, str], ...] = (
    (
        SMALL_VOCABULARY,
        "vocab_size decoder_vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size "
        "audio_vocab_size encoder_hash_byte_group_vocab ngram_vocab_size_base unpadded_vocab_size",
    ),
    (
        WIDTH,
        "hidden_size n_embd d_model embed_dim embedding_size emb_dim embedding_dim word_embed_proj_dim "
        "attention_hidden_size lru_width input_embedding_size output_embedding_size backbone_hidden_size "
        "hidden_size_global projection_dim ple_embed_dim moe_intermediate_size shared_expert_intermediate_size "
        "shared_experts_intermediate_size shared_intermediate_size expert_ffn_hidden_size "
        "moe_shared_expert_intermediate_size router_hidden_size out_hidden_size output_proj_dims vision_output_dim "
        "projector_output_dim index_hidden_size text_hidden_size adapter_in_dim adapter_out_dim adapter_input_size",
    ),
    (
        INNER_WIDTH,
        "intermediate_size ffn_dim n_inner ffn_hidden_size decoder_ffn_dim encoder_ffn_dim d_inner dim_ff dff "
        "feed_forward_size dense_intermediate_size intermediate_size_mlp mamba_d_ssm prefix_dense_intermediate_size",
    ),
    (
        HEADS,
        "num_attention_heads n_head num_heads n_heads attention_heads decoder_attention_heads encoder_attention_heads "
        "num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads index_n_heads "
        "linear_num_value_heads linear_num_heads num_attention_heads_per_layer",
    ),
    (
        HEAD_WIDTH,
        "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim swa_head_dim swa_v_head_dim index_head_dim linear_head_dim "
        "linear_key_head_dim linear_value_head_dim attention_head_dim attention_head_size kv_channels dim_head d_head "
        "mamba_d_head mamba_head_dim mamba_headdim global_head_dim state_size mamba_d_state ssm_state_size d_rel "
        "shape_embed_dim pronunciation_embed_dim hidden_size_per_layer_input laurel_rank hc_lowrank gated_norm_rank "
        "adapter_rank chunk_size mamba_chunk_size block_size index_block_size local_attn_chunk_length "
        "lsh_attn_chunk_length mamba_dt_rank time_step_rank ffn_round_up_to_multiple_of block_multiple_of moe_latent_size",
    ),
    (
        LAYERS,
        "num_hidden_layers n_layer num_layers n_layers decoder_layers encoder_layers num_decoder_layers "
        "num_encoder_layers num_blocks num_key_value_heads swa_num_key_value_heads num_kv_heads "
        "num_global_key_value_heads kv_n_heads num_query_groups linear_num_key_heads num_experts_per_tok moe_topk moe_k "
        "moe_top_k num_experts_per_token top_k_experts n_groups mamba_n_groups mamba_ngroups n_group num_expert_group "
        "o_groups depth attn_layer_period expert_layer_period layer_group_size sliding_window_pattern "
        "global_attn_every_n_layers no_rope_layer_interval num_random_blocks heads_per_ngram zero_expert_num "
        "altup_num_inputs num_kv_shared_layers index_topk_blocks split_ngram_parts",
    ),
    (
        1,
        "topk_group num_nextn_predict_layers first_k_dense_replace num_dense_layers attn_layer_offset expert_layer_offset "
        "n_shared_experts num_shared_experts moe_num_shared_experts num_codebooks prompt_length num_mem_blocks "
        "num_layers_per_stack bos_token_id make_ngram_vocab_size_divisible_by",
    ),
    (16, "kv_lora_rank q_lora_rank o_lora_rank qk_head_dim patch_size num_centroids"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts cls_token_id"),
    (3, "sep_token_id"),
    (2, "eos_token_id decoder_start_token_id"),
    (0, "pad_token_id eod_token_id"),
    (
        MOST_POSITIONS,
        "max_position_embeddings n_positions n_ctx max_seq_len seq_length max_sequence_length model_max_length "
        "context_length max_target_positions max_source_positions original_max_position_embeddings "
        "position_embedding_size image_size rel_extent",
    ),
)
SIZE_OF: Mapping[str, int] = {name: size for size, names in SIZES for name in names.split()}
SLIDING = (
    "sliding_window",
    "sliding_window_size",
    "attention_window_size",
    "window_size",
    "local_attention",
    "attention_chunk_size",
)
# Fields that list the numbers of the layers with some property.
LAYER_NUMBERS = (
    "moe_layers",
    "full_attn_idxs",
    "mlp_only_layers",
    "attn_layer_indices",
    "hybrid_layer_ids",
    "cross_attention_layers",
)

LAYER_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "n_layers",
    "decoder_layers",
    "num_decoder_layers",
    "num_blocks",
    "num_layers_per_stack",
)
# A model cannot be built without these fields, and some configs have no value for them.
NEEDED = ("head_dim", "num_key_value_heads", "n_routed_experts", "num_experts_per_tok", "n_shared_experts")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "num_query_groups")
STATE_HEADS = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads")

# bamba, granitemoehybrid, lfm2_moe and recurrent_gemma need a layer of attention; zamba needs two that share their weights. The
# code of blt, cohere_compass_text, dbrx and xmod reads a field that their configs do not have. xlstm rounds its widths to 64.
# hrm_text counts the layers of all its cycles. A head of dots3_note has two parts. xlm and xlnet read in both directions by
# default. reformer draws new hashes at each call.
INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
OWN: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"num_hidden_layers": 2},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}}},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "dots3_note": {"text_config": {"head_dim": 2 * HEAD_WIDTH}},
    "dots3_note_text": {"head_dim": 2 * HEAD_WIDTH},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2},
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds": False, "hash_seed": 0},
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3},
}


def vocabulary_of(model: nn.Module, name: str) -> int:
    """The number of ids in the first embedding of a model.

    Raises:
        BadInput: the model has no embedding.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            return module.num_embeddings
    raise BadInput(
        "has no torch.nn.Embedding, so the size of its vocabulary is not known", file=name, hint="give --vocab-size"
    )


def small_config(model_type: str) -> Any:
    """The small config of a model type of transformers: blocks of width 32, 64 ids, and one layer of each kind."""
    from transformers import CONFIG_MAPPING

    own = OWN.get(model_type, {})
    make: Callable[..., Any] = CONFIG_MAPPING[model_type]
    return make(**_merged(small_fields(make()), own))


def small_values(standard: Any) -> dict[str, Any]:
    """Field -> small value, for a small model that is built from the config of an existing model."""
    return _merged(small_fields(standard, computed=True), OWN.get(standard.model_type, {}))


def _merged(fields: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both mappings, also inside sub-configs; where both have a field, `own` wins."""
    both = {name: _merged(fields[name], value) for name, value in own.items() if isinstance(fields.get(name), dict)}
    return {**fields, **own, **both}


def small_fields(standard: Any, *, computed: bool = False) -> dict[str, Any]:
    """The fields in which a small model's config differs from this config, with their small values.

    Args:
        computed: whether fields that a config computes from its other fields (declared as None, then a number) are among them. A
            config that is built from the fields of an existing one needs them: 9 heads that share 3 keys become 4 that share 2.
    """
    layers = _kept_layers(standard)
    own = vars(standard)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(standard):
        name, value = field.name, own.get(field.name)
        if hasattr(value, "to_dict"):
            fields[name] = small_fields(value, computed=computed)
        elif name in SIZE_OF and _gets_small(field, value, computed=computed):
            fields[name] = min(SIZE_OF[name], SIZE_OF[name] if value is None else value)
    for name in KEY_VALUE_HEADS:  # a small model has as many as heads where the standard model does
        if name in fields and own[name] == own.get("num_attention_heads"):
            fields[name] = HEADS
    if "is_decoder" in own:
        fields["is_decoder"] = True
    return {
        **fields,
        **_of_layers(standard, layers),
        **_sliding(standard, layers),
        **_rotary(standard),
        **_state(standard),
    }


def _gets_small(field: dataclasses.Field[Any], value: Any, *, computed: bool) -> bool:
    if value is None:
        return field.name in NEEDED
    return _is_size(value) and (computed or field.default is not None)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kept_layers(standard: Any) -> list[int]:
    """The numbers of the layers that a small model keeps: the first layer of each kind, at least 2 layers."""
    count = getattr(standard, "num_hidden_layers", 0)
    overrides = _overrides(standard)
    kinds: dict[str, int] = {}
    for layer in range(count):
        kinds.setdefault(str([_kind(standard, layer, count), overrides.get(layer)]), layer)
    kept = list(kinds.values())[:MOST_LAYERS]
    return kept * LAYERS if len(kept) == 1 else kept


def _kind(standard: Any, layer: int, count: int) -> list[Any]:
    """The kind of a layer: its entries in lists with one entry a layer, and the names of the lists that contain its number."""
    lists = _lists(standard)
    entries = [value[layer] for name, value in lists.items() if _is_by_layer(name, value, count)]
    return [entries, [layer in value for name, value in lists.items() if name in LAYER_NUMBERS]]


def _lists(standard: Any) -> dict[str, Sequence[Any]]:
    """The declared fields of a config whose value is a list of several values."""
    values = {field.name: vars(standard).get(field.name) for field in dataclasses.fields(standard)}
    return {name: value for name, value in values.items() if isinstance(value, (list, tuple)) and value}


def _is_by_layer(name: str, value: Sequence[Any], count: int) -> bool:
    return name not in LAYER_NUMBERS and len(value) == count > 1


def _overrides(standard: Any) -> dict[int, Mapping[str, Any]]:
    """The fields that a single layer overrides, by the number of the layer."""
    by_layer = standard.to_dict().get("per_layer_config") or {}
    return {int(layer): fields for layer, fields in by_layer.items()}


def _of_layers(standard: Any, layers: Sequence[int]) -> dict[str, Any]:
    """The fields with one entry a layer, or with numbers of layers, cut to the layers that the small model keeps."""
    if not layers:
        return {}
    count = standard.num_hidden_layers
    fields: dict[str, Any] = {name: len(layers) for name in LAYER_COUNTS if vars(standard).get(name) == count}
    for name, value in _lists(standard).items():
        if name in LAYER_NUMBERS:
            fields[name] = [new for new, layer in enumerate(layers) if layer in value]
        elif _is_by_layer(name, value, count):
            fields[name] = [SIZE_OF.get(name, value[layer]) for layer in layers]
    if overrides := _overrides(standard):
        fields["per_layer_config"] = {
            new: _small_override(overrides[layer]) for new, layer in enumerate(layers) if layer in overrides
        }
    return fields


def _small_override(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a single layer overrides, with their small values."""
    small = {name: SIZE_OF.get(name, value) for name, value in fields.items()}
    kv = {
        name: HEADS for name in KEY_VALUE_HEADS if name in fields and fields[name] == fields.get("num_attention_heads")
    }
    return {**small, **kv}


def _sliding(standard: Any, layers: Sequence[int]) -> dict[str, Any]:
    """The small lengths of sliding windows: shorter windows where another kind of layer sees the whole row."""
    types = vars(standard).get("layer_types") or vars(standard).get("layers_block_type") or ()
    kinds = {types[layer] for layer in layers if layer < len(types)}
    tokens = SHORT_SLIDING_TOKENS if any("full" in str(kind) for kind in kinds) else SLIDING_TOKENS
    return {name: tokens for name in SLIDING if isinstance(vars(standard).get(name), int)}


def _rotary(standard: Any) -> dict[str, Any]:
    """Rotary sections whose sum is half of a small head, and an even number of rotated dimensions."""
    fields: dict[str, Any] = {}
    if isinstance(vars(standard).get("rotary_dim"), int):
        fields["rotary_dim"] = HEAD_WIDTH // 2
    if isinstance(factor := vars(standard).get("partial_rotary_factor"), float):
        fields["partial_rotary_factor"] = max(factor, 0.5)
    if rope := _small_rope(vars(standard).get("rope_parameters")):
        fields["rope_parameters"] = rope
    return fields


def _small_rope(rope: Any) -> dict[str, Any] | None:
    """Rotary parameters for small heads, of one kind or by kind of layer; None when the standard parameters can stay."""
    if not isinstance(rope, dict):
        return None
    if any(isinstance(value, dict) for value in rope.values()):
        small = {kind: _small_rope(value) or value for kind, value in rope.items()}
        return None if small == rope else small
    changes: dict[str, Any] = {}
    if isinstance(factor := rope.get("partial_rotary_factor"), float):
        changes["partial_rotary_factor"] = max(factor, 0.5)
    if sections := rope.get("mrope_section"):
        half = int(HEAD_WIDTH * changes.get("partial_rotary_factor", 1.0)) // 2
        changes["mrope_section"] = [half - 2 * (half // 3), *[half // 3] * (len(sections) - 1)]
    if "original_max_position_embeddings" in rope:
        changes["original_max_position_embeddings"] = 128
    return {**rope, **changes} if changes else None


def _state(standard: Any) -> dict[str, Any]:
    """The heads of a recurrence. Together they are as wide as its inner state, which is `expand` times the width."""
    own = vars(standard)
    heads = next((name for name in STATE_HEADS if isinstance(own.get(name), int)), None)
    if heads is None and "expand" in own and "num_heads" in own:
        heads = "num_heads"
    expand = own.get("expand", own.get("mamba_expand"))
    return {} if heads is None or expand is None else {heads: int(expand * WIDTH) // HEAD_WIDTH}
