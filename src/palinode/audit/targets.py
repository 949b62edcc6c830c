"""Other people's models at a size that an audit takes: a type of transformers made small, the vocabulary of a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from palinode.base.errors import BadInput

SMALL_VOCABULARY = 64
WINDOW_TOKENS = 32
# The names that configs of transformers use for one size, and its value in a small model.
SMALL_SIZES: Mapping[tuple[str, ...], int] = {
    ("vocab_size",): SMALL_VOCABULARY,
    (
        "hidden_size",
        "n_embd",
        "d_model",
        "embed_dim",
        "embedding_size",
        "word_embed_proj_dim",
        "attention_hidden_size",
    ): 32,
    ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"): 2,
    ("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads"): 2,
    ("num_key_value_heads", "num_kv_heads"): 2,
    ("head_dim",): 16,
    ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "decoder_ffn_dim", "d_inner"): 64,
    ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length"): 128,
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"): 4,
    ("num_experts_per_tok", "moe_topk", "num_experts_per_token"): 2,
    ("moe_intermediate_size", "shared_expert_intermediate_size"): 32,
    ("state_size", "mamba_d_state", "ssm_state_size"): 8,
    ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id"): 1,
    ("pad_token_id",): 0,
}


def vocabulary_of(model: nn.Module, name: str) -> int:
    """The number of ids that the first embedding of a model has.

    Raises:
        BadInput: it has none.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            return module.num_embeddings
    raise BadInput(
        "has no torch.nn.Embedding, so the size of its vocabulary is not known", file=name, hint="give --vocab-size"
    )


def small_config(model_type: str) -> Any:
    """The config of a model type of transformers at a small size: 2 blocks of width 32 and 64 ids, where it has these settings."""
    from transformers import AutoConfig

    standard = AutoConfig.for_model(model_type)
    sizes: dict[str, Any] = {
        name: size for names, size in SMALL_SIZES.items() for name in names if hasattr(standard, name)
    }
    if hasattr(standard, "is_decoder"):
        sizes["is_decoder"] = True
    make: Callable[..., Any] = type(standard)
    return make(**sizes)
