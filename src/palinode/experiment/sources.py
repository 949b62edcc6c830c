"""The runs that other runs of an experiment start from: they must be there, fit, and have passed their audit."""

from __future__ import annotations

from collections.abc import Sequence

from palinode.base.errors import BadInput, PalinodeError
from palinode.experiment.cells import Cell
from palinode.results.store import Store
from palinode.run.start import finished_source, refuse_failed_source, refuse_shapes
from palinode.spec.start import FIELD, StartFrom
from palinode.train.checkpoint import CHECKPOINTS, newest_first, weight_shapes

Planned = dict[str, Cell]  # run id -> the cell of the run


def refuse_sources(cells: Sequence[Cell], store: Store) -> None:
    """Refuse an experiment with a run that could not start from the run it names. Runs that have ended need no source.

    Raises:
        BadInput: a source is gone, is not done, or has a model of another shape.
        AuditFailed: a source failed its audit, and the arm is not marked `expect_leak`. A source of this experiment is judged when
            the run begins.
    """
    planned: Planned = {spec.run_id: cell for cell in cells for spec in cell.specs}
    for cell in cells:
        for spec in cell.specs:
            if spec.start_from is None or store.ended(spec.run_id) is not None:
                continue
            try:
                _refuse_source(cell, spec.start_from, planned, store)
            except PalinodeError as refused:
                field = f"arms.{cell.arm.name}.change.{refused.field or FIELD}"
                raise type(refused)(refused.message, field=field, hint=refused.hint) from None


def _refuse_source(cell: Cell, start: StartFrom, planned: Planned, store: Store) -> None:
    if start.run in planned:
        source = planned[start.run].model.model
        given = {name: tuple(tensor.shape) for name, tensor in source.state_dict().items()}
    else:
        finished_source(start, store)
        checkpoints = newest_first(store.run_directory(start.run) / CHECKPOINTS)
        if not checkpoints:
            raise BadInput(f"run {start.run} keeps no checkpoint", field=FIELD, hint="train it again")
        given = weight_shapes(checkpoints[0])
        refuse_failed_source(start, store, [cell.arm])
    refuse_shapes(cell.model.model, given)


def tokens_before(cells: Sequence[Cell], store: Store) -> dict[tuple[str, str], float]:
    """(arm, scale) -> the tokens that the first weights of a run were trained on, in all runs before; of runs with a source."""
    planned: Planned = {spec.run_id: cell for cell in cells for spec in cell.specs}

    def before(start: StartFrom | None) -> float:
        if start is None:
            return 0.0
        if (source := planned.get(start.run)) is not None:
            share = 1.0 if start.step is None else min(1.0, start.step / source.steps)
            return source.counters["tokens_read"] * share + before(source.spec.start_from)
        counters = finished_source(start, store).counters
        return float(counters.get("tokens_read") or 0) + float(counters.get("tokens_read_before") or 0)

    return {(cell.arm.name, cell.scale): before(cell.spec.start_from) for cell in cells if cell.spec.start_from}
