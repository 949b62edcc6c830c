"""Whether a model can be trained in this machine's memory, said before anything of its size is allocated."""

from __future__ import annotations

import math
import os

import torch

from palinode.base.errors import EnvironmentProblem
from palinode.base.example import SpecialTokens
from palinode.spec.run_spec import RunSettings

# Float32 weights, their gradients and one optimizer moment: no recipe takes less.
LEAST_BYTES_PER_PARAMETER = 12
OVERFLOW = "overflowed"  # what torch says of a tensor whose bytes are more than 64 bits count


def machine_memory_bytes() -> int | None:
    """What the machine has; None where the system does not tell."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def refuse_too_large(settings: RunSettings, specials: SpecialTokens) -> None:
    """Refuse a model whose parameters alone, as they are trained, are more than the machine can hold.

    Without this the system ends the program, or others, once the parameters are written.

    Raises:
        EnvironmentProblem: naming what it would take.
    """
    memory, parameters = machine_memory_bytes(), _parameters(settings, specials)
    needed = None if parameters is None else LEAST_BYTES_PER_PARAMETER * parameters
    if needed is None or memory is None or needed <= memory:
        return
    take = f"take at least {needed / 1e9:,.0f} GB" if math.isfinite(needed) else "take more bytes than 64 bits count"
    raise EnvironmentProblem(
        f"its parameters {take} to train, and this machine has {memory / 1e9:,.0f} GB", field="model"
    )


def _parameters(settings: RunSettings, specials: SpecialTokens) -> float | None:
    """Counted without allocating any; infinite beyond what can be counted, None of a model that is not made this way."""
    try:
        with torch.device("meta"):
            model = settings.model.build(specials.vocab_size, settings.data.window_tokens, 0)
    except (RuntimeError, TypeError) as problem:  # a user's model that computes with the numbers it begins with
        return float("inf") if OVERFLOW in str(problem) else None
    return sum(parameter.numel() for parameter in model.parameters())
