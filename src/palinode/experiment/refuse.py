"""What an experiment refuses before it measures, audits, writes or trains anything: parts that do not fit together, and models or
checkpoints that do not fit into the machine.

No refusal needs the weights of a model.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence

from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.experiment.cells import Cell
from palinode.results.store import Store
from palinode.run.one import refuse_evaluation
from palinode.train.device import resolve_device
from palinode.train.optim import build_optimizers

# Float32 weights, their gradients and one optimizer moment: no recipe takes less.
LEAST_BYTES_PER_PARAMETER = 12


def refuse_what_cannot_be(cells: Sequence[Cell]) -> None:
    """Refuse an experiment with a cell that could not be trained or measured.

    Raises:
        BadInput: parts do not fit together, or a model cannot do what its evaluation asks for.
        EnvironmentProblem: a model is larger than this machine's memory, or a device is missing.
    """
    for cell in cells:
        _refuse_too_large(cell)
        refuse_evaluation(cell.spec, cell.specials)
        resolve_device(cell.spec.device)
        _refuse_optimizer(cell)
        _ = cell.passes  # an objective that cannot make an example raises here


def refuse_full_disk(bytes_needed: int, store: Store) -> None:
    """Refuse runs whose checkpoints do not fit on the disk of the store.

    Raises:
        EnvironmentProblem: naming both numbers.
    """
    free = shutil.disk_usage(store.create().root).free
    if bytes_needed > free:
        message = f"the runs need about {bytes_needed:,} bytes and {free:,} are free"
        hint = "free some space, or name another store with --store"
        raise EnvironmentProblem(message, file=str(store.root), hint=hint)


def machine_memory_bytes() -> int | None:
    """The memory of this machine; None where the system does not tell."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _refuse_too_large(cell: Cell) -> None:
    """Refuse a model whose parameters alone, while they are trained, need more memory than the machine has.

    Without this the system would end the program, or other programs, while the weights are written.
    """
    try:
        needed = float(LEAST_BYTES_PER_PARAMETER * cell.model.total_parameters)
    except OverflowError:
        needed = math.inf
    memory = machine_memory_bytes()
    if memory is None or needed <= memory:
        return
    take = f"take at least {needed / 1e9:,.0f} GB" if math.isfinite(needed) else "take more bytes than 64 bits count"
    message = f"its parameters {take} to train, and this machine has {memory / 1e9:,.0f} GB"
    raise EnvironmentProblem(message, field="model")


def _refuse_optimizer(cell: Cell) -> None:
    """Refuse an optimizer that names a role which the model does not have."""
    config = cell.spec.recipe.optimizer
    try:
        cell.model.answer(lambda model: build_optimizers(config, model, model.parameter_groups()))
    except BadInput as refused:
        raise refused.inside("recipe.optimizer") from None
