"""Change a config by dotted paths. All changes are applied together, so only the result must be valid.

    changed(settings, {"objective": Rtl(), "recipe.steps": 100, "model": {"kind": "decoder", "width": 64, "layers": 2}})

A change of a whole part is made before changes of its fields. A table without `kind` changes the fields that it names and
keeps the others. If a part is replaced by a text, the text is the `kind` of the new part, which has its default options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from palinode.base.config import Config, Part, decode
from palinode.base.errors import BadInput, UnknownKey

C = TypeVar("C", bound=Config)
Changes = Mapping[str, Any]


def changed(config: C, changes: Changes) -> C:
    """A validated copy of `config` in which the values at these dotted paths are replaced.

    Raises:
        BadInput: an unknown path (with the nearest name), or a value that its field refuses; the error's `field` is the dotted
            path.
    """
    return _changed(config, changes, "")


def _changed(config: C, changes: Changes, at: str) -> C:
    own = {name: getattr(config, name) for name in type(config).model_fields}
    fields = dict(own)
    whole, inside = _by_field(config, changes, at)
    for name, value in whole.items():
        if name in inside and not isinstance(value, Config):  # a config object, so that its fields can be changed next
            value = getattr(_validated(config, {**own, name: value}, at), name)
        fields[name] = value
    for name, deeper in inside.items():
        if not isinstance(fields[name], Config):
            raise _without_fields(_join(at, name), fields[name], next(iter(deeper)))
        fields[name] = _changed(fields[name], deeper, _join(at, name))
    return _validated(config, fields, at)


def _by_field(config: Config, changes: Changes, at: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Split changes into (field name -> new value) and (field name -> changes inside that field)."""
    whole: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        if name not in type(config).model_fields:
            raise UnknownKey(name, type(config).model_fields, field=_join(at, path))
        now = getattr(config, name)
        if rest == "kind" and isinstance(now, Part):
            whole[name] = {"kind": value}
        elif rest:
            inside.setdefault(name, {})[rest] = value
        elif isinstance(value, Mapping) and isinstance(now, Config) and "kind" not in value:
            inside.setdefault(name, {}).update(value)
        else:
            whole[name] = {"kind": value} if isinstance(value, str) and isinstance(now, Part) else value
    return whole, inside


def _without_fields(field: str, value: Any, option: str) -> BadInput:
    if value is None:
        hint = f"set {field} itself too, to a table of its options; --set {field}={{}} takes the defaults"
        return BadInput(f"has no {option!r} to set: it is null", field=field, hint=hint)
    return BadInput(f"has no fields of its own: it is {value!r}", field=field)


def _validated(config: C, fields: dict[str, Any], at: str) -> C:
    try:
        return decode(type(config), fields)
    except BadInput as refusal:
        raise refusal.inside(at) from None


def _join(at: str, name: str) -> str:
    return ".".join(step for step in (at, name) if step)
