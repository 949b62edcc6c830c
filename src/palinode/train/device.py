"""The device, CPU threads, autocast and compilation of a run, and the fingerprint of what the bits of a run depend on."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from typing import Any, Literal

import torch

from palinode.base.errors import EnvironmentProblem
from palinode.models.base import LanguageModel
from palinode.train.recipe import Precision

DeviceName = Literal["cpu", "cuda", "auto"]


def resolve_device(name: DeviceName) -> torch.device:
    """The device of this name. `auto` means CUDA when the machine has CUDA, else the CPU.

    Raises:
        EnvironmentProblem: the name is `cuda` and the machine has no CUDA.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("no CUDA device on this machine", field="device", hint='use "cpu" or "auto"')
    return torch.device(name)


def use_threads(count: int) -> None:
    """Compute with `count` CPU threads. The spec has this number, because one and two threads round differently."""
    torch.set_num_threads(count)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """A context for the forward pass: autocast for bfloat16, or no change for float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device_type=device.type, dtype=torch.bfloat16)


def computes_bfloat16() -> bool | None:
    """Whether this CPU multiplies bfloat16 itself; False if PyTorch emulates it, much slower; None if PyTorch does not say."""
    asked = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    answers = [bool(ask()) for ask in asked if callable(ask)]
    return any(answers) if any(answers) or len(answers) == len(asked) else None


def compiled(model: LanguageModel) -> LanguageModel:
    """The same model with its stack compiled; parameters, names and checkpoints do not change."""
    for name in model.compiled_methods:
        setattr(model, name, torch.compile(getattr(model, name), dynamic=False))
    return model


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself; of a tensor that is cut over processes, all parts together. Then every process has to make this call."""
    together = getattr(tensor, "full_tensor", None)
    return tensor if together is None else together()


def fingerprint(device: torch.device) -> dict[str, str | int]:
    """The values besides the spec that the bits of a run depend on. Runs with equal spec and fingerprint have equal bits."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "logical_cores": os.cpu_count() or 0,
    }
