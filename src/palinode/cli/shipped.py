"""The experiments that come with Palinode: in a checkout the folder `experiments/`, in an installed package a copy of it."""

from __future__ import annotations

from pathlib import Path

from palinode.base.errors import BadInput, EnvironmentProblem, nearest


def shipped_experiments() -> dict[str, Path]:
    """The name of every shipped experiment and the file that defines it.

    Raises:
        EnvironmentProblem: the package was installed without them.
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
