"""A model as config.json and weights of a class of transformers, where one computes the same; else as code that imports Palinode.

| decoder | class |
|---|---|
| attention, learned positions, LayerNorm, `gelu` | GPT2LMHeadModel |
| attention, full rotary positions, RMSNorm, `swiglu` | LlamaForCausalLM |
| `HfModel` | its own, with low-rank maps merged |
| any other model | `modeling_palinode.py`, which builds the model from its config |

Our rotary positions turn the halves of a head in the other order than Llama's, so the halves of the rows of q and k change places.
No class of transformers has a norm after the embedding, a soft-cap as ours, QK-norm with a scale, or an untied head with biases.
Legend: D width, V vocabulary, C longest row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from palinode.base.config import encode
from palinode.models.base import LanguageModel
from palinode.models.decoder import Decoder, DecoderConfig
from palinode.models.hugging_face import HfLanguageModel, HfModel, merged
from palinode.models.mixers.attention import Attention, AttentionConfig
from palinode.models.parts.linear import LAYER_NORM_EPSILON, Linear, Norm
from palinode.spec.run_spec import RunSpec

Tensors = dict[str, Tensor]
CODE_FILE = "modeling_palinode.py"
RMS_EPSILON = torch.finfo(torch.float32).eps  # the epsilon of `rms_norm` in float32


@dataclass(frozen=True)
class Exported:
    """A model in the form of transformers.

    Attributes:
        config: the content of config.json.
        tensors: the content of model.safetensors.
        needs_palinode: whether the class is `modeling_palinode.py`.
    """

    config: Mapping[str, Any]
    tensors: Tensors = field(repr=False)
    needs_palinode: bool = False


def exported(model: LanguageModel, spec: RunSpec, first_special: int) -> Exported:
    """The model in the class of transformers that computes the same, or as code of its own.

    Args:
        first_special: the id of `[L]`, which becomes the bos token.
    """
    common = {"vocab_size": model.vocab_size, "bos_token_id": first_special, "eos_token_id": None, "dtype": "float32"}
    if type(spec.model) is DecoderConfig and isinstance(model, Decoder):  # a user's class may compute something else
        for fits, made in ((_is_gpt2, _gpt2), (_is_llama, _llama)):
            if fits(model.config):
                config, tensors = made(model)
                return Exported({**common, **config}, tensors)
    if type(spec.model) is HfModel and isinstance(model, HfLanguageModel):
        own = {name: value for name, value in model.lm.config.to_dict().items() if name != "quantization_config"}
        architecture = {"architectures": [type(model.lm).__name__]}
        return Exported({**own, **architecture, **common}, dict(merged(model)))
    config = {
        "architectures": ["PalinodeForCausalLM"],
        "model_type": "palinode",
        "auto_map": {
            "AutoConfig": f"{CODE_FILE.removesuffix('.py')}.PalinodeConfig",
            "AutoModelForCausalLM": f"{CODE_FILE.removesuffix('.py')}.PalinodeForCausalLM",
        },
        "palinode_spec": encode(spec),
        "palinode_slots": model.max_length,
    }
    tensors = {f"palinode.{name}": value for name, value in model.state_dict().items()}
    return Exported({**common, **config}, tensors, needs_palinode=True)


# --- which class fits -----------------------------------------------------------------------------------------------


def _is_plain(config: DecoderConfig) -> bool:
    """Whether a decoder has only what GPT-2 and Llama have besides their positions, norms and MLPs."""
    return (
        all(type(mixer) is AttentionConfig for mixer in config.layer_mixers())
        and not config.embed_norm
        and not config.qk_norm
        and config.soft_cap == "none"
        and config.subtract_position == "none"
        and (config.tied_head or not config.bias)
    )


def _is_gpt2(config: DecoderConfig) -> bool:
    return _is_plain(config) and (config.position, config.norm, config.mlp) == ("learned", "layer", "gelu")


def _is_llama(config: DecoderConfig) -> bool:
    own = (config.position, config.rotary, config.norm, config.mlp)
    return _is_plain(config) and own == ("rotary", "full", "rms", "swiglu")


# --- GPT-2 ----------------------------------------------------------------------------------------------------------


def _gpt2(model: Decoder) -> tuple[dict[str, Any], Tensors]:
    own = model.config
    assert model.position is not None
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu",
        "n_embd": own.width,
        "n_head": own.heads,
        "n_layer": own.layers,
        "n_inner": model.blocks[0].mlp.up.weight.shape[0],
        "n_positions": model.max_length,
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
        "tie_word_embeddings": own.tied_head,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), own.dropout),
    }
    tensors: Tensors = {
        "transformer.wte.weight": model.embedding.weight,
        "transformer.wpe.weight": model.position.weight,
    }
    for index, block in enumerate(model.blocks):
        at = f"transformer.h.{index}"
        tensors |= _gpt2_norm(f"{at}.ln_1", block.mixer_norm) | _gpt2_norm(f"{at}.ln_2", block.mlp_norm)
        weights, biases = zip(*(_weight_and_bias(one) for one in _scaled_maps(block.mixer)), strict=True)
        tensors |= {f"{at}.attn.c_attn.weight": torch.cat(weights).T, f"{at}.attn.c_attn.bias": torch.cat(biases)}
        for name, linear in (
            ("attn.c_proj", block.mixer.out),
            ("mlp.c_fc", block.mlp.up),
            ("mlp.c_proj", block.mlp.down),
        ):
            weight, bias = _weight_and_bias(linear)
            tensors |= {f"{at}.{name}.weight": weight.T, f"{at}.{name}.bias": bias}
    tensors |= _gpt2_norm("transformer.ln_f", model.final_norm)
    return config, tensors | _head(model)


def _gpt2_norm(name: str, norm: Norm) -> Tensors:
    one = torch.ones(norm.width)
    gain = one if norm.gain is None else norm.gain
    return {f"{name}.weight": gain, f"{name}.bias": torch.zeros_like(one) if norm.shift is None else norm.shift}


# --- Llama ----------------------------------------------------------------------------------------------------------


def _llama(model: Decoder) -> tuple[dict[str, Any], Tensors]:
    own, inner = model.config, model.blocks[0].mlp.up.weight.shape[0]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": own.width,
        "intermediate_size": inner,
        "num_hidden_layers": own.layers,
        "num_attention_heads": own.heads,
        "num_key_value_heads": own.heads,
        "head_dim": own.width // own.heads,
        "max_position_embeddings": model.max_length,
        "rms_norm_eps": RMS_EPSILON,
        "rope_theta": own.rotary_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": own.rotary_base},
        "attention_bias": own.bias,
        "mlp_bias": own.bias,
        "attention_dropout": own.dropout,
        "tie_word_embeddings": own.tied_head,
    }
    tensors: Tensors = {
        "model.embed_tokens.weight": model.embedding.weight,
        **_llama_norm("model.norm", model.final_norm),
    }
    for index, block in enumerate(model.blocks):
        at, mlp = f"model.layers.{index}", block.mlp
        tensors |= _llama_norm(f"{at}.input_layernorm", block.mixer_norm)
        tensors |= _llama_norm(f"{at}.post_attention_layernorm", block.mlp_norm)
        q, k, v = _scaled_maps(block.mixer)
        maps = {
            "self_attn.q_proj": _halves_swapped(q, own.heads),
            "self_attn.k_proj": _halves_swapped(k, own.heads),
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.mixer.out,
            "mlp.gate_proj": mlp.gate,
            "mlp.up_proj": mlp.up,
            "mlp.down_proj": mlp.down,
        }
        tensors |= {f"{at}.{name}.{key}": value for name, one in maps.items() for key, value in one.named_parameters()}
    return config, tensors | _head(model)


def _llama_norm(name: str, norm: Norm) -> Tensors:
    return {f"{name}.weight": torch.ones(norm.width) if norm.gain is None else norm.gain}


def _halves_swapped(linear: nn.Linear, heads: int) -> nn.Linear:
    """A map of q or k whose output has the two halves of each head in the other order."""
    swapped = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
    with torch.no_grad():
        for to, value in zip(swapped.parameters(), linear.parameters(), strict=True):
            by_half = value.view(heads, 2, -1, *value.shape[1:])
            to.copy_(by_half.flip(1).reshape(value.shape))
    return swapped


# --- both -----------------------------------------------------------------------------------------------------------


def _scaled_maps(attention: Attention) -> Iterator[nn.Linear]:
    """The maps of q, k and v. The map of q has the factor by which our scale of the scores differs from 1 / sqrt(head width)."""
    factor = attention.scale * attention.head_width**0.5
    for ours, times in ((attention.q, factor), (attention.k, 1.0), (attention.v, 1.0)):
        made = nn.Linear(ours.weight.shape[1], ours.weight.shape[0], bias=ours.bias is not None)
        with torch.no_grad():
            for to, value in zip(made.parameters(), ours.parameters(), strict=True):
                to.copy_(value * times if times != 1.0 else value)
        yield made


def _weight_and_bias(linear: nn.Linear | Linear) -> tuple[Tensor, Tensor]:
    """The weight and the bias; a bias of zeros where there is none."""
    weight = linear.weight
    return weight, weight.new_zeros(len(weight)) if linear.bias is None else linear.bias


def _head(model: Decoder) -> Tensors:
    return {} if model.head is None else {"lm_head.weight": model.head.weight}
