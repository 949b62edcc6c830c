"""Configurations: frozen, strictly typed, without unknown keys. Every error names the full path of the field.

A `Config` is a plain frozen record. A `Part` is a config that can be chosen by name (an objective, a mixer, a recipe): a part
encodes to a table with a `kind`, and a field declared with `one_of(...)` decodes such a table to the right class.
A user passes an object of the user's own `Part` subclass; the kind of the part is `user:ClassName`. The hash of the code that the
class depends on (`user_code.py`) is part of the id of every run that uses the class, so editing the class makes new runs.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError, PydanticSerializationError

from palinode.base.bounds import LARGEST_COUNT
from palinode.base.errors import BadInput, UnknownKey, nearest, printable
from palinode.base.user_code import UserCode, installed_imports, user_code

C = TypeVar("C", bound="Config")
USER_PREFIX = "user:"
# JSON text may name half a character (a lone surrogate). The escape of a lone surrogate can be hashed; the surrogate itself cannot.
LONE_SURROGATES = "backslashreplace"
LATER = "later"  # marks a field that was added after runs were recorded: `x: Annotated[int, LATER] = 0`
UNKNOWN_KEY = "unknown_key"  # an error type of Palinode: the error carries the valid keys, which a hint needs


class Config(BaseModel):
    """Base class of all configurations. Types are strict, unknown keys raise, and a list is accepted where a tuple is meant."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="strings")
    largest: ClassVar[int] = LARGEST_COUNT  # the largest whole number of a field; seeds have another bound

    @model_validator(mode="before")
    @classmethod
    def _known_keys_and_tuples(cls, value: Any) -> Any:
        """Refuse unknown keys and turn lists into tuples: TOML and JSON give lists, but only a config of tuples can be hashed."""
        if not isinstance(value, dict):
            return value
        stray = [str(key) for key in value if key not in cls.model_fields]
        if stray and cls.model_config["extra"] == "forbid":
            owner = f" of {cls.kind_name()}" if issubclass(cls, Part) else ""
            context = {"key": stray[0], "count": len(stray), "valid": tuple(cls.model_fields), "owner": owner}
            raise PydanticCustomError(UNKNOWN_KEY, "unknown key '{key}'", context)
        return {key: _as_tuples(item) for key, item in value.items()}

    @field_validator("*", mode="before")
    @classmethod
    def _within_bounds(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a whole number that is too large for any setting."""
        if type(value) is int and abs(value) > cls.largest and not str(info.field_name).endswith("seed"):
            raise ValueError(f"is larger than {cls.largest:,}")
        return value

    def with_(self: C, **changes: Any) -> C:
        """A validated copy with some fields replaced."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate({**fields, **changes})


class Part(Config):
    """A config that is chosen by name. Built-in parts set `kind`; a user's subclass gets the kind `user:ClassName`."""

    kind: ClassVar[str] = ""
    # True when the spec of this part has the hash of the whole file; the part is then encoded with this hash, so that no run id
    # changes.
    _whole_file: bool = PrivateAttr(False)

    @classmethod
    def kind_name(cls) -> str:
        """The name of this class in specs: the `kind` of a built-in class, or `user:ClassName` for a class that the user wrote.

        A user's class cannot take the name of a built-in class: the runs of the two classes could not be told apart.
        """
        built_in = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
        return (built_in and cls.__dict__.get("kind")) or USER_PREFIX + cls.__name__

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        encoded: dict[str, Any] = {"kind": self.kind_name()}
        if encoded["kind"].startswith(USER_PREFIX):
            key = WHOLE_FILE_KEY if self._whole_file else CODE_KEY
            encoded[key] = CODE_HASHES[key](type(self))
        encoded.update(handler(self))
        return encoded


def one_of(table: Callable[[], Mapping[str, type[Part]]], what: str) -> Any:
    """The annotation of a field that holds a Part: the field takes a Part object, or a table with a `kind`.

    Write `Annotated[Objective, one_of(table, "objective")]`. The function `table` is called when a value is decoded, so the module
    of `table` may import the module of the field.
    """

    def decode_part(value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        fields = dict(value)
        kind = fields.pop("kind", None)
        parts = dict(table()) | (info.context or {}).get("user_parts", {})
        if not isinstance(kind, str):
            raise ValueError(f"this {what} needs kind = one of {', '.join(sorted(parts))}")
        if kind not in parts:
            hint = nearest(kind, parts)
            raise ValueError(f"unknown {what} {kind!r}" + (f"; {hint}" if hint else ""))
        hashes = {key: fields.pop(key) for key in CODE_HASHES if key in fields}
        if kind.startswith(USER_PREFIX) and any(CODE_HASHES[key](parts[kind]) != hashes[key] for key in hashes):
            raise ValueError(f"the code of {kind} has changed since this spec was written")
        try:
            part = parts[kind].model_validate(fields, context=info.context)
        except BadInput as refusal:  # pydantic adds the field only to errors of pydantic
            raise refusal.inside(info.field_name) from None
        part._whole_file = WHOLE_FILE_KEY in hashes
        return part

    return BeforeValidator(decode_part)


def decode(
    cls: type[C], data: Any, *, file: str | None = None, user_parts: Mapping[str, type[Part]] | None = None
) -> C:
    """Decode plain data (from TOML, JSON, `--set`) into a config.

    Raises:
        BadInput: the data is not valid. The error names the file, the dotted path of the first bad field, and the nearest valid
            name.
    """
    try:
        return cls.model_validate(data, context={"user_parts": dict(user_parts or {})})
    except ValidationError as error:
        raise bad_input(error, file=file, data=data) from None
    except BadInput as refusal:  # raised by a class that checks whether its fields fit together
        raise refusal.at(file=file) from None


def bad_input(error: ValidationError, *, file: str | None = None, data: Any = None) -> BadInput:
    """One BadInput for the first unknown key, or else for the first error of pydantic. The hint is the nearest valid field name.

    Args:
        data: the decoded data. The path in the error ends where the data has no further fields.
    """
    problems = error.errors()
    unknown = [problem for problem in problems if problem["type"] == UNKNOWN_KEY]
    first = (unknown or problems)[0]
    path = _path_in_data(first["loc"], data)
    field = ".".join(path) or None
    extra = len(problems) - 1 + sum(problem["ctx"]["count"] - 1 for problem in unknown)
    more = f"; and {extra} more" if extra else ""
    if unknown:
        context = first["ctx"]
        field = ".".join([*path, context["key"]])
        return UnknownKey(context["key"], context["valid"], context["owner"] + more, file=file, field=field)
    if first["type"] == "missing":
        return BadInput(_required(problems), file=file, field=field)
    message, hint = _refusal(first)
    return BadInput(message + more, file=file, field=field, hint=hint)


def encode(config: BaseModel) -> dict[str, Any]:
    """Plain JSON-able data; `decode(type(config), encode(config)) == config`.

    Raises:
        BadInput: the class of a part was not written in a file.
    """
    try:
        return config.model_dump(mode="json", serialize_as_any=True)
    except PydanticSerializationError as error:
        if isinstance(error.__cause__, BadInput):  # pydantic wraps an error that a serializer raises
            raise error.__cause__ from None
        raise


def identity(config: BaseModel) -> dict[str, Any]:
    """The data whose hash is the id of a config: the encoding without those `LATER` fields that have their default values.

    A new option is marked `LATER`, and its default keeps the earlier behaviour. So an upgrade of Palinode changes no id of a run.
    """
    without: dict[str, Any] = _without_later(config, encode(config))
    return without


def canonical_json(value: Any) -> str:
    """The JSON text of a value, from which hashes are computed: sorted keys, no spaces, no NaN."""
    plain = encode(value) if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON text of a value."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", LONE_SURROGATES)).hexdigest()


def diff(before: BaseModel, after: BaseModel) -> list[tuple[str, Any, Any]]:
    """The fields that differ between two configs: (dotted path, value before, value after). A missing value is None."""
    left, right = leaves(encode(before)), leaves(encode(after))
    paths = [*left, *(path for path in right if path not in left)]
    return [(path, left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)]


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Nested tables as one table: dotted path -> value. An empty table counts as a value."""
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= leaves(item, f"{path}.{key}" if path else str(key))
    return flat


@functools.cache  # hashed only once: a change of the file during a run must not change the run's id
def source_sha256(cls: type) -> str:
    """SHA-256 of the file that a user's class was written in. Specs of version 0.1 and earlier name this hash.

    Raises:
        BadInput: the class was not written in a file, so the source cannot be recorded.
    """
    return hashlib.sha256(_source_file(cls).read_bytes()).hexdigest()


@functools.cache  # read only once: a change of the file during a run must not change the run's id
def code_of(cls: type) -> UserCode:
    """The code that a user's class depends on: editing this code makes new runs.

    Raises:
        BadInput: the class was not written in a file.
    """
    return user_code(cls.__module__, _source_file(cls), cls.__qualname__)


def installed_imports_of(cls: type) -> frozenset[str]:
    """The top-level names of the installed packages that the module of a user's class imports (`installed_imports`).

    Raises:
        BadInput: the class was not written in a file.
    """
    return installed_imports(cls.__module__, _source_file(cls))


def _source_file(cls: type) -> Path:
    path = inspect.getsourcefile(cls) if cls.__module__ in sys.modules else None
    if path is None or not Path(path).is_file():
        raise BadInput(f"class {cls.__name__} must be written in a file, so that its source can be recorded")
    return Path(path)


# Keys of a user's part in a spec. Specs of version 0.1 and earlier have the second key.
CODE_KEY, WHOLE_FILE_KEY = "code_sha256", "source_sha256"
CODE_HASHES: Mapping[str, Callable[[type], str]] = {
    CODE_KEY: lambda cls: code_of(cls).sha256,
    WHOLE_FILE_KEY: source_sha256,
}


def finite(value: float | None) -> float | None:
    """The value if the value is a finite number, else None: JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _path_in_data(loc: tuple[int | str, ...], data: Any) -> list[str]:
    """The names of a path, cut where the data has no fields: `p = 2` is a number, although p may also be a table (a schedule)."""
    steps: list[str] = []
    for step in loc:
        if steps and data is not None and not isinstance(data, (Mapping, list, tuple)):
            break
        steps.append(str(step))
        try:
            data = data[step]
        except (LookupError, TypeError):
            data = None
    return steps


def _required(problems: Sequence[ErrorDetails]) -> str:
    """The message for the first missing field; the message also names the other missing fields."""
    others = [".".join(map(str, one["loc"])) for one in problems if one["type"] == "missing"][1:]
    named = f", and so {'is' if len(others) == 1 else 'are'} {', '.join(others)}" if others else ""
    extra = len(problems) - 1 - len(others)
    return f"is required{named}" + (f"; and {extra} more" if extra else "")


def _refusal(problem: ErrorDetails) -> tuple[str, str | None]:
    """The message that says in plain words why a value is refused, and the hint that says what to write instead."""
    value, kind = problem["input"], problem["type"]
    if inspect.isclass(value) and issubclass(value, BaseModel):
        return f"is the class {value.__name__}, not an object of it", f"write {value.__name__}()"
    if kind == "tuple_type":
        return f"must be a list, got {repr(value)[:60]}", f"such as {_listed(value)}"
    got = f", got {repr(value)[:60]}" if kind != "value_error" else ""
    whole = kind == "int_type" and isinstance(value, float) and value.is_integer()
    return problem["msg"].removeprefix("Value error, ") + got, f"write {int(value)}" if whole else None


def _listed(value: Any) -> str:
    """The list that the user may have meant by a value: `16,32` may mean [16, 32]."""
    texts = [text.strip() for text in value.split(",")] if isinstance(value, str) else []
    entries = [int(text) if text.isdecimal() else text for text in texts] or [value]
    return printable(json.dumps(entries, default=str), 60)


def _without_later(value: Any, encoded: Any) -> Any:
    """The encoding of a value without the `LATER` fields that have their defaults, at every depth."""
    if isinstance(value, BaseModel):
        kept = dict(encoded)
        for name, field in type(value).model_fields.items():
            held = getattr(value, name)
            if LATER in field.metadata and held == field.get_default(call_default_factory=True):
                del kept[name]
            else:
                kept[name] = _without_later(held, encoded[name])
        return kept
    if isinstance(value, Mapping):
        return {key: _without_later(value[key], item) for key, item in encoded.items()}
    if isinstance(value, tuple) and len(value) == len(encoded):
        return [_without_later(one, item) for one, item in zip(value, encoded, strict=True)]
    return encoded


def _as_tuples(value: Any) -> Any:
    if isinstance(value, dict):  # a table of lists, such as a finding's pictures
        return {key: _as_tuples(item) if isinstance(item, (dict, list)) else item for key, item in value.items()}
    return tuple(_as_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
