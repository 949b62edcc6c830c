"""The tokens with which the documents of a split start, and the units of text that an evaluation adds up.

A store knows where documents start only while it is built: the text between two documents may occur inside documents too. The file
`<split>.documents.bin` holds J + 1 whole numbers (int64, little-endian) for J documents: the index of the first token of each
document, and the number of tokens of the split. A token that begins in one document and ends in the next belongs to the first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from palinode.base import fsio

BLOCK_TOKENS = 2048  # the least tokens of a block, where a split has no documents
START_TYPE = "<i8"
UnitKind = Literal["documents", "blocks", "sequences"]


@dataclass(frozen=True)
class Units:
    """The parts of a split whose scores are added up: every token of the split is in one unit.

    Attributes:
        starts: (units + 1,) int64: the index of the first token of each unit, and the number of tokens of the split.
        kind: `documents`; `blocks` of equal numbers of tokens in a text without documents; `sequences` of a task.
    """

    starts: NDArray[np.int64]
    kind: UnitKind

    def of_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The unit of each token, given the indices of the tokens in the split."""
        found: NDArray[np.int64] = np.searchsorted(self.starts, tokens, side="right") - 1
        return found


def units_of(starts: NDArray[np.int64]) -> Units:
    """The units of a split with these starts of documents: its documents or, if it has only one, blocks of equal size."""
    if len(starts) > 2:
        return Units(starts, "documents")
    tokens = int(starts[-1])
    blocks = max(1, tokens // BLOCK_TOKENS)
    return Units(np.arange(blocks + 1, dtype=np.int64) * tokens // blocks, "blocks")


class DocumentStarts:
    """Collects the starts of the documents of one split while its tokens are written.

    A document starts at a byte of the text. Its first token is the first token that begins at this byte or after it.
    """

    def __init__(self) -> None:
        self._tokens = array("q")
        self._bytes = array("q")  # the starts whose tokens are not written yet

    def at_byte(self, place_bytes: int) -> None:
        """The next document starts after this number of bytes of the split's text."""
        self._bytes.append(place_bytes)

    def at_token(self, index: int) -> None:
        """The next document starts with the token of this index."""
        self._tokens.append(index)

    def place(self, sizes_bytes: NDArray[np.int64], tokens_before: int, bytes_before: int) -> None:
        """Find the first tokens of the waiting documents among tokens that have these sizes.

        Args:
            tokens_before, bytes_before: the number of tokens of the split before these tokens, and the number of their bytes.
        """
        if not self._bytes:
            return
        ends = bytes_before + np.cumsum(sizes_bytes)
        waiting = np.asarray(self._bytes)
        placed = waiting[waiting <= (ends[-1] if len(ends) else bytes_before)]
        first = np.searchsorted(ends - sizes_bytes, placed, side="left")
        self._tokens.extend((tokens_before + first).tolist())
        self._bytes = self._bytes[len(placed) :]

    def whole(self, tokens: int, *, are_known: bool) -> NDArray[np.int64]:
        """The starts of all documents and the number of tokens; only 0 and that number where the tokens do not spell the text."""
        inside = np.asarray(self._tokens, dtype=np.int64) if are_known else np.zeros(0, dtype=np.int64)
        return np.concatenate([[0], np.unique(inside[(inside > 0) & (inside < tokens)]), [tokens]])


def starts_file(split: str) -> str:
    """The name of the file with the starts of a split's documents."""
    return f"{split}.documents.bin"


def write(directory: Path, split: str, starts: NDArray[np.int64]) -> dict[str, Any]:
    """Write the starts of a split's documents, and return their entry in the manifest."""
    content = starts.astype(START_TYPE).tobytes()
    fsio.write_bytes(directory / starts_file(split), content)
    return {"file_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def document_starts(directory: Path, split: str, entry: Mapping[str, Any]) -> NDArray[np.int64]:
    """(J + 1,) the starts of a split's documents and the number of its tokens; `entry` is the split's entry in the manifest."""
    count = entry["document_starts"]["file_bytes"] // np.dtype(START_TYPE).itemsize
    return np.memmap(directory / starts_file(split), dtype=START_TYPE, mode="r", shape=(count,))
