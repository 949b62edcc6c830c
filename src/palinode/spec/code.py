"""The user's own Python files: experiment files, and the code file that a stored spec with `user:` parts needs.

Palinode runs a file that the user names on the command line. Palinode runs code that is named only by a stored spec if the user
gives `--allow-code`, and never otherwise. This rule holds for every folder, because even the current directory may hold an unpacked
archive from a stranger.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping, ValuesView
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from pydantic import ValidationError

from palinode.base import fsio
from palinode.base.config import USER_PREFIX, Config, Part, bad_input, code_of, source_sha256
from palinode.base.errors import BadInput, Damaged, PalinodeError
from palinode.results.record import CODE_RECORD_FILE
from palinode.spec.text import read_text

USER_MODULE = "palinode_user_"  # the beginning of the name of each module that is made from a user's file
COPY_FILE = "code.py"  # next to spec.json: a copy of the code
# The errors that a mistake in the user's file can raise.
MISTAKES = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, NameError),
    *(OSError, RuntimeError, StopIteration, SyntaxError, SystemExit, TypeError, ValueError, Warning),
)


@dataclass(frozen=True)
class Code:
    """A user's file that has been run.

    Attributes:
        path: the absolute path of the file.
        content: the bytes of the file when it was run; a run's directory keeps these bytes, even if the file is edited soon after.
        names: top-level name of the file -> its value.
        user_parts: kind (`user:ClassName`) -> class, for decoding specs that contain these kinds.
    """

    path: Path
    content: bytes
    names: Mapping[str, Any]
    user_parts: Mapping[str, type[Part]]


class _FromSource(importlib.machinery.SourceFileLoader):
    """A loader that compiles the source each time: it reads no old bytecode, and writes no bytecode into the user's folder."""

    def path_stats(self, path: Any) -> NoReturn:
        raise OSError("bytecode is not used")


def run_file(path: Path, *, neighbours: Path | None = None) -> Code:
    """Run a Python file of the user as a module.

    Args:
        neighbours: the directory of the user's other modules, which the file may import; default: the directory of the file.

    Raises:
        BadInput: the file cannot be read, or the file raises an error; the message names the line.
    """
    file = str(path)
    content = read_text(path).encode()
    path = path.resolve()
    name = f"{USER_MODULE}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    if spec is None or spec.loader is None:
        raise BadInput("is not a Python file", file=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Python finds the file of a class through this entry
    if (folder := str(neighbours or path.parent)) not in sys.path:
        sys.path.insert(0, folder)  # the file can then import its neighbours, now and later inside its functions
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for results, which may be read as JSON
            spec.loader.exec_module(module)
    except (PalinodeError, *MISTAKES) as error:
        del sys.modules[name]
        raise _mistake(error, path, file) from error
    parts = dict(_user_parts(module))
    for cls in parts.values():
        source_sha256(cls), code_of(cls)  # both hashes are cached now, before the file can change
    return Code(path=path, content=content, names=vars(module), user_parts=parts)


def keep_code(directory: Path, code: Code | None) -> None:
    """Record in a run's directory the code that the run's spec needs, and copy the code there. A second call changes nothing."""
    if code is None:
        return
    parts = {}
    for kind, cls in code.user_parts.items():
        depends = code_of(cls)
        parts[kind] = {"sha256": depends.sha256, "names": dict(depends.names), "doubts": list(depends.doubts)}
    record = {"file": str(code.path), "sha256": _sha256(code.content), "parts": parts}
    path, copy = directory / CODE_RECORD_FILE, directory / COPY_FILE
    with contextlib.suppress(Damaged):  # a damaged or missing record is written again
        if fsio.read_table(path) == record and copy.is_file() and copy.read_bytes() == code.content:
            return
    fsio.write_bytes(copy, code.content)
    fsio.write_table(path, record)


def code_for_spec(spec_file: Path, *, named: Path | None, allow_code: bool) -> Code | None:
    """Run the code that a stored spec needs: the file that the user names, or with `allow_code` the recorded file.

    Args:
        named: the file that the user names with `--code`. The decoder of the spec checks later whether the parts in this file
            are the parts of the spec.
        allow_code: permit the code that is recorded next to the spec: the recorded file if its parts are unchanged,
            else the copy.

    Returns:
        The code; None when no code is recorded and the user names no code.

    Raises:
        BadInput: the code may not be run, or the code is missing.
        Damaged: the copy differs from the code that was recorded.
    """
    if named is not None:
        return run_file(named)
    directory, file = spec_file.parent, str(spec_file)
    if not (directory / CODE_RECORD_FILE).is_file():
        return None
    record = fsio.read_table(directory / CODE_RECORD_FILE)
    recorded = record.get("file")
    if not isinstance(recorded, str) or not recorded.isprintable():
        raise BadInput("names no code file", file=str(directory / CODE_RECORD_FILE), field="file")
    if not allow_code:
        hint = "name your own file with --code FILE, or permit the code that the spec names with --allow-code"
        raise BadInput(f"would run code: {Path(recorded).name}", file=file, hint=hint)
    return _recorded_code(directory, record, Path(recorded))


def _recorded_code(directory: Path, record: Mapping[str, Any], original: Path) -> Code:
    """Run the recorded file if its parts are unchanged, else the copy that the store keeps."""
    copy = directory / COPY_FILE
    if original.is_file():
        unchanged = _sha256(read_text(original).encode()) == record.get("sha256")
        with contextlib.nullcontext() if unchanged else contextlib.suppress(BadInput):
            code = run_file(original)
            if unchanged or (_parts(record) and not changed_parts(directory, code)):
                return code
    if not copy.is_file():
        raise BadInput(
            f"needs the code of {original}, which is gone or has changed", file=str(directory / CODE_RECORD_FILE)
        )
    if _sha256(read_text(copy).encode()) != record.get("sha256"):
        raise Damaged(f"is not the code that {CODE_RECORD_FILE} recorded", file=str(copy))
    return run_file(copy, neighbours=original.parent)


def changed_parts(directory: Path, code: Code) -> dict[str, list[str]]:
    """The names in the user's parts that have changed since the code was recorded next to a run.

    Returns:
        kind -> the names that changed, are new or are gone, then the reasons why a whole module counts. Unchanged parts are not
        in the table.
    """
    if not (directory / CODE_RECORD_FILE).is_file():
        return {}
    if not (recorded := _parts(fsio.read_table(directory / CODE_RECORD_FILE))):
        return dict.fromkeys(code.user_parts, ["an earlier version of palinode counted the whole file"])
    changed = {}
    for kind, before in recorded.items():
        if (cls := code.user_parts.get(kind)) is None:
            changed[kind] = ["it is gone"]
        elif (now := code_of(cls)).sha256 != before.get("sha256"):
            names = before.get("names", {})
            every = [*now.names, *(name for name in names if name not in now.names)]
            different = [name for name in every if now.names.get(name) != names.get(name)]
            changed[kind] = [*(different or ["the order of its code"]), *now.doubts]
    return changed


def user_kinds(encoded: Any) -> set[str]:
    """The kinds of the user's parts in encoded data, at any depth."""
    if isinstance(encoded, dict):
        kind = encoded.get("kind")
        own = {kind} if isinstance(kind, str) and kind.startswith(USER_PREFIX) else set()
        return own.union(*map(user_kinds, encoded.values()))
    return set().union(*map(user_kinds, encoded)) if isinstance(encoded, (list, tuple)) else set()


def user_parts_in(value: Any) -> Iterator[tuple[str, type[Part]]]:
    """Yield (kind, class) for each part in a config, at any depth, whose class the user wrote."""
    if isinstance(value, Part) and _is_user_kind(type(value)):
        yield value.kind_name(), type(value)
    if isinstance(value, Config):
        value = [getattr(value, name) for name in type(value).model_fields]
    elif isinstance(value, Mapping):
        value = value.values()
    for item in value if isinstance(value, (list, tuple, ValuesView)) else ():
        yield from user_parts_in(item)


def _user_parts(module: ModuleType) -> Iterator[tuple[str, type[Part]]]:
    for value in list(vars(module).values()):
        if isinstance(value, type) and issubclass(value, Part) and _is_user_kind(value):
            yield value.kind_name(), value
        elif isinstance(value, Config):
            yield from user_parts_in(value)


def _is_user_kind(cls: type[Part]) -> bool:
    return cls.kind_name().startswith(USER_PREFIX) and not cls.__module__.startswith("palinode.")


def _mistake(error: BaseException, path: Path, file: str) -> BadInput:
    """One BadInput that names the line of the user's file that raised the error."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return BadInput(error.msg, file=f"{file}, line {error.lineno}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f"{file}, line {lines[-1]}" if lines else file
    if isinstance(error, PalinodeError):
        return BadInput(error.message, file=place, field=error.field, hint=error.hint)
    if isinstance(error, ValidationError):
        return bad_input(error, file=place)
    if isinstance(error, SystemExit):
        return BadInput(f"ended the program (exit {error.code})", file=place)
    return BadInput(f"{type(error).__name__}: {error}", file=place)


def _parts(record: Any) -> dict[str, dict[str, Any]]:
    """The table of each part in a record of the code; empty for a record that an earlier version wrote."""
    parts = record.get("parts") if isinstance(record, dict) else None
    return parts if isinstance(parts, dict) and all(isinstance(one, dict) for one in parts.values()) else {}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
