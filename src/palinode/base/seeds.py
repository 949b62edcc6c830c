"""Random streams: the seed of a run gives an independent stream for data, init, dropout, objective, evaluation and audit.

Every random number in Palinode comes from `generator(seed, name, *position)`. The position is a step, a micro-batch or a block
of rows. So a stream can start at any position: a run that resumes at step 731 needs no stored state, and a run that evaluates more
often still reads the same training data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from palinode.base.derived_seed import derive as derive

if TYPE_CHECKING:
    import torch


def generator(seed: int, name: str, *position: int | str) -> torch.Generator:
    """A new torch.Generator on the CPU for this stream at this position."""
    import torch

    made = torch.Generator()
    made.manual_seed(derive(seed, name, *position))
    return made
