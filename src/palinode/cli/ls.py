"""`palinode ls`: what the store holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from palinode.cli.options import DEFAULT_STORE, JsonOption, StoreOption, as_json, must_exist, shown
from palinode.cli.texttable import text_table

if TYPE_CHECKING:
    from palinode.results.record import ExperimentEntry
    from palinode.results.store import Store

EXAMPLE = "\b\nExample:\n  palinode ls\n  palinode ls --runs --json"
EXPERIMENT_COLUMNS = ("experiment", "arms", "runs", "done", "other", "created")


def ls(
    store: StoreOption = DEFAULT_STORE,
    runs: Annotated[bool, typer.Option("--runs", help="List runs instead of experiments.")] = False,
    json: JsonOption = False,
) -> None:
    """List the experiments of the store, or its runs."""
    must_exist(store)
    from palinode.results.store import Store

    place = Store(store)
    typer.echo(_runs(place, json=json) if runs else _experiments(place, json=json))
    for damage in place.damaged_experiments():
        typer.echo(f"damaged: {damage}", err=True)


def _experiments(store: Store, *, json: bool) -> str:
    outcomes = {row.run_id: row.outcome for row in store.listing()}
    entries = store.experiments()
    if json:
        return as_json([{"name": entry.full_name, "runs": _counted(entry, outcomes)} for entry in entries])
    rows = []
    for entry in entries:
        counted = _counted(entry, outcomes)
        other = ", ".join(f"{count} {outcome}" for outcome, count in counted.items() if outcome != "done")
        rows.append(
            [
                entry.full_name,
                str(len(entry.arms)),
                str(len(entry.runs)),
                str(counted.get("done", 0)),
                other,
                entry.created,
            ]
        )
    return text_table(EXPERIMENT_COLUMNS, rows, right=("arms", "runs", "done")) if rows else "no experiments yet"


def _counted(entry: ExperimentEntry, outcomes: Mapping[str, str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for run in entry.runs:
        outcome = outcomes.get(run.run_id, "missing")
        counted[outcome] = counted.get(outcome, 0) + 1
    return counted


def _runs(store: Store, *, json: bool) -> str:
    from dataclasses import asdict

    listing = store.listing()
    if json:
        return as_json([asdict(row) for row in listing])
    columns = ("run", "outcome", "seed", "model", "objective", "reason")
    rows = [
        [
            *(row.run_id, row.outcome, "" if row.seed is None else str(row.seed)),
            *(row.model or "", row.objective or "", shown((row.reason or "").partition("\n")[0], 60)),
        ]
        for row in listing
    ]
    return text_table(columns, rows, right=("seed",)) if rows else "no runs yet"
