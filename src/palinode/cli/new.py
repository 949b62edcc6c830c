"""`palinode new FILE`: write an experiment file that runs as it is: a template, or a copy of a shipped experiment."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from palinode.base.errors import BadInput, EnvironmentProblem, nearest

TEMPLATE = "idea.py.txt"


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file to write; its name ends in .py.")],
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="Copy a shipped experiment, such as mask, encdec or recall."),
    ] = None,
) -> None:
    """Write an experiment file that runs as it is.

    The file is a template with comments and an objective of your own, or with --from a copy of a shipped experiment.
    """
    if file.suffix != ".py":
        stem = Path(file.name.strip(".")).stem or "my_idea"  # `.`, `..` and `/` give no name
        raise BadInput("an experiment is a Python file", file=str(file), field="FILE", hint=f"such as {stem}.py")
    _refuse_existing(file)
    from palinode.base import fsio

    name = re.sub(r"[^A-Za-z0-9_]+", "-", file.stem).strip("-") or "idea"
    texts = {file: _from_template(file, name)} if start is None else _from_shipped(file, name, start)
    for path, text in texts.items():
        fsio.write_text(path, text)
        if path != file:
            typer.echo(f"wrote {path}: {file} imports it")
    typer.echo(f"wrote {file}: try `palinode run {shlex.quote(str(file))} --size smoke`")


def shipped_experiments() -> dict[str, Path]:
    """The name and the file of every experiment that comes with Palinode.

    In a checkout the experiments lie in the folder `experiments/`; an installed package contains a copy of this folder.

    Raises:
        EnvironmentProblem: the package was installed without the experiments.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "shipped", package.parents[1] / "experiments"):
        if files := {file.stem: file for file in sorted(folder.glob("*.py"))}:
            return files
    raise EnvironmentProblem("this installation has no shipped experiments", hint="install Palinode again")


def shipped_experiment(name: str) -> Path:
    """The file of one shipped experiment.

    Raises:
        BadInput: no shipped experiment has this name; the hint is the nearest name, or all of them.
    """
    files = shipped_experiments()
    if name not in files:
        hint = nearest(name, files) or f"one of {', '.join(files)}"
        raise BadInput(f"no experiment {name!r} comes with Palinode", field="--from", hint=hint)
    return files[name]


def _refuse_existing(file: Path) -> None:
    if file.exists() or file.is_symlink():
        raise BadInput("is there already and is not overwritten", file=str(file), hint="choose another name")


def _from_template(file: Path, name: str) -> str:
    from importlib import resources

    template = resources.files("palinode.cli").joinpath("templates", TEMPLATE).read_text(encoding="utf-8")
    in_docstring = shlex.quote(str(file)).replace("\\", "\\\\").replace('"', '\\"')
    return Template(template).substitute(file=in_docstring, name=name)


def _from_shipped(file: Path, name: str, start: str) -> dict[Path, str]:
    """The text of the shipped experiment under the new name, and of the files in its folder that it imports.

    Raises:
        BadInput: the shipped experiment does not exist, or another file has the path of a file that it imports.
    """
    source, others = shipped_experiment(start), shipped_experiments()
    texts = {}
    for module in _imported(source, others):
        path, text = file.with_name(f"{module}.py"), others[module].read_text(encoding="utf-8")
        if path == file:
            hint = f"choose another name: {start} imports {module}.py"
            raise BadInput("the experiment cannot have the name of a file that it imports", file=str(file), hint=hint)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            _refuse_existing(path)
            texts[path] = text
    return texts | {file: _renamed(source.read_text(encoding="utf-8"), name)}


def _imported(source: Path, others: dict[str, Path]) -> Iterator[str]:
    """Yield each shipped file that a file imports, directly or through another shipped file, once."""
    waiting, met = [source], {source.stem}
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in others and node.module not in met:
                met.add(node.module)
                waiting.append(others[node.module])
                yield node.module


def _renamed(text: str, name: str) -> str:
    """The text of the file with a new name for its experiment, which keeps its runs apart from those of the shipped experiment."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Experiment":
            (value,) = (keyword.value for keyword in node.keywords if keyword.arg == "name")
            lines = text.splitlines(keepends=True)
            line = lines[value.lineno - 1].encode()  # positions in a syntax tree count bytes
            changed = line[: value.col_offset] + f'"{name}"'.encode() + line[value.end_col_offset :]
            return "".join([*lines[: value.lineno - 1], changed.decode(), *lines[value.lineno :]])
    raise ValueError("a shipped experiment file calls Experiment(name=...)")
