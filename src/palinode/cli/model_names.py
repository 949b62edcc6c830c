"""Models that a user names on the command line: a type or a folder of transformers, or a class in an importable module.

hf:llama                 a model type of the installed transformers, at a small size, with random weights
hf:path/to/folder        a folder that transformers saved: its config, and its weights if it has weights
package.module:Class     a class that is called without arguments and gives a torch module: (B, T) ids -> (B, T, V) logits
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palinode.base.errors import BadInput, EnvironmentProblem, nearest

if TYPE_CHECKING:
    from torch import nn

HF = "hf:"
WEIGHTS_SEED = 0


def is_target(text: str) -> bool:
    """Whether a text names a model, and not an experiment file."""
    return text.startswith(HF) or (
        ":" in text and not os.path.lexists(text) and not text.endswith((".py", ".toml", ".json"))
    )


def target_of(text: str, vocab_size: int | None = None) -> tuple[nn.Module, int]:
    """The model that a user named, in evaluation mode, and V, the number of ids that it takes.

    Args:
        vocab_size: V; default: the number in the config, or in the first embedding of the module.

    Raises:
        BadInput: the model does not exist, or the model cannot be made.
        EnvironmentProblem: transformers is not installed.
    """
    from palinode.audit.targets import vocabulary_of

    model, vocabulary = _from_transformers(text.removeprefix(HF)) if text.startswith(HF) else (_from_module(text), None)
    return model.eval(), vocab_size or vocabulary or vocabulary_of(model, text)


def _from_module(text: str) -> nn.Module:
    from torch import nn

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
    from palinode.audit.targets import small_config
    from palinode.checks.copies import seeded_passes

    # No progress bars, and no warnings about unset options on the terminal.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
    except ImportError:
        hint = "pip install palinode[hf]"
        raise EnvironmentProblem("transformers is not installed", file=HF + text, hint=hint) from None
    factory: Any = AutoModelForCausalLM
    folder, stored = Path(text), {"local_files_only": True, "trust_remote_code": False}
    if not folder.is_dir() and text not in CONFIG_MAPPING:
        suggestion = nearest(text, CONFIG_MAPPING.keys())
        raise BadInput("is neither a folder nor a model type of transformers", file=HF + text, hint=suggestion)
    try:
        config: Any = AutoConfig.from_pretrained(folder, **stored) if folder.is_dir() else small_config(text)
        has_weights = any(folder.glob("*.safetensors"))
        with seeded_passes(WEIGHTS_SEED, "weights"):  # the same random weights each time
            model = factory.from_pretrained(folder, **stored) if has_weights else factory.from_config(config)
    except Exception as error:  # noqa: BLE001 - transformers raises anything for a config that it cannot build
        first = str(error).strip().partition("\n")[0]
        raise BadInput(f"cannot be built: {type(error).__name__}: {first}", file=HF + text) from error
    return model, int(config.get_text_config(decoder=True).vocab_size)
