"""Tables about runs: the columns that identify the run of a row, and the frame that joins the rows of many runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import polars as pl

from palinode.results.record import ExperimentRun

MOST_ROWS = 20_000  # the rows that become part of a frame at once: a row as a dict needs ten times the memory
Row = dict[str, Any]
Schema = dict[str, Any]
Run = TypeVar("Run", bound=ExperimentRun)


def columns(*groups: tuple[Any, str]) -> Schema:
    """The schema made of groups of columns. A group is a pair: the type, and the names of the columns with spaces between them."""
    return {name: kind for kind, names in groups for name in names.split()}


CELL = columns((pl.String, "arm scale"))
RUN = CELL | columns((pl.Int64, "seed"))
RUN_AND_ID = RUN | columns((pl.String, "run_id"))


def run_frame(runs: Iterable[Run], rows_of: Callable[[Run], Iterable[Row]], schema: Schema) -> pl.DataFrame:
    """The frame with the rows of every run. Each row also gets the columns of RUN_AND_ID that are in the schema."""
    frames: list[pl.DataFrame] = []
    rows: list[Row] = []
    for run in runs:
        who = run.entry.model_dump()
        rows += [who | row for row in rows_of(run)]
        if len(rows) > MOST_ROWS:
            frames.append(pl.DataFrame(rows, schema=schema))
            rows = []
    return pl.concat([*frames, pl.DataFrame(rows, schema=schema)])
