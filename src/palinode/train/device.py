"""The device, CPU threads, autocast and compilation of a run, and the fingerprint of what the bits of a run depend on."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch

from palinode.base.errors import EnvironmentProblem
from palinode.models.base import LanguageModel
from palinode.train.recipe import Precision

MEMORY_TABLE = Path("/proc/meminfo")
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


def has_devices(names: Iterable[DeviceName]) -> bool:
    """Whether this machine has the devices of these names."""
    return "cuda" not in names or torch.cuda.is_available()


def free_memory_bytes(device: torch.device, processes: int) -> float:
    """The free memory that each of so many processes can have: all of a GPU of its own, or an equal part of the machine's memory.

    Raises:
        EnvironmentProblem: the machine has fewer GPUs than processes.
    """
    if device.type == "cuda":
        if (count := torch.cuda.device_count()) < processes:
            message = f"{processes} processes need {processes} GPUs, and this machine has {count}"
            raise EnvironmentProblem(message, field="--processes")
        return float(torch.cuda.mem_get_info()[0])
    try:
        lines = MEMORY_TABLE.read_text().splitlines()
    except OSError:
        return math.inf
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024.0 * kilobytes[0] / processes if kilobytes else math.inf


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
