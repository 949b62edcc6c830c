"""The rows of metrics that a run has written since the last look, each step once.

Where two attempts logged a step, `Record.metrics` takes the row of the later attempt. A tracker cannot forget a row. So a row of an
earlier attempt that the later one replaces is left out if it was not sent yet. If it was sent, the row of the later attempt is
left out: on one kind of machine both have the same numbers (docs/reliability.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from palinode.base import fsio
from palinode.base.config import Config
from palinode.base.errors import Damaged
from palinode.results.files import is_regular, whole
from palinode.results.rows import ATTEMPT_EVENT, TRAIN_AGAIN, Row, metrics_paths, up_to_step


class Position(Config):
    """How much of a run was sent.

    Attributes:
        read: name of a metrics file -> the number of its bytes that were read.
        steps: kind of row, such as `train` or `eval validation` -> the last step whose row was sent.
        ended: whether the numbers of the result were sent, after which the run writes no rows.
    """

    read: Mapping[str, int] = Field(default_factory=dict)
    steps: Mapping[str, int] = Field(default_factory=dict)
    ended: bool = False


def new_rows(directory: Path, position: Position) -> tuple[list[Row], Position]:
    """The rows of a run after a position, in the order of writing, and the position after them.

    Only what was appended is read. A damaged line is left out; `palinode ls --verify` finds it.

    Raises:
        Damaged: a metrics file cannot be read, or is no regular file.
    """
    rows: list[Row] = []
    read = dict(position.read)
    for path in metrics_paths(directory):
        if not is_regular(path):
            raise Damaged("is not a regular file", file=str(path), hint=TRAIN_AGAIN)
        found, read[path.name] = fsio.read_rows_from(path, read.get(path.name, 0))
        for row in found:
            if row.get("event") == ATTEMPT_EVENT:
                rows = up_to_step(rows, whole(row.get("from_step")))
            else:
                rows.append(row)
    steps, new = dict(position.steps), []
    for row in rows:
        kind, step = kind_of(row), whole(row.get("step"))
        if step > steps.get(kind, -1):
            steps[kind] = step
            new.append(row)
    return new, Position(read=read, steps=steps)


def kind_of(row: Mapping[str, Any]) -> str:
    """The event of a row, and its split if it has one."""
    return f"{row.get('event')} {row.get('split') or ''}".strip()
