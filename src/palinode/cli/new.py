"""`palinode new FILE`: write a commented experiment that runs as it is, as a start for your own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from palinode.base.errors import BadInput

EXAMPLE = "\b\nExample:\n  palinode new my_idea.py\n  palinode run my_idea.py --size smoke"
TEMPLATE = "idea.py.txt"


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file to write; its name ends in .py.")],
) -> None:
    """Write a commented experiment file that runs as it is.

    It holds an objective of your own, to change.
    """
    if file.suffix != ".py":
        stem = Path(file.name.strip(".")).stem or "my_idea"  # `.`, `..` and `/` name nothing
        raise BadInput("an experiment is a Python file", file=str(file), field="FILE", hint=f"such as {stem}.py")
    if file.exists() or file.is_symlink():
        raise BadInput("is there already and is not overwritten", file=str(file), hint="choose another name")
    from importlib import resources

    from palinode.base import fsio

    name = re.sub(r"[^A-Za-z0-9_]+", "-", file.stem).strip("-") or "idea"
    template = resources.files("palinode.cli").joinpath("templates", TEMPLATE).read_text(encoding="utf-8")
    argument = shlex.quote(str(file))
    in_text = argument.replace("\\", "\\\\").replace('"', '\\"')  # it is put into a docstring
    fsio.write_text(file, Template(template).substitute(file=in_text, name=name))
    typer.echo(f"wrote {file}: try `palinode run {argument} --size smoke`")
