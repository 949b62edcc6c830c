"""What a user calls a run or an experiment, and what is said when it is the other, or a file, or nothing here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from palinode.base.errors import BadInput

if TYPE_CHECKING:
    from palinode.results.record import ExperimentEntry
    from palinode.results.store import Store

EXPERIMENT_FILES = (".py", ".toml", ".json")


def run_named(store: Store, name: str, argument: str) -> str:
    """The id of the one run that begins so.

    Args:
        argument: what the command calls it, for the message.

    Raises:
        BadInput: no run does, or several do; says so when it is an experiment's name.
    """
    try:
        return store.find(name)
    except BadInput as refusal:
        if any(name in (entry.name, entry.full_name) for entry in store.experiments()):
            hint = f"its runs: `palinode show {shlex.quote(name)}`"
            raise BadInput(f"{name!r} is an experiment", field=argument, hint=hint) from None
        raise refusal.at(field=argument) from None


def experiment_named(store: Store, name: str, command: str) -> ExperimentEntry:
    """The experiment called so.

    Args:
        command: the one that was given the name, for the message.

    Raises:
        BadInput: there is none, or it was run at several sizes; says so when it is a run's id or a file.
    """
    try:
        return store.entry(name)
    except BadInput as refusal:
        if name and any(run_id.startswith(name) for run_id in store.run_ids()):
            raise BadInput(f"{name!r} is a run", field="NAME", hint=_of_run(store, name, command)) from None
        if Path(name).suffix in EXPERIMENT_FILES:
            hint = f"`palinode {command} {shlex.quote(Path(name).stem)}`"
            raise BadInput("the name, not the file", field="NAME", hint=hint) from None
        raise refusal.at(field="NAME") from None


def _of_run(store: Store, begin: str, command: str) -> str:
    """Where to go on with a run: the experiment that it is of, or the run itself."""
    for entry in store.experiments():
        if any(run.run_id.startswith(begin) for run in entry.runs):
            return f"its experiment: `palinode {command} {shlex.quote(entry.full_name)}`"
    return f"`palinode show {shlex.quote(begin)}`"
