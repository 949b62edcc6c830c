"""`palinode.read`: every number that runs recorded, as one table with a row for each number."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from palinode.analysis.frames import Row, Schema, columns, run_frame
from palinode.base.errors import BadInput, Damaged
from palinode.results.record import ExperimentEntry, ExperimentRun, Record, RunEntry
from palinode.results.store import DEFAULT_ROOT, Store

LOG = logging.getLogger("palinode")
RESULT = "result"  # the event of the numbers that only the result of a run holds
OF_RESULT = ("counters", "parameters", "seconds", "rates")
OF_ROW: Schema = columns(
    (pl.String, "event split"),
    (pl.Boolean, "final"),
    (pl.Int64, "step"),
    (pl.Float64, "seconds tokens_read train_flops"),
)
SCHEMA: Schema = {
    **columns((pl.String, "run arm scale"), (pl.Int64, "seed")),
    **OF_ROW,
    **columns((pl.String, "name"), (pl.Float64, "value")),
}


def read(run_or_experiment: str, store: Store | Path | str = DEFAULT_ROOT) -> pl.DataFrame:
    """Every number of a run, or of all runs of an experiment, as a polars frame: a row for each number.

    The columns `step`, `seconds` (of training), `tokens_read` and `train_flops` say how far the run was. `name` is the dotted path
    of the number in its row of metrics, such as `scores.rtl.accuracy` (event `eval`) or `nats_by_group.ltr` (event `train`).
    Rows of the event `result` hold the counters, parameters, seconds and rates at the end of the run. An experiment of which
    some runs are missing gives the numbers that there are. A damaged run of an experiment is left out with a warning.

    Args:
        run_or_experiment: the beginning of a run's id, or the name of an experiment (`<name>--<size>`, or `<name>` if it was run
            at one size).
        store: the results store, or its directory.

    Raises:
        BadInput: the store has no run and no experiment of this name, or several.
        Damaged: the run, or the file of the experiment, cannot be read.
    """
    place = store if isinstance(store, Store) else Store(store)
    if not place.root.is_dir():
        raise BadInput("there is no results store here", file=str(place.root))
    is_experiment = any(run_or_experiment in (entry.name, entry.full_name) for entry in place.experiments())
    if not is_experiment and any(run_id.startswith(run_or_experiment) for run_id in place.run_ids()):
        record = place.record(place.find(run_or_experiment))
        return _frame([ExperimentRun(_entry_of(record, place.experiments()), record)])
    try:
        entry = place.entry(run_or_experiment)
    except BadInput as error:
        message = f"{run_or_experiment!r} is neither an experiment nor a run in {place.root}"
        raise BadInput(message, hint=error.hint) from None
    return _frame(_runs_of(entry, place))


def _runs_of(entry: ExperimentEntry, store: Store) -> Iterator[ExperimentRun]:
    """The runs of an experiment that can be read, one at a time. None are its own while trials are left to do."""
    held = set(store.run_ids())
    for run in () if entry.to_choose else entry.runs:
        if run.run_id not in held:
            continue
        try:
            record = store.record(run.run_id)
            _ = record.metrics
        except Damaged as damage:
            LOG.warning("left out: %s", damage)
        else:
            yield ExperimentRun(run, record)


def _entry_of(record: Record, entries: Iterable[ExperimentEntry]) -> RunEntry:
    """The arm, scale and seed of a run in its experiment. A run of no experiment has neither arm nor scale."""
    for entry in entries:
        for run in entry.runs:
            if run.run_id == record.run_id:
                return run
    return RunEntry(arm="", scale="", seed=int(record.spec.get("seed", 0)), run_id=record.run_id)


def _frame(runs: Iterable[ExperimentRun]) -> pl.DataFrame:
    frame = run_frame(runs, _rows, SCHEMA)
    return frame.with_columns(pl.col("arm", "scale").replace("", None))


def _rows(run: ExperimentRun) -> Iterator[Row]:
    assert run.record is not None
    for row in (*run.record.metrics, *row_of_result(run.record)):
        place = {"run": run.entry.run_id} | {name: row.get(name) for name in OF_ROW}
        for name, item in row.items():
            if name not in OF_ROW:
                yield from (place | {"name": path, "value": value} for path, value in numbers_in(item, name))


def row_of_result(record: Record) -> list[Row]:
    """The numbers of a run's result in the form of a row of metrics; empty for a run without a result. The event is `result`."""
    result = record.result
    if result is None:
        return []
    counters = result.counters
    reached = {"step": counters.get("optimizer_steps"), "seconds": result.seconds.get("train")}
    reached |= {name: counters.get(name) for name in ("tokens_read", "train_flops")}
    tables = {f"{name}_at_end" if name == "seconds" else name: getattr(result, name) for name in OF_RESULT}
    return [{"event": RESULT, "final": True, **reached, **tables}]


def numbers_in(item: Any, path: str, *, with_lists: bool = True) -> Iterator[tuple[str, float]]:
    """(dotted path, number) of every number in a value of a metrics row. Items of a list are counted from 0.

    Args:
        with_lists: whether numbers inside lists are given, too. Lists hold tables, such as the slices of a task.
    """
    if isinstance(item, Mapping):
        for key, inner in item.items():
            yield from numbers_in(inner, f"{path}.{key}", with_lists=with_lists)
    elif isinstance(item, list):
        for index, inner in enumerate(item if with_lists else ()):
            yield from numbers_in(inner, f"{path}.{index}")
    elif isinstance(item, int | float) and not isinstance(item, bool):
        yield path, float(item)
