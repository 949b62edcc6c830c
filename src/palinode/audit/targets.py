"""Models that a user names on the command line: a type or a folder of transformers, or a class in an importable module.

hf:llama                 a model type of the installed transformers, at a small size, with random weights
hf:path/to/folder        a folder that transformers saved: its config, and its weights where they are there
package.module:Class     called without arguments; it must give a torch module that maps (B, T) ids to (B, T, V) logits
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from palinode.base.errors import BadInput, EnvironmentProblem, nearest

HF = "hf:"
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


@dataclass(frozen=True)
class Target:
    """A model to audit.

    Attributes:
        vocab_size: V, the number of ids that it takes.
    """

    name: str
    model: nn.Module
    vocab_size: int


def is_target(text: str) -> bool:
    """Whether this names a model, and not an experiment file."""
    return text.startswith(HF) or (
        ":" in text and not os.path.lexists(text) and not text.endswith((".py", ".toml", ".json"))
    )


def target_of(text: str, vocab_size: int | None = None) -> Target:
    """The model that a user named, in evaluation mode.

    Args:
        vocab_size: V; default: from the config, or from the first embedding of the module.

    Raises:
        BadInput: there is no such model, or it cannot be made.
        EnvironmentProblem: transformers is not installed.
    """
    model, vocabulary = _from_transformers(text.removeprefix(HF)) if text.startswith(HF) else (_from_module(text), None)
    return Target(text, model.eval(), vocab_size or vocabulary or vocabulary_of(model, text))


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


def _from_module(text: str) -> nn.Module:
    place, _, attribute = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(place)
        for step in attribute.split("."):
            found = getattr(found, step)
        model = found() if callable(found) and not isinstance(found, nn.Module) else found
    except ModuleNotFoundError as error:
        raise BadInput(f"no module named {error.name!r}", file=text, hint="name it as package.module:Class") from None
    except AttributeError:
        names = [name for name in vars(importlib.import_module(place)) if not name.startswith("_")]
        raise BadInput(f"{place} has no {attribute!r}", file=text, hint=nearest(attribute, names)) from None
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        raise BadInput(f"cannot be made: {type(error).__name__}: {error}", file=text) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(model, nn.Module):
        raise BadInput(f"gives a {type(model).__name__}, not a torch module", file=text)
    return model


def _from_transformers(text: str) -> tuple[nn.Module, int]:
    with _quiet_transformers():
        try:
            from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
        except ImportError:
            hint = "pip install palinode[hf]"
            raise EnvironmentProblem("transformers is not installed", file=HF + text, hint=hint) from None
        factory: Any = AutoModelForCausalLM
        folder = Path(text)
        if not folder.is_dir() and text not in CONFIG_MAPPING:
            suggestion = nearest(text, CONFIG_MAPPING.keys())
            raise BadInput("is neither a folder nor a model type of transformers", file=HF + text, hint=suggestion)
        try:
            if folder.is_dir():
                config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
                has_weights = any(folder.glob("*.safetensors"))
                model = (
                    factory.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
                    if has_weights
                    else factory.from_config(config)
                )
            else:
                torch.manual_seed(0)
                config = small_config(text)
                model = factory.from_config(config)
        except Exception as error:  # noqa: BLE001 - transformers raises anything for a config that it cannot build
            first = str(error).strip().partition("\n")[0]
            raise BadInput(f"cannot be built: {type(error).__name__}: {first}", file=HF + text) from error
    return model, int(config.get_text_config().vocab_size)


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


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars, and no warnings about unset options on the terminal."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    yield
