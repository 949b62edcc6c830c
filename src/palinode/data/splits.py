"""Which document goes into which split, decided by content alone; and the guard that no document is in two of them.

A survey streams the corpus once and keeps a few numbers per document. Two documents that are equal up to case and white
space count as one: the first is kept, the others are dropped. A corpus with splits of its own keeps them whole, except that
train loses what validation or test has too, and validation what test has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from palinode.base.errors import BadInput
from palinode.data.config import SPLITS, TEST, TRAIN, VALIDATION, DataConfig, Split
from palinode.data.corpus import Corpus, Document, Piece

KEY_BYTES = 16  # of SHA-256: two different documents among 10^9 share a key with probability 10^-21
DROPPED = -1
NOT_GIVEN = -1


@dataclass(frozen=True)
class Survey:
    """What one pass over a corpus of n documents tells.

    Attributes:
        keys: (n, KEY_BYTES) uint8, a hash of each document without case and white space.
        lengths: (n,) characters, or token ids for a corpus of ids.
        given: (n,) index into SPLITS, or NOT_GIVEN.
        blank: (n,) nothing but white space.
        sha256: hash of all documents' content, in order.
        characters: every character that occurs, if asked for.
    """

    keys: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    given: NDArray[np.int8]
    blank: NDArray[np.bool_]
    sha256: str
    characters: str


@dataclass(frozen=True)
class Plan:
    """Where everything goes.

    Attributes:
        split_of: (n,) index into SPLITS of each document, DROPPED for blanks and duplicates; all train when contiguous.
        ends: where each split ends in the joined text, for a contiguous split; None otherwise.
        duplicates: documents dropped because another is the same up to case and white space.
    """

    split_of: NDArray[np.int8]
    ends: tuple[int, int, int] | None
    duplicates: int


def survey(corpus: Corpus, want_characters: bool = False) -> Survey:
    """Stream the corpus once.

    Raises:
        BadInput: it holds no text, or text that cannot be written as UTF-8.
    """
    keys, lengths, given, blank = bytearray(), [], [], []
    everything = hashlib.sha256(f"{corpus.holds}\0{corpus.separator}\0".encode())
    characters: set[str] = set(corpus.separator) if want_characters else set()
    for document in corpus.documents():
        content, bare, length, empty = hashlib.sha256(), hashlib.sha256(), 0, True
        for piece in document.pieces():
            whole, without_space = _hashable(piece, document)
            content.update(whole)
            bare.update(without_space)
            length += len(piece)
            empty = empty and not without_space
            if want_characters and isinstance(piece, str):
                characters.update(piece)
        everything.update(f"{document.split or ''}\0".encode() + content.digest())
        keys += bare.digest()[:KEY_BYTES]
        lengths.append(length)
        given.append(SPLITS.index(document.split) if document.split else NOT_GIVEN)
        blank.append(empty)
    if all(blank):
        raise BadInput("the corpus holds no text", file=corpus.name, field="data.corpus")
    return Survey(
        np.frombuffer(bytes(keys), dtype=np.uint8).reshape(-1, KEY_BYTES),
        np.array(lengths, dtype=np.int64),
        np.array(given, dtype=np.int8),
        np.array(blank, dtype=np.bool_),
        everything.hexdigest(),
        "".join(sorted(characters)),
    )


def plan(found: Survey, corpus: Corpus, config: DataConfig) -> Plan:
    """Assign the documents.

    Raises:
        BadInput: the corpus does not fit the split rule (its own splits ignored, or too few documents).
    """
    if corpus.has_splits != (config.split == "given"):
        wanted, hint = ("has", "split = 'given'") if corpus.has_splits else ("has no", "'documents' or 'contiguous'")
        message = f"split = {config.split!r}, but this corpus {wanted} splits of its own"
        raise BadInput(message, file=corpus.name, field="data.split", hint=hint)
    kept = _without_copies(found) & ~found.blank
    duplicates = int((~found.blank).sum() - kept.sum())
    if config.split == "given":
        return Plan(np.where(kept, found.given, DROPPED).astype(np.int8), None, duplicates)
    if config.split == "contiguous":
        joined = int(found.lengths[kept].sum()) + len(corpus.separator) * (int(kept.sum()) - 1)
        split_of = np.where(kept, SPLITS.index(TRAIN), DROPPED).astype(np.int8)
        return Plan(split_of, _contiguous_ends(joined, config), duplicates)
    return Plan(_by_hash(found, kept, corpus, config), None, duplicates)


def stream(corpus: Corpus, chosen: Plan) -> Iterator[tuple[Split, Piece]]:
    """The content of all splits, piece by piece: each split's pieces join to its documents with the separator between them."""
    pieces = _by_document(corpus, chosen)
    return pieces if chosen.ends is None else _by_position(pieces, chosen.ends)


def _hashable(piece: Piece, document: Document) -> tuple[bytes, bytes]:
    """A piece as bytes, and as bytes without case and white space."""
    if not isinstance(piece, str):
        ids = piece.astype("<i8").tobytes()
        return ids, ids
    try:
        return piece.encode(), "".join(piece.casefold().split()).encode()
    except UnicodeEncodeError as error:
        raise BadInput("holds half a surrogate pair, which is not text", file=document.name) from error


def _without_copies(found: Survey) -> NDArray[np.bool_]:
    """(n,) which documents stay: the first of equals; with given splits, all but those that a later split has too."""
    _, first, group = np.unique(found.keys, axis=0, return_index=True, return_inverse=True)
    kept = np.zeros(len(found.lengths), dtype=np.bool_)
    kept[first] = True
    if (found.given == NOT_GIVEN).any():
        return kept
    group = group.reshape(-1)  # numpy 2.0 gives a column
    last_split = np.full(len(first), NOT_GIVEN, dtype=np.int8)
    np.maximum.at(last_split, group, found.given)
    latest: NDArray[np.bool_] = found.given == last_split[group]
    return latest


def _by_hash(found: Survey, kept: NDArray[np.bool_], corpus: Corpus, config: DataConfig) -> NDArray[np.int8]:
    """(n,) splits: documents in the order of their hashes; the first are test, the next validation, the rest train.

    The order of hashes has nothing to do with the order, the length or the name of a document, so this is a random split
    that depends on nothing but content; cutting by rank gives exact fractions and no empty split.
    """
    index = np.flatnonzero(kept)
    ranked = index[np.lexsort(found.keys[index].T[::-1])]
    tests, validations = (
        _count(fraction, len(ranked)) for fraction in (config.test_fraction, config.validation_fraction)
    )
    if tests + validations >= len(ranked):
        message = f"{len(ranked)} document(s) cannot be split into train, validation and test by document"
        raise BadInput(
            message, file=corpus.name, field="data.split", hint="split = 'contiguous' cuts inside a document"
        )
    split_of = np.full(len(kept), DROPPED, dtype=np.int8)
    split_of[ranked] = SPLITS.index(TRAIN)
    split_of[ranked[:tests]] = SPLITS.index(TEST)
    split_of[ranked[tests : tests + validations]] = SPLITS.index(VALIDATION)
    return split_of


def _count(fraction: float, documents: int) -> int:
    return max(1, round(fraction * documents)) if fraction > 0 else 0


def _contiguous_ends(length: int, config: DataConfig) -> tuple[int, int, int]:
    """Where train, validation and test end; exact decimals, so that .1 of 1,115,394 leaves 1,003,854 as nanoGPT has it."""
    test, validation = Fraction(str(config.test_fraction)), Fraction(str(config.validation_fraction))
    return int(length * (1 - test - validation)), int(length * (1 - test)), length


def _by_document(corpus: Corpus, chosen: Plan) -> Iterator[tuple[Split, Piece]]:
    started = [False] * len(SPLITS)
    count = 0
    for document, index in zip(corpus.documents(), chosen.split_of, strict=False):
        count += 1
        if index == DROPPED:
            continue
        split = SPLITS[index]
        if started[index] and corpus.separator:
            yield split, corpus.separator
        started[index] = True
        for piece in document.pieces():
            yield split, piece
    if count != len(chosen.split_of):
        raise BadInput("the corpus changed while it was being read", file=corpus.name, field="data.corpus")


def _by_position(pieces: Iterator[tuple[Split, Piece]], ends: tuple[int, int, int]) -> Iterator[tuple[Split, Piece]]:
    place, index = 0, 0
    for _, piece in pieces:
        while len(piece):
            while place >= ends[index] and index < len(ends) - 1:
                index += 1
            room = ends[index] - place if index < len(ends) - 1 else len(piece)
            part, piece = piece[:room], piece[room:]
            place += len(part)
            yield SPLITS[index], part
