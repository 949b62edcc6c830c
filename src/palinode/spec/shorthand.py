"""Several scales or arms in one line of an experiment file: every combination of a few sizes, and the values of one setting."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from palinode.base.errors import BadInput, check_known
from palinode.spec.experiment import Arm, Scale

# The settings that a grid may name without the part that they belong to.
AXES = {
    "depth": "model.layers",
    "width": "model.width",
    "heads": "model.heads",
    "steps": "recipe.steps",
    "batch_windows": "recipe.batch_windows",
    "window_tokens": "data.window_tokens",
    "max_train_tokens": "data.max_train_tokens",
}


def grid(**axes: Sequence[Any]) -> tuple[Scale, ...]:
    """A scale for every combination of the values: `grid(depth=(2, 4), width=(64, 128))` gives 2x64, 2x128, 4x64 and 4x128.

    Args:
        axes: name of a setting -> its values. The names are those of `AXES`; any other setting has its dotted path, as in
            `grid(**{"model.mlp_mult": (2, 4)})`. The last setting changes fastest.

    Raises:
        BadInput: an axis is unknown or has no values, or two values of an axis are equal.
    """
    if not axes:
        raise BadInput(
            "needs a setting with its values", field="grid", hint="for example grid(depth=(2, 4), width=(64, 128))"
        )
    paths = {name: name if "." in name else _path(name) for name in axes}
    for name, values in axes.items():
        _check_values(values, field=f"grid.{name}")
    scales = []
    for chosen in itertools.product(*axes.values()):
        at = dict(zip(axes, chosen, strict=True))
        scales.append(Scale(name=_scale_name(at), change={paths[name]: value for name, value in at.items()}))
    return tuple(scales)


def arms_of(setting: str, *values: Any) -> tuple[Arm, ...]:
    """An arm for each value of one setting: `arms_of("objective.p.p", 0.1, 0.5)` gives the arms `p=0.1` and `p=0.5`.

    Args:
        setting: the dotted path of the setting.
        values: the values, one for each arm. A part, such as `Speedrun(steps=100)`, is named by its kind.

    Raises:
        BadInput: there are no values, or two of them give arms of one name.
    """
    _check_values(values, field=f"arms_of {setting}")
    last = setting.rpartition(".")[2]
    return tuple(Arm(name=f"{last}={_shown(value)}", change={setting: value}) for value in values)


def _path(name: str) -> str:
    check_known(name, AXES, what="setting", field="grid")
    return AXES[name]


def _check_values(values: Sequence[Any], *, field: str) -> None:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise BadInput(f"takes a list of values, got {values!r}", field=field)
    if not values:
        raise BadInput("has no values", field=field)
    shown = [_shown(value) for value in values]
    if twice := next((one for one in shown if shown.count(one) > 1), None):
        raise BadInput(f"the value {twice} is given twice", field=field)


def _scale_name(values: dict[str, Any]) -> str:
    """`2x64` for depth and width, and the other settings with their names."""
    both = {"depth", "width"} <= set(values)
    parts = [f"{values['depth']}x{values['width']}"] if both else []
    others = [name for name in values if not (both and name in ("depth", "width"))]
    return ", ".join([*parts, *(f"{name.rpartition('.')[2]} {_shown(values[name])}" for name in others)])


def _shown(value: Any) -> str:
    """A value as a part of a name."""
    kind = getattr(type(value), "kind_name", None)
    return str(kind()) if kind is not None else str(value)
