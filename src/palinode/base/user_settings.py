"""The user's settings of stores: the table `[store]` of config.toml, on most systems ~/.config/palinode/config.toml.

[store]
keep = "weights"    # of a run that is done: the last weights alone; default "all"
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, get_args

import platformdirs

from palinode.base.errors import BadInput, nearest

Keep = Literal["all", "weights"]


def kept_of_done_runs() -> Keep:
    """What is kept of the checkpoints of a run that is done: `all`, or the last `weights` without the state of the optimizer.

    Raises:
        BadInput: the file is not TOML, or `store.keep` has another value.
    """
    path = Path(platformdirs.user_config_dir("palinode")) / "config.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("store", {})
    except FileNotFoundError:
        return "all"
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read: {error}", file=str(path)) from None
    if not isinstance(table, dict):
        raise BadInput("is not a table", file=str(path), field="store")
    if stray := sorted(table.keys() - {"keep"}):
        raise BadInput(f"unknown key {stray[0]!r}", file=str(path), field="store", hint=nearest(stray[0], ["keep"]))
    keep: Keep | None = next((name for name in get_args(Keep) if name == table.get("keep", "all")), None)
    if keep is None:
        hint = nearest(str(table["keep"]), get_args(Keep)) or f"one of {', '.join(get_args(Keep))}"
        raise BadInput(f"{table['keep']!r} is not known", file=str(path), field="store.keep", hint=hint)
    return keep
