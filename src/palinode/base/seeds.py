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

# The first part of every derived seed. It never changes, also when the numerics version is raised: the initial weights, the windows
# and the splits stay, so runs of two numerics versions can be compared in pairs.
CONSTANT = 1


def derive(seed: int, name: str, *position: int | str) -> int:
    """A 63-bit whole number from the SHA-256 of (seed, name, position)."""
    text = "/".join(str(item) for item in (CONSTANT, seed, name, *position))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, name: str, *position: int | str) -> torch.Generator:
    """A new torch.Generator on the CPU for this stream at this position."""
    import torch

    made = torch.Generator()
    made.manual_seed(derive(seed, name, *position))
    return made
