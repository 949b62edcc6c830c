"""Text to token ids and back, and how many bytes of text each id stands for.

Every tokenizer here is lossless on bytes: for any text it accepts, the bytes of its tokens add up to the bytes of the
text in UTF-8. That makes bits per byte comparable between tokenizers, and the token store checks it on the whole corpus.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palinode.base.errors import BadInput, nearest
from palinode.data.cache import data_path
from palinode.data.config import BYTE_VALUES

UNICODE_VALUES = 0x110000
NOT_A_CHARACTER = -1
TOKENIZER_FIELD = "data.tokenizer"
KINDS = ("byte", "char", "bpe:<vocabulary size>", "gpt2", "ids:<vocabulary size>", "a path to a tokenizer.json")


class Tokenizer(Protocol):
    """What the rest of Palinode knows of a tokenizer.

    Attributes:
        kind: byte, char, bpe or ids.
        vocab_size: ids are 0 .. vocab_size - 1 (the special tokens of objectives come after them).
    """

    kind: str

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises BadInput for text outside a closed vocabulary (char)."""

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The same ids as an array, for bulk work."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids; bytes that are not UTF-8 become U+FFFD."""

    def bytes_per_token(self) -> NDArray[np.int64]:
        """(vocab_size,) bytes of UTF-8 text each id stands for; 0 for an id that is not text."""

    def to_json(self) -> str:
        """What `from_json` reads."""


class ByteTokenizer:
    """One id per byte of UTF-8."""

    kind = "byte"
    vocab_size = BYTE_VALUES

    def encode(self, text: str) -> list[int]:
        """The bytes."""
        return list(text.encode())

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The bytes as uint8."""
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def decode(self, ids: Sequence[int]) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD."""
        return bytes(ids).decode("utf-8", errors="replace")

    def bytes_per_token(self) -> NDArray[np.int64]:
        """One byte each."""
        return np.ones(BYTE_VALUES, dtype=np.int64)

    def to_json(self) -> str:
        """Nothing but its kind."""
        return json.dumps({"kind": self.kind})


class CharTokenizer:
    """One id per character of a closed alphabet, in code point order (as nanoGPT numbers them)."""

    kind = "char"

    def __init__(self, characters: str):
        self.characters = "".join(sorted(set(characters)))
        code_points = np.frombuffer(self.characters.encode("utf-32-le"), dtype=np.uint32)
        self._id_of = np.full(UNICODE_VALUES, NOT_A_CHARACTER, dtype=np.int32)
        self._id_of[code_points] = np.arange(len(code_points))

    @property
    def vocab_size(self) -> int:
        """The size of the alphabet."""
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        """The ids; raises BadInput for a character outside the alphabet."""
        return [int(token) for token in self.encode_array(text)]

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The ids as int32; raises BadInput for a character outside the alphabet."""
        ids: NDArray[np.int32] = self._id_of[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)]
        if (ids == NOT_A_CHARACTER).any():
            stranger = text[int(np.argmax(ids == NOT_A_CHARACTER))]
            message = f"the character {stranger!r} is not among the {self.vocab_size} characters of the corpus"
            raise BadInput(message, field=TOKENIZER_FIELD)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The characters."""
        return "".join(self.characters[token] for token in ids)

    def bytes_per_token(self) -> NDArray[np.int64]:
        """The length of each character in UTF-8."""
        return np.array([len(character.encode()) for character in self.characters], dtype=np.int64)

    def to_json(self) -> str:
        """Its alphabet."""
        return json.dumps({"kind": self.kind, "characters": self.characters})


class IdsTokenizer:
    """Token ids without text: a vocabulary size and nothing else. They are written as numbers, and have no bits per byte."""

    kind = "ids"

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        """The numbers of a text such as `3 17 4`, or `<3> <17> <4>` as `decode` writes them.

        Raises:
            BadInput: it holds anything else.
        """
        words = [word.strip("<>") for word in text.split()]
        if wrong := next((word for word in words if not word.isdecimal()), None):
            told = f"ids without text are written as numbers, such as 3 17 4, not {wrong[:20]!r}"
            raise BadInput(told, field=TOKENIZER_FIELD)
        return [int(word) for word in words]

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The same as an array."""
        return np.array(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The ids themselves, as numbers."""
        return " ".join(f"<{token}>" for token in ids)

    def bytes_per_token(self) -> NDArray[np.int64]:
        """All 0: not known."""
        return np.zeros(self.vocab_size, dtype=np.int64)

    def to_json(self) -> str:
        """Its vocabulary size."""
        return json.dumps({"kind": self.kind, "vocab_size": self.vocab_size})


def make_tokenizer(name: str, train_text: Callable[[], Iterator[str]], characters: str) -> Tokenizer:
    """The tokenizer a config names, trained where it has to be.

    Args:
        train_text: a stream of the train split's text, for `bpe:<size>`.
        characters: every character of the corpus, for `char`.

    Raises:
        BadInput: unknown name, missing or malformed file.
        EnvironmentProblem: see `tokenizer_file`.
    """
    kind, _, size = name.partition(":")
    if name == "byte":
        return ByteTokenizer()
    if name == "char":
        return CharTokenizer(characters)
    if kind == "ids":
        return IdsTokenizer(int(size))
    from palinode.data import bpe

    return bpe.train(train_text(), int(size)) if kind == "bpe" else bpe.load(tokenizer_file(name))


def tokenizer_identity(name: str) -> str:
    """What names a tokenizer in a cache key: its name, or the hash of the file it is read from.

    Raises:
        BadInput: unknown name or missing file.
        EnvironmentProblem: see `tokenizer_file`.
    """
    if name in ("byte", "char") or name.partition(":")[0] in ("bpe", "ids"):
        return name
    return hashlib.sha256(tokenizer_file(name).read_bytes()).hexdigest()


def tokenizer_file(name: str) -> Path:
    """The file `gpt2`, a path or a folder stands for.

    Raises:
        BadInput: there is none.
        EnvironmentProblem: GPT-2's is not on this machine, or `data:` without $PALINODE_DATA.
    """
    from palinode.data import bpe

    if name == "gpt2":
        return bpe.gpt2_file()
    path = data_path(name, TOKENIZER_FIELD)
    if path is None:
        hint = nearest(name, ("byte", "char", "gpt2")) or f"valid: {', '.join(KINDS)}"
        raise BadInput(f"unknown tokenizer {name!r}", field=TOKENIZER_FIELD, hint=hint)
    found = bpe.file_in(path) if path.is_dir() else path
    if found is None or not found.is_file():
        raise BadInput("no such tokenizer file", file=str(found or path / "tokenizer.json"), field=TOKENIZER_FIELD)
    return found


def from_json(text: str, file: str) -> Tokenizer:
    """The tokenizer a store or a checkpoint holds.

    Raises:
        BadInput: it is not one.
    """
    try:
        written = json.loads(text)
        return _from_plain(written, text, file)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"is not a tokenizer: {type(error).__name__}", file=file) from error


def _from_plain(written: dict[str, Any], text: str, file: str) -> Tokenizer:
    kind = written.get("kind")
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return CharTokenizer(written["characters"])
    if kind == "ids":
        return IdsTokenizer(int(written["vocab_size"]))
    from palinode.data import bpe

    return bpe.parse(text, file)
