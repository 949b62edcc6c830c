"""Engines that start `palinode worker` on hosts: this machine, a Slurm cluster through submitit, a Ray cluster.

An engine starts a process and says whether it runs. It gets a command, which is a list of strings, and nothing else. Which runs a
worker trains, and what is tried again, is decided by the store.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from palinode.base.errors import BadInput, EnvironmentProblem, nearest
from palinode.spec.text import parse_toml, read_text

KINDS = ("local", "slurm", "ray")
PACKAGES = {"slurm": "submitit", "ray": "ray"}  # kind -> the package that it needs
KEYS = ("kind", "options", "setup")  # of a table [executor.NAME] in the user's configuration
Value = str | int | float | bool


class Handle(Protocol):
    """A worker that an engine was asked to start."""

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
    """The engine of this name.

    Args:
        name: local, slurm, ray, or a name that the user's configuration defines.
        options: the options of the engine; they win over those of the configuration.
        folder: a folder that all hosts see, for what the engine writes.

    Raises:
        BadInput: no engine has this name, or the engine has no such option.
        EnvironmentProblem: the package of the engine is not installed, or the engine cannot be reached.
    """
    defined = read_configuration(configuration_path())
    if name not in (*KINDS, *defined):
        names = [*KINDS, *defined]
        raise BadInput(f"{name!r} is none of {', '.join(names)}", field="--on", hint=_did_you_mean(name, names))
    table = defined.get(name, {"kind": name})
    kind = table["kind"]
    if kind in PACKAGES and importlib.util.find_spec(PACKAGES[kind]) is None:
        raise EnvironmentProblem(f"{PACKAGES[kind]} is not installed", hint=f'pip install "palinode[{kind}]"')
    module = importlib.import_module(f"palinode.sweep.executors.{kind}")
    merged = {**table.get("options", {}), **options}
    for option in merged:
        if option not in module.option_names():
            hint = _did_you_mean(option, module.option_names())
            raise BadInput(f"{kind} has no option {option!r}", field="--on-option", hint=hint)
    executor = cast(Executor, module.executor(merged, folder))
    setup = table.get("setup", [])
    return _WithSetup(executor, setup) if setup else executor


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


def configuration_path() -> Path:
    """The path of the user's configuration, on most systems ~/.config/palinode/config.toml."""
    import platformdirs

    return Path(platformdirs.user_config_dir("palinode")) / "config.toml"


def read_configuration(path: Path) -> dict[str, dict[str, Any]]:
    """The engines that the user's configuration defines: name -> the table of the engine. Empty without the file.

    Raises:
        BadInput: the file is not valid; the error names the file and the field.
    """
    if not path.exists():
        return {}
    content = parse_toml(read_text(path), str(path))
    for key in content:
        if key != "executor":
            raise BadInput(f"unknown key {key!r}", file=str(path), hint="valid: executor")
    tables = content.get("executor", {})
    if not isinstance(tables, dict):
        raise BadInput("is not a table", file=str(path), field="executor")
    for name, table in tables.items():
        place = f"executor.{name}"
        if not isinstance(table, dict):
            raise BadInput("is not a table", file=str(path), field=place)
        for key in table:
            if key not in KEYS:
                hint = _did_you_mean(key, KEYS)
                raise BadInput(f"unknown key {key!r}", file=str(path), field=place, hint=hint)
        if table.get("kind") not in KINDS:
            message = f"{table.get('kind')!r} is none of {', '.join(KINDS)}"
            raise BadInput(message, file=str(path), field=f"{place}.kind")
        setup = table.get("setup", [])
        if not (isinstance(setup, list) and all(isinstance(line, str) for line in setup)):
            raise BadInput("must be a list of shell commands", file=str(path), field=f"{place}.setup")
        if not isinstance(table.get("options", {}), dict):
            raise BadInput("must be a table", file=str(path), field=f"{place}.options")
    return dict(tables)


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


def _did_you_mean(name: str, names: Sequence[str]) -> str | None:
    hint = nearest(name, names)
    return hint if hint and hint.startswith("did") else f"valid: {', '.join(sorted(names))}"
