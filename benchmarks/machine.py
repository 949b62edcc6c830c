"""What a benchmark was measured on, and how busy it was: numbers from a shared machine say so."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from palinode.train.device import fingerprint


def described() -> dict[str, str | int | float]:
    """Software, processor and the load of the last minute (1.0 is one core kept busy, ours included)."""
    return {**fingerprint(torch.device("cpu")), "processor": processor(), "load_average": round(os.getloadavg()[0], 2)}


def processor() -> str:
    """The processor's name where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
