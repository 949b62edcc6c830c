"""Reads every file of a store and compares it with the hash that was stored with it (`palinode ls --verify`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from palinode.base import fsio
from palinode.base.errors import Damaged, PalinodeError
from palinode.results.documents import DOCUMENTS_FILE
from palinode.results.files import is_regular, read_table
from palinode.results.record import AUDIT_FILE, RESULT_FILE, SPEC_FILE, TOKENIZER_FILE, Record
from palinode.results.store import Store

CHECKPOINTS, MANIFEST_FILE = "ckpt", "manifest.json"


@dataclass(frozen=True)
class Verified:
    """The result of the check of a whole store.

    Attributes:
        files: the number of files that were read.
        unprotected: the files that do not store a hash of their content. Palinode wrote files in this form before version 0.2.
        damaged: the errors that were found. Each error names the damaged file.
    """

    files: int
    unprotected: tuple[Path, ...]
    damaged: tuple[Damaged, ...]


def verify(store: Store) -> Verified:
    """Read every file of a store and compare each with its stored hash."""
    tables: list[Path] = []
    tensors: list[Path] = []
    problems: list[Damaged] = []
    documents = tokenizers = 0
    for entry in store.experiments():
        problems += store.experiment(entry.full_name).damaged.values()
        for read in (store.seals, store.looks):
            try:
                read(entry)
            except Damaged as error:
                problems.append(error)
    for record in store.records():
        manifests = _manifests(record.directory)
        tables += [*(record.directory / name for name in (SPEC_FILE, RESULT_FILE, AUDIT_FILE)), *manifests]
        problems += filter(None, (record.damage, record.audit_damage, record.documents_damage))
        documents += is_regular(record.directory / DOCUMENTS_FILE)
        if is_regular(record.directory / TOKENIZER_FILE):
            tokenizers += 1
            problems += filter(None, [_problem_of_tokenizer(record)])
        own_tensors = [path for manifest in manifests for path in _tensor_files(manifest)]
        problems += [problem for path in own_tensors if (problem := problem_of_tensors(path))]
        tensors += own_tensors
    problems += store.damaged_experiments()
    unprotected = []
    tables = [path for path in (*tables, *store.table_paths(), *store.root.rglob("hold-*.json")) if is_regular(path)]
    for path in tables:
        try:
            read_table(path)
            if not fsio.is_protected(path):
                unprotected.append(path)
        except PalinodeError as error:
            problems.append(error if isinstance(error, Damaged) else Damaged(error.message, file=str(path)))
    once = {str(problem): problem for problem in problems}
    return Verified(len(tables) + len(tensors) + documents + tokenizers, tuple(unprotected), tuple(once.values()))


def _manifests(directory: Path) -> list[Path]:
    """The manifest files of a run's checkpoints."""
    return sorted((directory / CHECKPOINTS).glob(f"step-*/{MANIFEST_FILE}"))


def _tensor_files(manifest: Path) -> list[Path]:
    """The tensor files that a manifest names; empty for a damaged manifest, which is reported with the JSON tables."""
    if manifest.parents[1].is_symlink():
        return []
    try:
        files = read_table(manifest).get("files")
    except Damaged:
        return []
    return [manifest.parent / Path(name).name for name in (files if isinstance(files, dict) else ())]


def problem_of_tensors(path: Path) -> Damaged | None:
    """The error of a tensor file of a checkpoint whose content has not the hash in the manifest beside it; None if it has."""
    try:
        entry = read_table(path.parent / MANIFEST_FILE)["files"][path.name]
        with open(path, "rb") as handle:
            same = hashlib.file_digest(handle, "sha256").hexdigest() == entry["sha256"]
    except (OSError, KeyError, TypeError):
        return Damaged("cannot be read, or its manifest does not name its hash", file=str(path))
    return None if same else Damaged("is not what was written: its hash is not that of its manifest", file=str(path))


def _problem_of_tokenizer(record: Record) -> Damaged | None:
    """The error for a tokenizer whose hash is not that of the run's spec; None if it is, or if the spec names no hash."""
    path, data = record.directory / TOKENIZER_FILE, record.spec.get("data")
    wanted = data.get("tokenizer_sha256") if isinstance(data, Mapping) else None
    try:
        same = wanted in (None, hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError:
        return Damaged("cannot be read", file=str(path))
    return None if same else Damaged("is not this run's", file=str(path))
