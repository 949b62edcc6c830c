"""Random streams: the seed of a run gives an independent stream for data, init, dropout, objective, evaluation and audit.

Every random number in Palinode comes from `generator(seed, name, *position)`. The position is a step, a micro-batch or a block
of rows. So a stream can start at any position: a run that resumes at step 731 needs no stored state, and a run that evaluates more
often still reads the same training data.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NUMERICS_VERSION = 1  # raise this number when the same spec would give other bits; the number is part of every run id


def derive(seed: int, name: str, *position: int | str) -> int:
    """A 63-bit whole number from the SHA-256 of (seed, name, position)."""
    text = "/".join(str(item) for item in (NUMERICS_VERSION, seed, name, *position))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, name: str, *position: int | str) -> torch.Generator:
    """A new torch.Generator on the CPU for this stream at this position."""
    import torch

    made = torch.Generator()
    made.manual_seed(derive(seed, name, *position))
    return made
