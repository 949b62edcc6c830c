"""Files of token ids: nanoGPT's header-free .bin, the .bin with a header of llm.c and modded-nanogpt, and .npy.

A .bin holds little-endian uint16, or uint32 if its name ends in `.u32.bin`. The file does not say what the ids mean, so
`data.tokenizer` must: the tokenizer that wrote the file (`gpt2`, a path), or `ids:<vocabulary size>` if it is not here.
Each file is one document; a folder of `train.bin`, `val.bin` and perhaps `test.bin` has its own splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palinode.base.errors import BadInput
from palinode.data.config import Split
from palinode.data.corpus import Document

SUFFIXES = (".bin", ".npy")
READ_TOKENS = 1 << 20
HEADER_MAGIC = 20240520  # llm.c and modded-nanogpt: 256 int32 with magic, version, count; then uint16
HEADER_VERSION = 1
HEADER_BYTES = 256 * 4


def token_file(path: Path, split: Split | None = None) -> Iterator[Document]:
    """The ids of a file as one document.

    Raises:
        BadInput: the file cannot be a list of token ids.
    """
    ids = _npy(path) if path.suffix == ".npy" else _bin(path)
    if not len(ids):
        raise BadInput("holds no token", file=str(path))
    yield Document(str(path), lambda: _in_pieces(ids), split)


def _in_pieces(ids: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    for start in range(0, len(ids), READ_TOKENS):
        yield np.asarray(ids[start : start + READ_TOKENS]).astype(np.int64)


def _bin(path: Path) -> NDArray[np.integer]:
    kind = np.dtype("<u4") if path.name.endswith(".u32.bin") else np.dtype("<u2")
    size = path.stat().st_size
    start = _header_bytes(path, size)
    if (size - start) % kind.itemsize:
        raise BadInput(f"has {size} bytes, which is no whole number of {kind.itemsize}-byte token ids", file=str(path))
    return np.memmap(path, dtype=kind, mode="r", offset=start) if size > start else np.empty(0, dtype=kind)


def _header_bytes(path: Path, size: int) -> int:
    """The length of the header: 0 for a file without one.

    Raises:
        BadInput: the header names another number of tokens than the file holds.
    """
    with open(path, "rb") as handle:
        header = np.frombuffer(handle.read(12), dtype=np.uint8)
    if len(header) < 12 or size < HEADER_BYTES:
        return 0
    magic, version, count = (int(value) for value in header.view("<i4"))
    if magic != HEADER_MAGIC or version != HEADER_VERSION:
        return 0
    if size - HEADER_BYTES != 2 * count:
        raise BadInput(f"its header announces {count} tokens, it holds {(size - HEADER_BYTES) / 2:g}", file=str(path))
    return HEADER_BYTES


def _npy(path: Path) -> NDArray[np.integer]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(f"is not a .npy file of numbers: {error}", file=str(path)) from error
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise BadInput("must hold one row of whole numbers (a 1-D integer array)", file=str(path))
    return ids
