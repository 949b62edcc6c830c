"""Chooses the split of each document by its content alone; no document is in two splits.

A survey reads the corpus once and keeps a few numbers for each document. Documents that differ only in case and white space
count as one document: the first document stays, the others are dropped. A corpus with its own splits keeps its splits, but a
train document that is also in validation or test is dropped, and so is a validation document that is also in test. Shapes: n
documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from palinode.base.errors import BadInput
from palinode.data.config import SPLITS, TEST, TRAIN, VALIDATION, DataConfig, Split
from palinode.data.corpus import Corpus, Document, Piece

KEY_BYTES = 16  # bytes of SHA-256; among 10^9 different documents, two have equal keys with probability 10^-21
KNOWN_MARKERS = ("<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>")
DROPPED = -1
NO_SPLIT = -1


@dataclass(frozen=True)
class Survey:
    """The result of one pass over a corpus of n documents.

    Attributes:
        keys: (n, KEY_BYTES) uint8, a hash of each document without case and white space.
        lengths: (n,) the number of characters of each document, or the number of ids for a corpus of token ids.
        own_split: (n,) the index into SPLITS of the split in which the corpus puts each document, or NO_SPLIT.
        blank: (n,) true for each document that has only white space.
        sha256: the hash of the content of all documents, in order.
        characters: every character of the corpus, sorted; empty if the survey does not collect characters.
        markers: the known markers of a document's end or start (KNOWN_MARKERS) that occur in the text.
    """

    keys: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    own_split: NDArray[np.int8]
    blank: NDArray[np.bool_]
    sha256: str
    characters: str
    markers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The split of every document.

    Attributes:
        split_of: (n,) the index into SPLITS of each document; DROPPED for a blank document or a duplicate. With contiguous
            splits, all other documents have the index of train.
        ends: the places in the joined text where the splits end, for a contiguous split; None for other splits.
        duplicates: the number of documents that are dropped because another document differs from them only in case and white
            space.
    """

    split_of: NDArray[np.int8]
    ends: tuple[int, int, int] | None
    duplicates: int


def survey(corpus: Corpus, want_characters: bool = False) -> Survey:
    """Stream the corpus once and return the survey.

    Raises:
        BadInput: the corpus holds no text, or holds text that cannot be written as UTF-8.
    """
    keys, lengths, own_split, blank = bytearray(), [], [], []
    everything = hashlib.sha256(f"{corpus.holds}\0{corpus.separator}\0".encode())
    markers: set[str] = set()
    characters: set[str] = set(corpus.separator) if want_characters else set()
    for document in corpus.documents():
        content, bare, length, empty = hashlib.sha256(), hashlib.sha256(), 0, True
        for piece in document.pieces():
            whole, without_space = _hashable(piece, document)
            content.update(whole)
            bare.update(without_space)
            length += len(piece)
            empty = empty and not without_space
            if isinstance(piece, str):
                markers.update(marker for marker in KNOWN_MARKERS if marker in piece)
            if want_characters and isinstance(piece, str):
                characters.update(piece)
        everything.update(f"{document.split or ''}\0".encode() + content.digest())
        keys += bare.digest()[:KEY_BYTES]
        lengths.append(length)
        own_split.append(SPLITS.index(document.split) if document.split else NO_SPLIT)
        blank.append(empty)
    if all(blank):
        raise BadInput("the corpus holds no text", file=corpus.name, field="data.corpus")
    return Survey(
        np.frombuffer(bytes(keys), dtype=np.uint8).reshape(-1, KEY_BYTES),
        np.array(lengths, dtype=np.int64),
        np.array(own_split, dtype=np.int8),
        np.array(blank, dtype=np.bool_),
        everything.hexdigest(),
        "".join(sorted(characters)),
        tuple(sorted(markers)),
    )


def plan(facts: Survey, corpus: Corpus, config: DataConfig) -> Plan:
    """Assign each document to a split.

    Raises:
        BadInput: the corpus has its own splits and the rule is not `given`; it has none and the rule is `given`; or train has
            too few documents for a validation split.
    """
    if corpus.has_splits != (config.split == "given"):
        verb, hint = ("has", "split = 'given'") if corpus.has_splits else ("has no", "'documents' or 'contiguous'")
        message = f"split = {config.split!r}, but this corpus {verb} splits of its own"
        raise BadInput(message, file=corpus.name, field="data.split", hint=hint)
    stays = _without_copies(facts) & ~facts.blank
    duplicates = int((~facts.blank).sum() - stays.sum())
    if config.split == "given":
        own = np.where(stays, facts.own_split, DROPPED).astype(np.int8)
        return Plan(_with_validation(own, facts, corpus, config), None, duplicates)
    if config.split == "contiguous" or _too_few(int(stays.sum()), config):
        joined = int(facts.lengths[stays].sum()) + len(corpus.separator) * (int(stays.sum()) - 1)
        split_of = np.where(stays, SPLITS.index(TRAIN), DROPPED).astype(np.int8)
        return Plan(split_of, _contiguous_ends(joined, config), duplicates)
    return Plan(_by_hash(facts, stays, config), None, duplicates)


class Part(NamedTuple):
    """A piece of the content of a split.

    Attributes:
        starts_document: whether a document starts with this piece. The text between two documents belongs to the first of them.
    """

    split: Split
    piece: Piece
    starts_document: bool = False


def parts(corpus: Corpus, assignment: Plan) -> Iterator[Part]:
    """The content of all splits in pieces. The pieces of a split, joined, are its documents with separators between them."""
    pieces = _by_document(corpus, assignment)
    return pieces if assignment.ends is None else _by_position(pieces, assignment.ends)


def stream(corpus: Corpus, assignment: Plan) -> Iterator[tuple[Split, Piece]]:
    """The pieces of `parts` as (split, piece), without the starts of documents."""
    return ((part.split, part.piece) for part in parts(corpus, assignment))


def _hashable(piece: Piece, document: Document) -> tuple[bytes, bytes]:
    """The bytes of a piece, and the bytes of the piece without case and white space."""
    if not isinstance(piece, str):
        ids = piece.astype("<i8").tobytes()
        return ids, ids
    try:
        return piece.encode(), "".join(piece.casefold().split()).encode()
    except UnicodeEncodeError as error:
        raise BadInput("holds half a surrogate pair, which is not text", file=document.name) from error


def _without_copies(facts: Survey) -> NDArray[np.bool_]:
    """(n,) true for each document that is kept: of equal documents the first or, with own splits, all those in the last split."""
    _, first, group = np.unique(facts.keys, axis=0, return_index=True, return_inverse=True)
    if (facts.own_split == NO_SPLIT).any():
        is_first = np.zeros(len(facts.lengths), dtype=np.bool_)
        is_first[first] = True
        return is_first
    group = group.reshape(-1)  # numpy 2.0 returns a column here
    last_split = np.full(len(first), NO_SPLIT, dtype=np.int8)
    np.maximum.at(last_split, group, facts.own_split)
    in_last: NDArray[np.bool_] = facts.own_split == last_split[group]
    return in_last


def _by_hash(facts: Survey, stays: NDArray[np.bool_], config: DataConfig) -> NDArray[np.int8]:
    """(n,) the split of each document. In the order of hashes, the first documents are test, the next validation, the rest train.

    The order of hashes does not depend on the place, the length or the name of a document, so the split is random and depends on
    content alone. The cut counts documents in this order, so the splits have exact fractions, and none is empty.
    """
    index = np.flatnonzero(stays)
    ranked = index[np.lexsort(facts.keys[index].T[::-1])]
    tests, validations = _count(config.test_fraction, len(ranked)), _count(config.validation_fraction, len(ranked))
    split_of = np.full(len(stays), DROPPED, dtype=np.int8)
    split_of[ranked] = SPLITS.index(TRAIN)
    split_of[ranked[:tests]] = SPLITS.index(TEST)
    split_of[ranked[tests : tests + validations]] = SPLITS.index(VALIDATION)
    return split_of


def _too_few(documents: int, config: DataConfig) -> bool:
    """Whether a split by document would leave no document for train; then the joined text is cut instead."""
    return _count(config.test_fraction, documents) + _count(config.validation_fraction, documents) >= documents


def _with_validation(own: NDArray[np.int8], facts: Survey, corpus: Corpus, config: DataConfig) -> NDArray[np.int8]:
    """(n,) the splits that the corpus has. If there are only train and test, a share of the train documents becomes validation.

    Raises:
        BadInput: train has a single document.
    """
    train = np.flatnonzero(own == SPLITS.index(TRAIN))
    validation = SPLITS.index(VALIDATION)
    if validation in own or config.validation_fraction == 0 or SPLITS.index(TEST) not in own:
        return own
    if len(train) < 2:
        message = "has train and test but no validation, and too few train documents to take it from"
        raise BadInput(message, file=corpus.name, field="data.split", hint="add a validation file")
    ranked = train[np.lexsort(facts.keys[train].T[::-1])]
    own[ranked[: _count(config.validation_fraction, len(ranked))]] = validation
    return own


def _count(fraction: float, documents: int) -> int:
    return max(1, round(fraction * documents)) if fraction > 0 else 0


def _contiguous_ends(length: int, config: DataConfig) -> tuple[int, int, int]:
    """The places where train, validation and test end. Without rounding errors: 0.9 of 1,115,394 is 1,003,854, as in nanoGPT."""
    test, validation = Fraction(str(config.test_fraction)), Fraction(str(config.validation_fraction))
    return int(length * (1 - test - validation)), int(length * (1 - test)), length


def _by_document(corpus: Corpus, assignment: Plan) -> Iterator[Part]:
    started = [False] * len(SPLITS)
    count = 0
    for document, index in zip(corpus.documents(), assignment.split_of, strict=False):
        count += 1
        if index == DROPPED:
            continue
        split = SPLITS[index]
        if started[index] and corpus.separator:
            yield Part(split, corpus.separator)
        started[index] = True
        for number, piece in enumerate(document.pieces()):
            yield Part(split, piece, starts_document=number == 0)
    if count != len(assignment.split_of):
        raise BadInput("the corpus changed while it was being read", file=corpus.name, field="data.corpus")


def _by_position(pieces: Iterator[Part], ends: tuple[int, int, int]) -> Iterator[Part]:
    place, index = 0, 0
    for _, piece, starts in pieces:
        while len(piece):
            while place >= ends[index] and index < len(ends) - 1:
                index += 1
            room = ends[index] - place if index < len(ends) - 1 else len(piece)
            part, piece = piece[:room], piece[room:]
            place += len(part)
            yield Part(SPLITS[index], part, starts)
            starts = False
