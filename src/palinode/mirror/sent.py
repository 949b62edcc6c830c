"""What was sent to a tracker, in a file beside what the tracker wrote, so that a mirror that is started again sends nothing twice.

A row of the file is the position of one run after one batch. It is written when the tracker has taken the batch. If the process is
killed in between, this one batch is sent again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.config import encode
from palinode.base.errors import Damaged
from palinode.mirror.new_rows import Position
from palinode.results.files import decode_stored


class Sent:
    """The positions of all runs that were sent to one tracker in one directory.

    Raises:
        Damaged: the file exists, and is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        rows, damaged = fsio.read_rows(path)
        if damaged is not None:
            hint = "delete the directory to send everything again"
            raise Damaged(f"{damaged} is damaged", file=str(path), hint=hint)
        self._positions = {str(row.get("run")): decode_stored(Position, row.get("position"), path) for row in rows}
        if len(rows) > len(self._positions):
            fsio.rewrite_lines(path, [_row(*one) for one in self._positions.items()])

    def position(self, run: str) -> Position:
        """The position of a run. Nothing was sent of a run that is not in the file."""
        return self._positions.get(run, Position())

    def record(self, run: str, position: Position) -> None:
        """Write down what was sent of a run."""
        fsio.append_line(self.path, _row(run, position))
        self._positions[run] = position


def _row(run: str, position: Position) -> dict[str, Any]:
    return {"run": run, "position": encode(position)}
