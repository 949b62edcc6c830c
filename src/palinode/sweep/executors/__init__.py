"""Engines that start `palinode worker` on hosts: this machine, a Slurm cluster through submitit, a Ray cluster.

An engine starts a process and says whether it runs. It gets a command, which is a list of strings, and nothing else. Which runs a
worker trains, and what is tried again, is decided by the store.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol, cast, get_args

from palinode.base.errors import BadInput, EnvironmentProblem, did_you_mean
from palinode.base.user_settings import ExecutorKind, ExecutorTable, UserSettings, user_settings
from palinode.sweep.local import usable_cores

KINDS = get_args(ExecutorKind)
PACKAGES = {"slurm": "submitit", "ray": "ray"}  # kind -> the package that it needs
Value = str | int | float | bool


class Handle(Protocol):
    """A worker that an engine was asked to start.

    Attributes:
        name: what the engine calls it, such as `job 8123`; empty where that would help nobody.
    """

    @property
    def name(self) -> str: ...
    def state(self) -> Literal["queued", "running", "ended"]: ...
    def why(self) -> str:
        """The last line that the worker printed, or what the engine says about its end."""

    def stop(self) -> None:
        """Ask the worker to write checkpoints and end."""

    def kill(self) -> None: ...


class Executor(Protocol):
    """An engine."""

    def start(self, command: Sequence[str]) -> Handle:
        """Ask the engine to run a command on one of its hosts."""


def executor_named(name: str, options: Mapping[str, Value], folder: Path) -> Executor:
    """The engine of this name, by the user's configuration: `table_named`, then `executor_of`."""
    return executor_of(table_named(name, user_settings()), options, folder)


def table_named(name: str, settings: UserSettings) -> ExecutorTable:
    """The table of an engine: local, slurm, ray, or a name that the user's configuration defines.

    Raises:
        BadInput: no engine has this name.
    """
    if name not in (*KINDS, *settings.executors):
        names = [*KINDS, *settings.executors]
        raise BadInput(f"{name!r} is none of {', '.join(names)}", field="--on", hint=did_you_mean(name, names))
    return settings.executors[name] if name in settings.executors else ExecutorTable(cast(ExecutorKind, name))


def executor_of(table: ExecutorTable, options: Mapping[str, Value], folder: Path, workers: int = 1) -> Executor:
    """The engine of a table.

    Args:
        folder: a folder that all hosts see, for what the engine writes.

    Raises:
        BadInput: the engine has no such option.
        EnvironmentProblem: the package of the engine is not installed, or the engine cannot be reached.
    """
    module, merged = engine_of(table, options, workers)
    executor = cast(Executor, module.executor(merged, folder))
    return _WithSetup(executor, table.setup) if table.setup else executor


def engine_of(
    table: ExecutorTable, options: Mapping[str, Value], workers: int = 1
) -> tuple[ModuleType, dict[str, Value]]:
    """The module of the engine of a table, and the options of the engine.

    Args:
        options: the options that the user gave; they win over those of the table.
        workers: the largest number of workers at the same time. On this machine, they share its cores.

    Raises:
        BadInput: the engine has no such option.
        EnvironmentProblem: the package of the engine is not installed.
    """
    kind = table.kind
    if kind in PACKAGES and importlib.util.find_spec(PACKAGES[kind]) is None:
        raise EnvironmentProblem(f"{PACKAGES[kind]} is not installed", hint=f'pip install "palinode[{kind}]"')
    module = importlib.import_module(f"palinode.sweep.executors.{kind}")
    defaults: dict[str, Value] = {"cores": max(1, usable_cores() // workers)} if kind == "local" else {}
    merged = {**defaults, **table.options, **options}
    for option in merged:
        if option not in module.option_names():
            hint = did_you_mean(option, module.option_names())
            raise BadInput(f"{kind} has no option {option!r}", field="--on-option", hint=hint)
    return module, merged


def parse_options(texts: Sequence[str]) -> dict[str, Value]:
    """The options in texts such as `timeout_min=240`. Numbers and `true` and `false` are read as such.

    Raises:
        BadInput: a text has no `=`, or names an option twice.
    """
    options: dict[str, Value] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise BadInput(f"{text[:60]!r} is not NAME=VALUE", field="--on-option", hint="such as timeout_min=240")
        if name.strip() in options:
            raise BadInput(f"{name.strip()!r} is given twice", field="--on-option")
        options[name.strip()] = _value(value.strip())
    return options


class _WithSetup:
    """An engine whose commands run in a shell after the user's set-up commands."""

    def __init__(self, executor: Executor, setup: Sequence[str]):
        self._executor, self._script = executor, "\n".join(["set -e", *setup, 'exec "$@"'])

    def start(self, command: Sequence[str]) -> Handle:
        return self._executor.start(["bash", "-c", self._script, "palinode", *command])


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
