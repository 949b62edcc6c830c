"""Byte-level byte-pair encoding through Hugging Face `tokenizers`: trained here, or read from a tokenizer.json.

Only byte-level tokenizers are accepted, because only for them is it known how many bytes of text each id stands for: a
token is written with one printable stand-in character per byte (Radford et al. 2019, GPT-2's `bytes_to_unicode`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from palinode.base.errors import BadInput
from palinode.data.cache import DATA_VARIABLE, cache_directory
from palinode.data.pieces import cut

GPT2_VOCAB_SIZE = 50257
GPT2_FOLDERS = ("gpt2-bpe", "gpt2")
LARGEST_FILE_BYTES = 256 * 2**20
PIECE_CHARACTERS = 1 << 17  # what one thread encodes at a time: fast, and flat in memory
FEWEST_OCCURRENCES = 2  # a pair seen once is not worth an id
PROBE = "It's 3.14  \n\n\tÄß 漢字 \U0001f600 don't\x00<|endoftext|>"


class BpeTokenizer:
    """A byte-level BPE tokenizer. Text that spells a special token is encoded as the text it is."""

    kind = "bpe"

    def __init__(self, inner: tokenizers.Tokenizer, file: str):
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self._inner = inner
        self._bytes = _bytes_of_each_id(inner, file)
        found = int(self._bytes[self.encode_array(PROBE)].sum())
        if found != len(PROBE.encode()):
            raise BadInput("this tokenizer adds, drops or rewrites text (a normalizer or a prefix space)", file=file)

    @property
    def vocab_size(self) -> int:
        """All ids, the file's own special tokens included."""
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """The ids."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The ids as uint32, encoded in pieces on all cores (the pieces do not change the ids; see `pieces.cut`)."""
        encoded = self._inner.encode_batch_fast(list(cut(text, PIECE_CHARACTERS)), add_special_tokens=False)
        arrays = [np.array(piece.ids, dtype=np.uint32) for piece in encoded]
        return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.uint32)

    def decode(self, ids: Sequence[int]) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD."""
        return str(self._inner.decode(list(ids), skip_special_tokens=False))

    def bytes_per_token(self) -> NDArray[np.int64]:
        """The bytes each id stands for; 0 for special tokens."""
        return self._bytes.copy()

    def to_json(self) -> str:
        """The tokenizer.json, as Hugging Face reads it."""
        return str(self._inner.to_str())


def train(texts: Iterator[str], vocab_size: int) -> BpeTokenizer:
    """Train on this text; the same text gives the same tokenizer. A small text gives fewer than `vocab_size` ids."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=FEWEST_OCCURRENCES,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces = (piece for text in texts for piece in cut(text, PIECE_CHARACTERS))
    inner.train_from_iterator(pieces, trainer=trainer)
    return BpeTokenizer(inner, file=f"bpe:{vocab_size}")


def load(path: Path) -> BpeTokenizer:
    """Read a tokenizer.json.

    Raises:
        BadInput: it is not a byte-level tokenizer's file.
    """
    if path.stat().st_size > LARGEST_FILE_BYTES:
        raise BadInput(f"is larger than {LARGEST_FILE_BYTES >> 20} MiB: not a tokenizer", file=str(path))
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise BadInput("is not UTF-8 text", file=str(path)) from error


def parse(text: str, file: str) -> BpeTokenizer:
    """Read the text of a tokenizer.json.

    Raises:
        BadInput: it is not a byte-level tokenizer's.
    """
    try:
        inner = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001  (the library raises bare Exception for a malformed file)
        raise BadInput(f"is not a tokenizer.json: {error}", file=file) from error
    return BpeTokenizer(inner, file)


def gpt2_file() -> Path:
    """GPT-2's tokenizer.json, below $PALINODE_DATA or in the cache.

    Raises:
        BadInput: it is in neither.
    """
    data = os.environ.get(DATA_VARIABLE)
    roots = [*([Path(data)] if data else []), cache_directory()]
    for folder in (root / name for root in roots for name in GPT2_FOLDERS):
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    hint = f"put tokenizer.json in ${DATA_VARIABLE}/gpt2-bpe or {roots[-1] / 'gpt2-bpe'}, or name its path"
    raise BadInput("GPT-2's tokenizer.json is not on this machine", field="data.tokenizer", hint=hint)


def _bytes_of_each_id(inner: tokenizers.Tokenizer, file: str) -> NDArray[np.int64]:
    """(V,) bytes per id; refuses what is not byte-level over ids 0 .. V-1."""
    vocabulary: dict[str, int] = inner.get_vocab(with_added_tokens=True)
    added = inner.get_added_tokens_decoder()
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise BadInput(f"the {len(vocabulary)} token ids are not 0 to {len(vocabulary) - 1}", file=file)
    ordinary = {token: number for token, number in vocabulary.items() if number not in added}
    if not alphabet <= ordinary.keys() or any(not set(token) <= alphabet for token in ordinary):
        raise BadInput("is not a byte-level tokenizer: the bytes of its tokens are not known", file=file)
    table = np.zeros(len(vocabulary), dtype=np.int64)
    for token, number in ordinary.items():
        table[number] = len(token)
    for number, token in added.items():
        table[number] = 0 if token.special else len(token.content.encode())
    return table
