"""Palinode: a laboratory for language-model ideas on a small budget.

The names below are the names that an experiment file needs. Each name is imported when it is first used, so that `import palinode`
is fast and a finished store can be read without torch. Two names are namespaces: `palinode.p` holds the schedules of p, the
probability of a second direction, and `palinode.rate` those of the learning rate. `palinode.Linear` and the other schedules
without a namespace are the classes of `palinode.p`, under their older names.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


@cache
def _home_of() -> dict[str, str]:
    """Public name -> the module that has it. `__init__.pyi` is the only list; it is read when the first name is used."""
    import ast  # `import palinode` alone does not need it

    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        alias.name: str(node.module) for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def __dir__() -> list[str]:
    return [*sorted(_home_of()), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_home_of())
    if name not in _home_of():
        raise AttributeError(f"module 'palinode' has no attribute {name!r}")
    home = importlib.import_module(_home_of()[name])
    return getattr(home, name) if hasattr(home, name) else importlib.import_module(f"{home.__name__}.{name}")
