"""Reads every file of a store and holds it against the hash that was written with it: `palinode ls --verify`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from palinode.base import fsio
from palinode.base.errors import Damaged, PalinodeError
from palinode.results.files import is_regular, read_table
from palinode.results.record import AUDIT_FILE, RESULT_FILE, SPEC_FILE
from palinode.results.store import Store

CHECKPOINTS, MANIFEST_FILE = "ckpt", "manifest.json"


@dataclass(frozen=True)
class Verified:
    """What reading a whole store showed.

    Attributes:
        files: how many files were read.
        unprotected: the files without a hash of their content; they were written before version 0.2.
        damaged: the errors, each naming its file.
    """

    files: int
    unprotected: tuple[Path, ...]
    damaged: tuple[Damaged, ...]


def verify(store: Store) -> Verified:
    """Read every file of a store."""
    tables: list[Path] = []
    damaged: dict[str, Damaged] = {}
    others = 0
    for record in store.records():
        tables += [path for name in (SPEC_FILE, RESULT_FILE, AUDIT_FILE) if is_regular(path := record.directory / name)]
        if record.damage is not None:
            damaged[str(record.damage)] = record.damage
        for path in _checkpoint_files(record.directory):
            others += 1
            if problem := _problem_of_tensors(path):
                damaged[str(problem)] = problem
        tables += [
            path for path in (record.directory / CHECKPOINTS).glob(f"step-*/{MANIFEST_FILE}") if is_regular(path)
        ]
    tables += [path for path in (*store.table_paths(), *store.root.rglob("hold-*.json")) if is_regular(path)]
    for problem in store.damaged_experiments():
        damaged[str(problem)] = problem
    unprotected = []
    for path in tables:
        try:
            read_table(path)
            if not fsio.is_protected(path):
                unprotected.append(path)
        except PalinodeError as error:
            problem = error if isinstance(error, Damaged) else Damaged(error.message, file=str(path))
            damaged[str(problem)] = problem
    return Verified(len(tables) + others, tuple(unprotected), tuple(damaged.values()))


def _checkpoint_files(directory: Path) -> Iterator[Path]:
    """The tensor files that the whole manifests of a run name."""
    if (directory / CHECKPOINTS).is_symlink():
        return
    for manifest in sorted((directory / CHECKPOINTS).glob(f"step-*/{MANIFEST_FILE}")):
        try:
            files = read_table(manifest).get("files")
        except Damaged:
            continue  # reported with the tables
        yield from (manifest.parent / Path(name).name for name in (files if isinstance(files, dict) else ()))


def _problem_of_tensors(path: Path) -> Damaged | None:
    try:
        entry = read_table(path.parent / MANIFEST_FILE)["files"][path.name]
        with open(path, "rb") as handle:
            same = hashlib.file_digest(handle, "sha256").hexdigest() == entry["sha256"]
    except (OSError, KeyError, TypeError):
        return Damaged("cannot be read, or its manifest does not name its hash", file=str(path))
    return None if same else Damaged("is not what was written: its hash is not that of its manifest", file=str(path))
