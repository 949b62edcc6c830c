"""One run seed becomes independent named streams: data, init, dropout, objective, eval, audit.

Every random number in Palinode comes from `generator(seed, name, *position)`. The position (a step, a micro-batch, a
row block) is part of the derivation, so any stream can be entered anywhere: resuming at step 731 needs no stored state,
and changing how often one evaluates cannot move the training data.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NUMERICS_VERSION = 1  # raised when the same spec would give other bits; part of every run id


def derive(seed: int, name: str, *position: int | str) -> int:
    """A 63-bit integer from SHA-256 of (seed, name, position)."""
    text = "/".join(str(item) for item in (NUMERICS_VERSION, seed, name, *position))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, name: str, *position: int | str) -> torch.Generator:
    """A fresh CPU torch.Generator for this stream at this position."""
    import torch

    made = torch.Generator()
    made.manual_seed(derive(seed, name, *position))
    return made
