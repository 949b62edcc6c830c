"""Reads a collection for retrieval in the layout of BEIR (arXiv 2104.08663), and divides its queries into folds.

A folder holds corpus.jsonl (`_id`, `title`, `text`), queries.jsonl (`_id`, `text`) and qrels/*.tsv (a heading, then query, document
and grade in three columns). The queries of all files of grades are one set: folds by the hash of a query's id replace their split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from palinode.base.errors import AuditFailed, BadInput
from palinode.base.seeds import derive
from palinode.data.cache import data_path
from palinode.data.pairs import json_rows

CORPUS, QUERIES, GRADES = "corpus.jsonl", "queries.jsonl", "qrels/*.tsv"
FOLD_STREAM = "retrieval fold"


@dataclass(frozen=True)
class Collection:
    """Documents, queries, and the documents that are relevant to each query.

    Attributes:
        titles, documents: document id -> its title, and its title and text.
        queries: query id -> its text, for the queries with a relevant document, sorted by id.
        relevant: query id -> the ids of its relevant documents, those with a grade above 0.
    """

    titles: Mapping[str, str]
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    relevant: Mapping[str, frozenset[str]]

    def first(self, queries: int | None) -> Collection:
        """The collection with this number of queries, those with the smallest hashes; None: with all of them."""
        chosen = sorted(self.queries, key=lambda query: derive(0, FOLD_STREAM, "order", query))[:queries]
        kept = {query: self.queries[query] for query in sorted(chosen)}
        return Collection(self.titles, self.documents, kept, {query: self.relevant[query] for query in kept})


def read_collection(folder: str, field: str = "folder") -> Collection:
    """The collection of a folder.

    Args:
        folder: a path, or a path below $PALINODE_DATA after `data:`.
        field: the setting that named it, for errors.

    Raises:
        BadInput: the folder or a file is missing, or a line has not its keys. The error names the file and the line.
    """
    root = _root(folder, field)
    titles, documents = dict[str, str](), dict[str, str]()
    for title, text, name in _texts(root / CORPUS, field):
        titles[name], documents[name] = title, f"{title}\n{text}".strip()
    queries = {name: text for _, text, name in _texts(root / QUERIES, field)}
    relevant: dict[str, set[str]] = {}
    for path in _grade_files(root, field):
        for number, query, document in _grades(path, field):
            if query not in queries or document not in documents:
                missing = f"query {query!r}" if query not in queries else f"document {document!r}"
                raise BadInput(f"line {number} names the {missing}, which is not there", file=str(path), field=field)
            relevant.setdefault(query, set()).add(document)
    found = {query: frozenset(relevant[query]) for query in sorted(relevant)}
    if not found:
        raise BadInput("no query has a relevant document", file=folder, field=field)
    return Collection(titles, documents, {query: queries[query] for query in found}, found)


def collection_sha256(folder: str, field: str = "folder") -> str:
    """The hash of all that `read_collection` reads.

    Raises:
        BadInput: the folder or a file is missing.
    """
    root, digest = _root(folder, field), hashlib.sha256()
    for path in (root / CORPUS, root / QUERIES, *_grade_files(root, field)):
        content = _content(path, field)
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@dataclass(frozen=True)
class Fold:
    """The queries that a retriever is trained on, and those that it is tested on."""

    trained: tuple[str, ...]
    tested: tuple[str, ...]


def fold_of(query: str, folds: int) -> int:
    """The fold of a query, which depends on its id alone."""
    return derive(0, FOLD_STREAM, query) % folds


def divided(collection: Collection, folds: int, seed: int) -> Fold:
    """The fold `seed` modulo `folds` is tested, and the queries of the others are trained on.

    A query whose text is also that of a tested query is not trained on.

    Raises:
        BadInput: no query is left to train on, or to test.
    """
    tested = tuple(query for query in collection.queries if fold_of(query, folds) == seed % folds)
    texts = {_plain(collection.queries[query]) for query in tested}
    others = (query for query in collection.queries if fold_of(query, folds) != seed % folds)
    trained = tuple(query for query in others if _plain(collection.queries[query]) not in texts)
    if not trained or not tested:
        what = "test" if trained else "train on"
        raise BadInput(f"fold {seed % folds} of {folds} leaves no query to {what}", field="folds")
    return Fold(trained, tested)


def check_apart(collection: Collection, trained: set[str], tested: tuple[str, ...]) -> None:
    """Refuse the scores of a retriever that was trained on a query that it is tested on.

    Args:
        trained: the ids of all queries whose texts were in a training batch.

    Raises:
        AuditFailed: a query, or its text, is in both.
    """
    texts = {_plain(collection.queries[query]): query for query in trained}
    for query in tested:
        if query in trained or (twin := texts.get(_plain(collection.queries[query]))) is not None:
            known = query if query in trained else f"{twin}, which has its text,"
            raise AuditFailed(
                f"query {query} is tested, and query {known} was trained on", field="evaluation.retrieval"
            )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _root(folder: str, field: str) -> Path:
    root = data_path(folder, field)
    if root is None or not root.is_dir():
        raise BadInput("no such folder", file=folder, field=field, hint=f"it needs {CORPUS}, {QUERIES} and {GRADES}")
    return root


def _grade_files(root: Path, field: str) -> list[Path]:
    if not (paths := sorted(root.glob(GRADES))):
        raise BadInput(f"has no {GRADES}", file=str(root), field=field)
    return paths


def _content(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=str(path), field=field) from None


def _texts(path: Path, field: str) -> Iterator[tuple[str, str, str]]:
    """(title, text, id) of every line; the title may be missing."""
    for number, row in json_rows(str(path), _content(path, field), field):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("_id", "text")):
            raise BadInput(f"line {number} has no _id and text", file=str(path), field=field)
        yield str(row.get("title") or ""), row["text"], row["_id"]


def _grades(path: Path, field: str) -> Iterator[tuple[int, str, str]]:
    """(line number, query, document) of every line with a grade above 0; the first line is the heading."""
    lines = _content(path, field).decode("utf-8-sig", "replace").splitlines()
    for number, line in enumerate(lines[1:], 2):
        columns = line.split("\t")
        if len(columns) != 3 or not columns[2].strip().lstrip("-").isdigit():
            raise BadInput(f"line {number} is not query, document and grade", file=str(path), field=field)
        if int(columns[2]) > 0:
            yield number, columns[0], columns[1]
