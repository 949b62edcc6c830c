"""The machine that a benchmark ran on, and its load: another program on the machine makes times longer."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from palinode.train.device import fingerprint


def machine_facts() -> dict[str, str | int | float]:
    """Software, processor and the load average of the last minute (1.0: one core was busy; the benchmark itself counts)."""
    return {**fingerprint(torch.device("cpu")), "processor": processor(), "load_average": round(os.getloadavg()[0], 2)}


def processor() -> str:
    """The processor's name as Linux gives it; elsewhere `unknown`."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
