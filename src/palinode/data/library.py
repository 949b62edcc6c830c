"""Tokenizers of any kind, read from a tokenizer.json through Hugging Face's `tokenizers`: SentencePiece-like, Unigram, WordPiece.

A lossless byte-level BPE is read by `bpe`, which knows the bytes of every id. Here they are not known: a normaliser may rewrite the
text, and an unknown word may be one id. Bits per byte are then missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from palinode.base.errors import BadInput
from palinode.data import bpe
from palinode.data.pieces import cut
from palinode.data.tokenizer import Tokenizer

UNBOUNDED = "*+{"  # signs of a repetition in a regular expression


class LibraryTokenizer(Tokenizer):
    """A tokenizer.json as `tokenizers` reads it. The ids of special tokens are not added at the ends of a text."""

    kind = "library"

    def __init__(self, inner: tokenizers.Tokenizer, json_text: str):
        self._inner = inner
        self._json_text = json_text
        self.vocab_size = max(inner.get_vocab(with_added_tokens=True).values()) + 1

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The ids as uint32."""
        parts = list(cut(text, bpe.PIECE_CHARACTERS))
        encoded = self._inner.encode_batch_fast(parts, add_special_tokens=False)
        arrays = [np.array(piece.ids, dtype=np.uint32) for piece in encoded]
        return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.uint32)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._inner.decode(list(ids), skip_special_tokens=False))

    def bytes_per_token(self) -> NDArray[np.int64]:
        return np.zeros(self.vocab_size, dtype=np.int64)

    def to_json(self) -> str:
        return self._json_text


def load(path: Path) -> Tokenizer:
    """Read a tokenizer file; see `parse`.

    Raises:
        BadInput: it is not the file of a tokenizer.
    """
    if path.name in dict(bpe.VOCABULARY_PAIRS):
        return bpe.load(path)
    return parse(bpe.text_of(path), str(path))


def parse(text: str, file: str) -> Tokenizer:
    """Read the text of a tokenizer.json: as a lossless byte-level BPE if it is one, else through the library.

    Raises:
        BadInput: it is neither; the error names the field.
    """
    try:
        return bpe.parse(text, file)
    except BadInput as refusal:
        fields = bpe.json_table(text, file)
        if not _is_of_another_kind(fields):
            raise
        if pattern := next((each for each in _patterns(fields) if not _is_linear(each)), None):
            message = f"splits by an unknown pattern {pattern[:40]!r}, which might run for ever"
            raise BadInput(message, file=file, field="pre_tokenizer") from refusal
        fields.update(truncation=None, padding=None)  # they would cut text, or add ids
        try:
            inner = tokenizers.Tokenizer.from_str(json.dumps(fields))
            inner.encode(bpe.PROBE, add_special_tokens=False)
        except Exception as error:  # noqa: BLE001 (the library raises nothing narrower)
            reason = str(error).split("\n")[0][:120]
            raise BadInput(f"is refused by the tokenizers library: {reason}", file=file, field="model") from error
        return LibraryTokenizer(inner, text)


def _is_of_another_kind(fields: dict[str, Any]) -> bool:
    """Whether a file asks for what a byte-level BPE does not have."""
    model = fields.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list) or model.get("dropout"):
        return False
    if model.get("type", "BPE") != "BPE":
        return model["type"] in ("Unigram", "WordPiece", "WordLevel")
    if not isinstance(model.get("merges"), list) or not isinstance(model["vocab"], dict):
        return False
    numbers = model["vocab"].values()
    if any(type(number) is not int or not 0 <= number < 2**24 for number in numbers):
        return False
    added = fields.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(each, dict) for each in added):
        return False
    step = fields.get("pre_tokenizer")
    steps = step.get("pretokenizers") if isinstance(step, dict) and step.get("type") == "Sequence" else [step]
    last = steps[-1] if isinstance(steps, list) and steps else None
    is_byte_level = isinstance(last, dict) and last.get("type") == "ByteLevel" and not last.get("add_prefix_space")
    return bool(
        fields.get("normalizer")
        or model.get("byte_fallback")
        or not is_byte_level
        or steps != [step]
        or any(not each.get("special") for each in added)
        or not set(bpe.byte_alphabet()) <= model["vocab"].keys()
    )


def _patterns(value: Any) -> Iterator[str]:
    """Every regular expression in the steps of a tokenizer."""
    if isinstance(value, dict):
        if isinstance(value.get("Regex"), str):
            yield value["Regex"]
        for key, inner in value.items():
            if key not in ("vocab", "merges", "added_tokens"):
                yield from _patterns(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _patterns(inner)


def _is_linear(pattern: str) -> bool:
    """Whether a pattern is a known one, or is without groups and has at most one repetition."""
    return pattern in bpe.KNOWN_PATTERNS or ("(" not in pattern and sum(map(pattern.count, UNBOUNDED)) <= 1)
