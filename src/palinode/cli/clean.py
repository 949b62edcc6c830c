"""`palinode rm NAME` deletes a run or an experiment; `palinode gc` deletes what nothing needs any more. Both ask first."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from palinode.base.errors import BadInput
from palinode.cli import options
from palinode.cli.options import MEGABYTE, as_json
from palinode.cli.stores import open_store, run_named, writable_store
from palinode.cli.texttable import shown, terminal_characters, text_table

if TYPE_CHECKING:
    from palinode.results.store import Store
    from palinode.run.cleaning import Leftover, Removal

Yes = Annotated[bool, typer.Option("--yes", help="Delete without asking.")]


def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An experiment, or (the beginning of) a run's id.")],
    store: options.StorePath = options.DEFAULT_STORE,
    yes: Yes = False,
) -> None:
    """Delete a run, or an experiment with its runs.

    The command asks first. Runs that another experiment uses stay; a run that others need, or that is being trained, is refused.
    """
    open_store(store)
    place = writable_store(store)
    removal = _removal(place, name)
    from palinode.run.cleaning import remove

    for line in _words(removal):
        typer.echo(line)
    if not yes:
        _ask("delete?")
    remove(removal, place)
    typer.echo(f"{len(removal.runs)} run{'' if len(removal.runs) == 1 else 's'} deleted")


def _removal(store: Store, name: str) -> Removal:
    from palinode.run.cleaning import removal_of_experiment, removal_of_run

    if any(name in (entry.name, entry.full_name) for entry in store.experiments()):
        return removal_of_experiment(store, store.entry(name))
    return removal_of_run(store, run_named(store, name, "NAME"))


def _words(removal: Removal) -> list[str]:
    """What is deleted and what stays, in lines."""
    if removal.entry is None:
        verdict = f", which the verdict of {removal.member_of} then lacks" if removal.member_of else ""
        return [f"run {removal.runs[0]}{verdict}"]
    what = f"experiment {removal.entry.full_name}: its plan, seals and looks, its report and {len(removal.runs)} runs"
    return [what, *(f"run {run_id} stays: {why}" for run_id, why in removal.kept.items())]


def gc(store: options.StorePath = options.DEFAULT_STORE, yes: Yes = False, json: options.Json = False) -> None:
    """List what nothing needs any more; --yes deletes it.

    Of runs that are done: all checkpoints but the last one and the stable one, from which a longer run may go on, and the state
    of the optimizer in the last one. Token caches that no run of the store names and nobody has read for a week.
    """
    open_store(store)
    place = writable_store(store)
    from palinode.run.cleaning import delete, leftovers

    found = leftovers(place)
    typer.echo(_as_json(found) if json else _table(found))
    if yes:
        for one in found:
            delete(one)
    if not json and found:
        total = sum(one.bytes for one in found) / MEGABYTE
        typer.echo(f"{total:.1f} MB {'are deleted' if yes else 'can be deleted: palinode gc --yes'}")


def _as_json(found: list[Leftover]) -> str:
    return as_json([{"kind": one.kind, "path": str(one.path), "bytes": one.bytes, "run": one.run_id} for one in found])


def _table(found: list[Leftover]) -> str:
    if not found:
        return "there is nothing to delete"
    rows = [[one.kind, f"{one.bytes / MEGABYTE:.1f}", shown(str(one.path), 80), one.why] for one in found]
    return text_table(("what", "MB", "where", "why"), rows, right=("MB",), most_characters=terminal_characters())


def _ask(question: str) -> None:
    """Ask on the terminal; an answer other than yes ends the command.

    Raises:
        BadInput: there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise BadInput("asks before it deletes, and there is no terminal", field="palinode rm", hint="add --yes")
    if not typer.confirm(question):
        raise typer.Exit(1)
