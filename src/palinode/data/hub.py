"""Data sets of the Hugging Face hub with short names. A data set is streamed once, at a fixed revision, and stored as text.

The first use of a data set needs the extra `hf` and a network; later runs read the stored text. Palinode can read a local copy
of a hub repository instead. Only data files are read (`datasets` >= 4 runs no code of a repository).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.data.config import SPLITS, TRAIN, VALIDATION, Split
from palinode.data.corpus import TEXT_SEPARATOR, Document
from palinode.data.readers import TEXT_FIELD, articles


@dataclass(frozen=True)
class HubSet:
    """The place of a data set, and the rule by which its rows become documents.

    Attributes:
        repository: the name of the repository on the hub.
        configuration: the name of the part of the repository that is loaded; None if the repository has only one part.
        revision: the commit of the repository that is loaded; the content of a commit cannot change.
        splits: the splits of the data set that are read; a data set with only one split is split by Palinode's rule.
        licence: the licence that the card of the data set states.
        size: the approximate size of the text of the whole data set, in words.
        rows_are_lines: whether a row is a line of an article (WikiText); if false, a row is a document.
    """

    repository: str
    configuration: str | None
    revision: str
    splits: tuple[Split, ...]
    licence: str
    size: str
    rows_are_lines: bool = False

    @property
    def separator(self) -> str:
        """The text between two documents: empty for WikiText, because every line of WikiText has a line end."""
        return "" if self.rows_are_lines else TEXT_SEPARATOR


def _wikitext(configuration: str, size: str) -> HubSet:
    revision, licence = "b08601e04326c79dfdd32d625aee71d232d685c3", "CC BY-SA 3.0 and GFDL"
    return HubSet("Salesforce/wikitext", configuration, revision, SPLITS, licence, size, rows_are_lines=True)


HUB_SETS = {
    "wikitext-2": _wikitext("wikitext-2-raw-v1", "13 MB"),
    "wikitext-103": _wikitext("wikitext-103-raw-v1", "550 MB"),
    "tinystories": HubSet(
        "roneneldan/TinyStories",
        None,
        "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
        (TRAIN, VALIDATION),
        "CDLA-Sharing-1.0",
        "1.9 GB",
    ),
    "fineweb-edu": HubSet(
        "HuggingFaceFW/fineweb-edu",
        "sample-10BT",
        "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
        (TRAIN,),
        "ODC-By 1.0",
        "48 GB; use a limit",
    ),
}


def hub_documents(name: str, hub_set: HubSet, source: Path | None, max_characters: int | None) -> Iterator[Document]:
    """Stream the documents of a hub set, or of a local copy of its repository.

    Args:
        name: the short name of the data set.
        hub_set: the place of the data set.
        source: the folder of a local copy of the repository; None to read from the hub.
        max_characters: the train split ends with the document that reaches this number of characters; None for no limit.

    Raises:
        BadInput: the local copy does not hold the data set.
        EnvironmentProblem: `datasets` is not installed, or the hub cannot be reached.
    """
    library = _datasets()
    for split in hub_set.splits:
        rows = _rows(library, name, hub_set, source, split)
        own_split = split if len(hub_set.splits) > 1 else None
        if hub_set.rows_are_lines:
            # The hub stores a blank line (` \n` in WikiText's file) as an empty row.
            documents = articles((row if row.endswith("\n") else row + "\n" for row in rows), name, own_split)
        else:
            documents = (Document.of(f"{name}:{number}", row, own_split) for number, row in enumerate(rows))
        characters = 0
        for document in documents:
            yield document
            characters += len(document.text)
            if split == TRAIN and max_characters is not None and characters >= max_characters:
                break


def _rows(library: ModuleType, name: str, hub_set: HubSet, source: Path | None, split: Split) -> Iterator[str]:
    """The texts of one split, row by row; every exception of the library becomes an error message of one line."""
    place = str(source) if source else hub_set.repository
    revision = None if source else hub_set.revision
    try:
        with _quiet():
            table = library.load_dataset(
                place, name=hub_set.configuration, split=split, streaming=True, revision=revision
            )
            for number, row in enumerate(table):
                yield _text(row, number, place)
    # An OSError is a missing network, a missing repository, or a file that cannot be read.
    except (ValueError, OSError, library.exceptions.DatasetsError) as error:
        raise _failure(name, source, error) from error


def _text(row: dict[str, Any], number: int, place: str) -> str:
    text = row.get(TEXT_FIELD)
    if not isinstance(text, str):
        hint = f"columns: {', '.join(list(row)[:8])}"
        raise BadInput(f"row {number} has no text in column {TEXT_FIELD!r}", file=place, field=TEXT_FIELD, hint=hint)
    return text


def _failure(name: str, source: Path | None, error: Exception) -> BadInput | EnvironmentProblem:
    reason = str(error).partition("\n")[0] or type(error).__name__
    if source is not None:
        return BadInput(f"is not a local copy of {name}: {reason}", file=str(source))
    hint = f"with a network: `palinode data get {name}`; from a local copy of its repository: add `--from FOLDER`"
    return EnvironmentProblem(f"cannot fetch {name}: {reason}", field="data.corpus", hint=hint)


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        hint = "pip install 'palinode[hf]'"
        raise EnvironmentProblem("Hugging Face `datasets` is not installed", hint=hint) from error
    module: ModuleType = datasets
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """A context in which the hub's client logs nothing: it would log every retry, and the final error names the cause anyway."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
