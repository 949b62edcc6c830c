"""The user's own Python: experiment files, and the code file that a stored spec with `user:` parts needs.

A file that the user names is run. A file that a stored spec names is run only when it lies in the current project, or with
`--allow-code`: a spec from a stranger must not be able to start a program.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from pydantic import ValidationError

from palinode.base import fsio
from palinode.base.config import USER_PREFIX, Config, Part, bad_input, source_sha256
from palinode.base.errors import BadInput, PalinodeError
from palinode.spec.text import read_text

USER_MODULE = "palinode_user_"  # what the names of modules made from users' files begin with
RECORD_FILE = "code.json"  # beside spec.json: where the code was, and its hash
COPY_FILE = "code.py"  # beside spec.json: the code itself
# Everything a mistake in the user's file can raise; an error of this program itself is none of them by its place.
MISTAKES = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, NameError),
    *(OSError, RuntimeError, StopIteration, SyntaxError, SystemExit, TypeError, ValueError, Warning),
)


@dataclass(frozen=True)
class Code:
    """A user's file that has been run.

    Attributes:
        path: where it is, absolute.
        content: what it held when it was run: what a run's directory keeps, however soon the file is edited.
        names: what it defines at its top level.
        user_parts: kind (`user:ClassName`) -> class, for decoding specs that name them.
    """

    path: Path
    content: bytes
    names: Mapping[str, Any]
    user_parts: Mapping[str, type[Part]]


class _FromSource(importlib.machinery.SourceFileLoader):
    """Always compiles the source: reads no stale bytecode, writes none beside the user's file."""

    def path_stats(self, path: Any) -> NoReturn:
        raise OSError("bytecode is not used")


def run_file(path: Path, *, shown: str | None = None, beside: Path | None = None) -> Code:
    """Run a Python file of the user as a module of its own.

    Args:
        shown: how errors name the file; default the path as given.
        beside: the directory that its imports of neighbours are found in; default the file's own.

    Raises:
        BadInput: it cannot be read, or raises; names the line.
    """
    file = shown or str(path)
    content = read_text(path).encode()
    path = path.resolve()
    name = f"{USER_MODULE}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    if spec is None or spec.loader is None:
        raise BadInput("is not a Python file", file=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes find their source through this entry
    _find_neighbours_in(beside or path.parent)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for results, which may be read as JSON
            spec.loader.exec_module(module)
    except (PalinodeError, *MISTAKES) as error:
        del sys.modules[name]
        raise _mistake(error, path, file) from error
    parts = dict(_user_parts(module))
    for cls in parts.values():
        source_sha256(cls)  # now, while the file is what was run
    return Code(path=path, content=content, names=vars(module), user_parts=parts)


def keep_code(directory: Path, code: Code) -> None:
    """Record in a run's directory which code its spec needs, with a copy. Keeping the same code again changes nothing."""
    record = {"file": str(code.path), "sha256": _sha256(code.content)}
    path = directory / RECORD_FILE
    if not path.is_file() or fsio.read_json(path) != record:
        fsio.write_bytes(directory / COPY_FILE, code.content)
        fsio.write_json(path, record)


def kept_code(directory: Path, *, allow_code: bool, shown: str) -> Code | None:
    """Run the code recorded beside a spec: the file itself while it is unchanged, else its copy; None without a record.

    Raises:
        BadInput: running it was not allowed, or it is gone.
    """
    if not (directory / RECORD_FILE).is_file():
        return None
    record = fsio.read_json(directory / RECORD_FILE)
    recorded = record.get("file") if isinstance(record, dict) else None
    if not isinstance(recorded, str) or not recorded.isprintable():
        raise BadInput("names no code file", file=str(directory / RECORD_FILE), field="file")
    original, copy = Path(recorded), directory / COPY_FILE
    if original.is_file() and _sha256(read_text(original).encode()) == record.get("sha256"):
        permit_code(original, allow_code=allow_code, store=directory.parent, shown=shown)
        return run_file(original)
    if not copy.is_file():
        raise BadInput(f"needs the code of {recorded}, which is gone or has changed", file=shown)
    if not allow_code:
        raise BadInput(
            "would run the copy of its code kept in the store", file=shown, hint="add --allow-code to permit it"
        )
    return run_file(copy, beside=original.parent)


def permit_code(code: Path, *, allow_code: bool, store: Path, shown: str) -> None:
    """Refuse code that a stored spec names unless it was allowed, or lies in the current project and not in the store.

    Raises:
        BadInput: naming the code and `--allow-code`.
    """
    place = code.resolve()
    in_project = place.is_relative_to(Path.cwd().resolve()) and not place.is_relative_to(store.resolve())
    if not (allow_code or in_project):
        raise BadInput(
            f"would run {code}, which is not in this project", file=shown, hint="add --allow-code to permit it"
        )


def user_parts_in(value: Any) -> Iterator[tuple[str, type[Part]]]:
    """The user's own part classes in a config, at any depth: (kind, class)."""
    if isinstance(value, Part) and _is_user_kind(type(value)):
        yield value.kind_name(), type(value)
    inside: Any = ()
    if isinstance(value, Config):
        inside = [getattr(value, name) for name in type(value).model_fields]
    elif isinstance(value, (Mapping, list, tuple)):
        inside = value.values() if isinstance(value, Mapping) else value
    for item in inside:
        yield from user_parts_in(item)


def _user_parts(module: ModuleType) -> Iterator[tuple[str, type[Part]]]:
    for value in list(vars(module).values()):
        if isinstance(value, type) and issubclass(value, Part) and _is_user_kind(value):
            yield value.kind_name(), value
        elif isinstance(value, Config):
            yield from user_parts_in(value)


def _is_user_kind(cls: type[Part]) -> bool:
    return cls.kind_name().startswith(USER_PREFIX) and not cls.__module__.startswith("palinode.")


def _find_neighbours_in(directory: Path) -> None:
    """As for a script: imports of files beside it work, now and later inside functions."""
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _mistake(error: BaseException, path: Path, file: str) -> BadInput:
    """One BadInput naming the line of the user's file that raised."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return BadInput(f"{error.msg}", file=f"{file}, line {error.lineno}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f"{file}, line {lines[-1]}" if lines else file
    if isinstance(error, PalinodeError):
        return BadInput(error.message, file=place, field=error.field, hint=error.hint)
    if isinstance(error, ValidationError):
        return bad_input(_config_named(error.title), error, file=place)
    if isinstance(error, SystemExit):
        return BadInput(f"ended the program (exit {error.code})", file=place)
    return BadInput(f"{type(error).__name__}: {error}", file=place)


def _config_named(title: str) -> type[Config]:
    """The config class of this name (for the nearest valid field); the bare base when it is not one of ours."""
    waiting: list[type[Config]] = [Config]
    while waiting:
        cls = waiting.pop()
        if cls.__name__ == title:
            return cls
        waiting.extend(cls.__subclasses__())
    return Config


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
