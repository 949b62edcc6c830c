"""`palinode ls`: what the store holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palinode.base.errors import Damaged
from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.stores import open_store
from palinode.cli.texttable import shown, terminal_characters, text_table

if TYPE_CHECKING:
    from palinode.results.index import RunRow
    from palinode.results.record import ExperimentEntry
    from palinode.results.store import Store

EXPERIMENT_COLUMNS = ("experiment", "arms", "runs", "done", "other", "created")
RUN_COLUMNS = ("run", "outcome", "experiment", "arm", "scale", "seed", "step", "loss", "min left", "reason")
NOTHING = "-"


def ls(
    store: options.StorePath = options.DEFAULT_STORE,
    runs: Annotated[bool, typer.Option("--runs", help="List runs instead of experiments.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file, and hold it against its hash; exit 4 if one is damaged.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List the experiments of the store, or its runs."""
    place = open_store(store)
    if verify:
        _verify(place, json=json)
        return
    typer.echo(_runs(place, json=json) if runs else _experiments(place, json=json))
    for damage in place.damaged_experiments():
        typer.echo(f"damaged: {damage}", err=True)


def _verify(store: Store, *, json: bool) -> None:
    from palinode.results.verify import verify

    verified = verify(store)
    if json:
        numbers = {"files": verified.files, "unprotected": list(map(str, verified.unprotected))}
        typer.echo(as_json(numbers | {"damaged": list(map(str, verified.damaged))}))
    else:
        typer.echo(f"{verified.files} files were read, {len(verified.damaged)} are damaged")
        if verified.unprotected:
            first = f"the first is {verified.unprotected[0]}"
            typer.echo(
                f"{len(verified.unprotected)} have no hash of their content, because an older version wrote them; {first}"
            )
        for damage in verified.damaged:
            typer.echo(f"damaged: {damage}", err=True)
    if verified.damaged:
        raise typer.Exit(Damaged.exit_code)


def _experiments(store: Store, *, json: bool) -> str:
    outcomes = {row.run_id: row.outcome for row in store.listing()}
    entries = store.experiments()
    if json:
        return as_json([{"name": entry.full_name, "runs": _count(entry, outcomes)} for entry in entries])
    rows = []
    for entry in entries:
        counts = _count(entry, outcomes)
        other = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if outcome != "done")
        numbers = (str(len(entry.arms)), str(len(entry.runs)), str(counts.get("done", 0)))
        rows.append([entry.full_name, *numbers, other, entry.created])
    return text_table(EXPERIMENT_COLUMNS, rows, right=("arms", "runs", "done")) if rows else "no experiments yet"


def _count(entry: ExperimentEntry, outcomes: Mapping[str, str]) -> Counter[str]:
    return Counter(outcomes.get(run.run_id, "missing") for run in entry.runs)


def _runs(store: Store, *, json: bool) -> str:
    cells = {run.run_id: (entry.full_name, run.arm, run.scale) for entry in store.experiments() for run in entry.runs}
    listed = [_with_cell(row, cells.get(row.run_id), store) for row in store.listing()]
    if json:
        return as_json(listed)
    columns = RUN_COLUMNS if any(row["reason"] for row in listed) else RUN_COLUMNS[:-1]
    rows = [[_cell(row, column) for column in columns] for row in listed]
    right = ("seed", "step", "loss", "min left")
    return text_table(columns, rows, right=right, most_characters=terminal_characters()) if rows else "no runs yet"


def _with_cell(row: RunRow, cell: tuple[str, str, str] | None, store: Store) -> dict[str, Any]:
    """A run with the cell of the experiment it belongs to, and how far it is."""
    listed = asdict(row) | dict(zip(("experiment", "arm", "scale"), cell or (None, None, None), strict=True))
    return listed | _so_far(row, store) if row.outcome == "unfinished" else listed | {"minutes_left": None}


def _so_far(row: RunRow, store: Store) -> dict[str, Any]:
    """Step and loss of the last row that a run wrote, and, while a process works on it, the minutes left at its rate so far."""
    from palinode.base.errors import PalinodeError
    from palinode.results.holds import Watch, holder
    from palinode.results.rows import read_last_rows

    directory = store.run_directory(row.run_id)
    try:
        rows = read_last_rows(directory)
        running = holder(directory, Watch())[0] is not None
    except PalinodeError:
        rows, running = [], False
    last = rows[-1] if rows else {}
    step, seconds = int(last.get("step", 0)), float(last.get("seconds", 0.0))
    left = (row.steps - step) * seconds / step / 60 if running and row.steps and step else None
    found = {"step": step, "loss": _loss(last), "minutes_left": left}
    return found | {"outcome": "running"} if running else found


def _loss(row: Mapping[str, Any]) -> float | None:
    """The first loss of a metrics row, in nats per token."""
    scores = {name: score.get("nats_per_token") for name, score in row.get("scores", {}).items()}
    values = [value for value in (row.get("nats_by_group") or scores).values() if isinstance(value, float)]
    return values[0] if values else None


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column == "run":
        return str(row["run_id"])
    if column == "step":
        step, steps = row["step"], row["steps"]
        return NOTHING if step is None else f"{step}/{steps or '?'}"
    if column == "min left":
        return NOTHING if row["minutes_left"] is None else f"{row['minutes_left']:.1f}"
    value = row[column]
    if column == "reason":
        return shown((value or "").partition("\n")[0], 60)
    return NOTHING if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
