"""The store that a command reads or writes, and the run or the experiment in it that the user named.

If the user names a run where an experiment is needed, or an experiment where a run is needed, or a file, the error says so.
"""

from __future__ import annotations

import os
import shlex
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from palinode.base.errors import BadInput, EnvironmentProblem

if TYPE_CHECKING:
    from palinode.results.record import ExperimentEntry
    from palinode.results.store import Store
    from palinode.use.model import Model

EXPERIMENT_FILES = (".py", ".toml", ".json")


def open_store(directory: Path) -> Store:
    """The store for a command that only reads.

    Raises:
        BadInput: the directory does not exist.
    """
    if not directory.is_dir():
        hint = "name one with --store, or `palinode run` first"
        raise BadInput("there is no results store here", file=str(directory), hint=hint)
    from palinode.results.store import Store

    return Store(directory)


def writable_store(directory: Path) -> Store:
    """The store for a command that writes. Its directory need not exist yet.

    Raises:
        BadInput: the path is not a directory.
        EnvironmentProblem: the directory cannot be written.
    """
    place = nearest_place(directory)
    if not place.is_dir():
        raise BadInput("is not a directory, so it cannot hold results", file=str(place), field="--store")
    try:
        tempfile.TemporaryFile(dir=place).close()  # permissions do not show that a disk is read-only
    except OSError as error:
        message, hint = f"cannot be written: {error.strerror}", "name another store with --store"
        raise EnvironmentProblem(message, file=str(place), field="--store", hint=hint) from None
    from palinode.results.store import Store

    return Store(directory)


def output_file(path: Path, field: str, *, such_as: str = "") -> Path:
    """The file that an option names. Behind a link it is the file that the link points to, so the link stays.

    Args:
        field: the option.
        such_as: a file name for the hint where the path is a directory.

    Raises:
        BadInput: the path is a directory, a pipe or a device.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_dir():
        raise BadInput(
            "is a directory", file=str(path), field=field, hint=f"such as {path / such_as}" if such_as else None
        )
    if target.exists() and not target.is_file():
        raise BadInput("is a pipe or a device; name a file", file=str(path), field=field)
    return target


def nearest_place(path: Path) -> Path:
    """The path itself if the path exists, else its nearest parent that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists() or place.is_symlink())


def run_named(store: Store, name: str, argument: str = "RUN") -> str:
    """The id of the one run whose id begins with `name`.

    Args:
        argument: the name of the command's argument, for the message.

    Raises:
        BadInput: no run or several runs have this name; the message says if an experiment has the name.
    """
    try:
        return store.find(name)
    except BadInput as refusal:
        if any(name in (entry.name, entry.full_name) for entry in store.experiments()):
            hint = f"its runs: `palinode show {shlex.quote(name)}`"
            raise BadInput(f"{name!r} is an experiment", field=argument, hint=hint) from None
        raise refusal.at(field=argument) from None


@contextmanager
def loaded_model(name: str, directory: Path, *, allow_code: bool) -> Iterator[Model]:
    """The trained model of a run. Warnings inside the block are one line each on standard error.

    Raises:
        BadInput: see `open_store`, `run_named` and `palinode.load`.
    """
    store = open_store(directory)
    run_id = run_named(store, name)
    from palinode.base.memory import keep_memory
    from palinode.use.model import load

    keep_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: typer.echo(f"warning: {message}", err=True)
        yield load(run_id, store, allow_code=allow_code)


def experiment_named(store: Store, name: str, command: str) -> ExperimentEntry:
    """The experiment of this name.

    Args:
        command: the name of the command, for the message.

    Raises:
        BadInput: the experiment does not exist, or was run at several sizes; the message says if a run or a file has the name.
    """
    try:
        return store.entry(name)
    except BadInput as refusal:
        if name and any(run_id.startswith(name) for run_id in store.run_ids()):
            raise BadInput(f"{name!r} is a run", field="NAME", hint=_hint_for_run(store, name, command)) from None
        if Path(name).suffix in EXPERIMENT_FILES:
            hint = f"`palinode {command} {shlex.quote(Path(name).stem)}`"
            raise BadInput("give the name of the experiment, not its file", field="NAME", hint=hint) from None
        raise refusal.at(field="NAME") from None


def _hint_for_run(store: Store, prefix: str, command: str) -> str:
    """A hint for a run's id: the command for the run's experiment, or `palinode show` if the run belongs to no experiment."""
    for entry in store.experiments():
        if any(run.run_id.startswith(prefix) for run in entry.runs):
            return f"its experiment: `palinode {command} {shlex.quote(entry.full_name)}`"
    return f"`palinode show {shlex.quote(prefix)}`"
