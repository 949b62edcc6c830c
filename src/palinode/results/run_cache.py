"""The cache of a large experiment: the specs, results and rows of metrics of the runs that have ended, in one parquet file.

Without the cache, an experiment of 10,000 runs reads and checks 30,000 files. A run is taken from the cache while its files have
the inode, size and change time that they had when they were checked. The rows of an event are read from the cache when they are
first used. Every text has its CRC-32. A cache that is missing, damaged or of another version is left out, without an error.

A cached run has at most MOST_ROWS rows of training and of evaluation. Where a run has more, evenly spaced rows and the last one
stay.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from palinode.base import fsio
from palinode.base.config import encode
from palinode.base.errors import BadInput, Damaged, EnvironmentProblem
from palinode.results.index import signature
from palinode.results.record import Record, Result

MOST_ROWS = 200
THINNED = ("train", "eval")
HEAD = ("run_id", "mark", "spec", "result")
COLUMNS = (*THINNED, "other")  # each holds the rows of one event, or of all other events, of one run
Row = dict[str, Any]


class RunCache:
    """The cache of one experiment. `record` and `keep` give records whose rows are read from the cache; `save` writes it."""

    def __init__(self, path: Path):
        self._path = path
        self._heads = {row[0]: row for row in self._read(HEAD)}
        self._new: dict[str, dict[str, str]] = {}
        self._used: set[str] = set()
        self._rows: dict[str, dict[str, str]] = {}  # column -> run id -> JSON text of rows
        self._latest: dict[
            str, tuple[str, list[Row]]
        ] = {}  # column -> (run id, rows): a table asks for a run's rows often

    def record(self, directory: Path) -> Record | None:
        """The record of a run that has not changed since it was checked; None if the cache does not have this run."""
        head = self._heads.get(directory.name)
        if head is None or head[1] != signature(directory):
            return None
        try:
            result = Result.checked_before(json.loads(head[3]))
            record = Record(directory.name, directory, json.loads(head[2]), result, kept=self._kept(directory))
        except (BadInput, ValueError):
            return None
        self._used.add(directory.name)
        return record

    def keep(self, record: Record) -> Record:
        """Take a checked record into the cache. A record without a result, or with damage, is returned as it is."""
        if record.result is None or record.damage is not None:
            return record
        mark = signature(record.directory)
        try:
            rows = record.metrics
        except Damaged:
            return record
        texts = {
            "run_id": record.run_id,
            "mark": mark,
            "spec": _text(record.spec),
            "result": _text(encode(record.result)),
        }
        for column in COLUMNS:
            of_column = [row for row in rows if _column(row["event"]) == column]
            texts[column] = _text(_thinned(of_column) if column in THINNED else of_column)
        self._new[record.run_id] = texts
        return Record(record.run_id, record.directory, record.spec, record.result, kept=self._kept(record.directory))

    def save(self) -> None:
        """Write the cache, if runs were added. A store that cannot be written has no cache."""
        if not self._new:
            return
        old = (
            (zip(*(self._read(("run_id", name)) for name in (*HEAD[1:], *COLUMNS)), strict=True)) if self._used else ()
        )
        rows = [
            {"run_id": cells[0][0]} | dict(zip((*HEAD[1:], *COLUMNS), (cell[1] for cell in cells), strict=True))
            for cells in old
        ]
        rows = [row for row in rows if row["run_id"] in self._used] + list(self._new.values())
        columns = {name: [_sealed(row[name]) for row in rows] for name in (*HEAD, *COLUMNS)}
        buffer = io.BytesIO()
        pl.DataFrame(columns).write_parquet(buffer)
        try:
            fsio.write_bytes(self._path, buffer.getvalue())
        except EnvironmentProblem:
            return
        self._heads, self._new = {}, {}

    def _kept(self, directory: Path) -> Any:
        """A function: the name of an event, or None for all events -> the rows of this run, in the order of `Record.metrics`."""

        def rows_of(event: str | None) -> list[Row]:
            columns = COLUMNS if event is None else (_column(event),)
            found = [row for column in columns for row in self._rows_in(directory, column)]
            if event is None:
                return sorted(
                    found, key=lambda row: (int(row.get("step", 0)), str(row["event"]), str(row.get("split", "")))
                )
            return [row for row in found if row["event"] == event]

        return rows_of

    def _rows_in(self, directory: Path, column: str) -> list[Row]:
        run_id, rows = self._latest.get(column, ("", []))
        if run_id != directory.name:
            rows = self._decoded(directory, column)
            self._latest[column] = (directory.name, rows)
        return rows

    def _decoded(self, directory: Path, column: str) -> list[Row]:
        if (new := self._new.get(directory.name)) is not None:
            return list(json.loads(new[column]))
        if column not in self._rows:
            self._rows[column] = {row[0]: row[1] for row in self._read(("run_id", column))}
        text = self._rows[column].get(directory.name)
        if text is None:  # another process has replaced the cache
            rows = Record(directory.name, directory, {}, None).metrics
            return [row for row in rows if _column(row["event"]) == column]
        return list(json.loads(text))

    def _read(self, columns: Sequence[str]) -> list[tuple[str, ...]]:
        """The undamaged rows of these columns; empty where there is no cache."""
        if self._path.is_symlink() or not self._path.is_file():
            return []
        try:
            frame = pl.read_parquet(self._path, columns=list(columns), memory_map=False)
        except (OSError, pl.exceptions.PolarsError):
            return []
        rows = [tuple(map(_unsealed, cells)) for cells in frame.select(columns).iter_rows()]
        return [tuple(cell for cell in row if cell is not None) for row in rows if None not in row]


def _column(event: Any) -> str:
    return str(event) if event in THINNED else COLUMNS[-1]


def _thinned(rows: list[Row]) -> list[Row]:
    """At most MOST_ROWS rows, evenly spaced; the last row and the rows that are marked `final` stay."""
    every = -(-len(rows) // MOST_ROWS)
    return (
        [row for index, row in enumerate(reversed(rows)) if index % every == 0 or row.get("final")][::-1]
        if rows
        else []
    )


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sealed(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}{text}"


def _unsealed(sealed: Any) -> str | None:
    if not isinstance(sealed, str):
        return None
    crc, text = sealed[:8], sealed[8:]
    return text if crc == f"{zlib.crc32(text.encode()):08x}" else None
