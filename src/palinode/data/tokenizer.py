"""Tokenizers: they turn text into token ids and back, and state the number of bytes of text of each id.

Every tokenizer except those of kind `library` is lossless: for any text that the tokenizer accepts, the bytes of its tokens add up
to the bytes of the text in UTF-8. So bits per byte can be compared between lossless tokenizers. The token store checks the sum of
the bytes on the whole corpus.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from palinode.base.errors import BadInput, nearest
from palinode.base.folders import PACKAGE
from palinode.data.cache import data_path
from palinode.data.config import BYTE_VALUES

UNICODE_VALUES = 0x110000
NOT_A_CHARACTER = -1
TOKENIZER_FIELD = "data.tokenizer"
FOREIGN = re.compile(r"\.model(\.|$)|^tekken.*\.json$|\.tiktoken$")
KINDS = ("byte", "char", "bpe:<vocabulary size>", "gpt2", "ids:<vocabulary size>", "a path to a tokenizer.json")


class Tokenizer(Protocol):
    """The interface of a tokenizer that the rest of Palinode uses.

    Attributes:
        kind: the kind of the tokenizer: byte, char, bpe, library or ids.
        vocab_size: V, the number of ids; ids are 0 .. V - 1 (the special tokens of objectives come after them).
    """

    kind: str
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            BadInput: the text cannot be written in this vocabulary (only for the kinds char and ids, and for a byte-level
                tokenizer that lacks some bytes).
        """
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The ids of a text as an array, for large texts."""

    def encode_part(self, text: str) -> NDArray[np.integer]:
        """The ids of a text that continues another text. No tokenizer puts a space before such a text."""
        return self.encode_array(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids; bytes that are not UTF-8 become U+FFFD."""

    def difference(self, ids: NDArray[np.integer], text: str, before: int = 0) -> str | None:
        """A description of the first place where the ids of a text do not spell the text; None if there is no such place.

        Args:
            before: the number of bytes before the text, which is added to the place.
        """
        return None

    def bytes_per_token(self) -> NDArray[np.int64]:
        """(V,) the number of bytes of UTF-8 text of each id; 0 for an id that is not text."""

    def to_json(self) -> str:
        """The tokenizer as JSON text that `from_json` reads."""


class ByteTokenizer(Tokenizer):
    """The tokenizer that has one id for each byte of UTF-8."""

    kind = "byte"
    vocab_size = BYTE_VALUES

    def encode_array(self, text: str) -> NDArray[np.integer]:
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")

    def bytes_per_token(self) -> NDArray[np.int64]:
        return np.ones(BYTE_VALUES, dtype=np.int64)

    def to_json(self) -> str:
        return json.dumps({"kind": self.kind})


class CharTokenizer(Tokenizer):
    """The tokenizer that has one id for each character of a fixed alphabet, in the order of code points (as in nanoGPT)."""

    kind = "char"

    def __init__(self, characters: str):
        self.characters = "".join(sorted(set(characters)))
        self.vocab_size = len(self.characters)
        code_points = np.frombuffer(self.characters.encode("utf-32-le"), dtype=np.uint32)
        self._id_of = np.full(UNICODE_VALUES, NOT_A_CHARACTER, dtype=np.int32)
        self._id_of[code_points] = np.arange(len(code_points))

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The ids of a text as int32.

        Raises:
            BadInput: a character is not in the alphabet.
        """
        ids: NDArray[np.int32] = self._id_of[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)]
        if (ids == NOT_A_CHARACTER).any():
            unknown = text[int(np.argmax(ids == NOT_A_CHARACTER))]
            message = f"the character {unknown!r} is not among the {self.vocab_size} characters of the corpus"
            raise BadInput(message, field=TOKENIZER_FIELD)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.characters[token] for token in ids)

    def bytes_per_token(self) -> NDArray[np.int64]:
        return np.array([len(character.encode()) for character in self.characters], dtype=np.int64)

    def to_json(self) -> str:
        return json.dumps({"kind": self.kind, "characters": self.characters})


class IdsTokenizer(Tokenizer):
    """The tokenizer for ids whose text is not known: it has only a vocabulary size, and writes ids as numbers."""

    kind = "ids"

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The numbers in a text such as `3 17 4`, or `<3> <17> <4>` as `decode` writes them.

        Raises:
            BadInput: a word of the text is not a number.
        """
        words = [word.strip("<>") for word in text.split()]
        if wrong := next((word for word in words if not word.isdecimal()), None):
            message = f"ids without text are written as numbers, such as 3 17 4, not {wrong[:20]!r}"
            raise BadInput(message, field=TOKENIZER_FIELD)
        return np.array([int(word) for word in words], dtype=np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(f"<{token}>" for token in ids)

    def bytes_per_token(self) -> NDArray[np.int64]:
        return np.zeros(self.vocab_size, dtype=np.int64)

    def to_json(self) -> str:
        return json.dumps({"kind": self.kind, "vocab_size": self.vocab_size})


def make_tokenizer(name: str, train_text: Callable[[], Iterator[str]], characters: str) -> Tokenizer:
    """The tokenizer that a config names. This function trains the tokenizer `bpe:<size>`.

    Args:
        name: the name of the tokenizer in the config.
        train_text: a function that returns a new stream of the text of the train split; only `bpe:<size>` uses it.
        characters: every character of the corpus; only `char` uses them.

    Raises:
        BadInput: the name is unknown, or the file is missing or malformed.
        EnvironmentProblem: see `tokenizer_file`.
    """
    kind, _, size = name.partition(":")
    if name == "byte":
        return ByteTokenizer()
    if name == "char":
        return CharTokenizer(characters)
    if kind == "ids":
        return IdsTokenizer(int(size))
    from palinode.data import bpe, library

    return bpe.train(train_text, int(size)) if kind == "bpe" else library.load(tokenizer_file(name))


def tokenizer_identity(name: str) -> str:
    """The part of a cache key that identifies a tokenizer: the name of the tokenizer, or the hash of its file.

    Raises:
        BadInput: the name is unknown, or the file is missing.
        EnvironmentProblem: see `tokenizer_file`.
    """
    if name in ("byte", "char") or name.partition(":")[0] in ("bpe", "ids"):
        return name
    return hashlib.sha256(tokenizer_file(name).read_bytes()).hexdigest()


def tokenizer_file(name: str) -> Path:
    """The tokenizer file that a name means. The name is `gpt2`, a path, a folder, or `package:NAME/FILE` of an open model.

    Raises:
        BadInput: there is no such file.
        EnvironmentProblem: the file of GPT-2 is not on this machine, or the name begins with `data:` and $PALINODE_DATA is not set.
    """
    from palinode.data import bpe

    if name == "gpt2":
        return bpe.gpt2_file()
    if name.startswith(PACKAGE):
        from palinode.data.gguf_tokenizer import tokenizer_of_package

        return tokenizer_of_package(name)
    path = data_path(name, TOKENIZER_FIELD)
    if path is None:
        hint = nearest(name, ("byte", "char", "gpt2")) or f"valid: {', '.join(KINDS)}"
        raise BadInput(f"unknown tokenizer {name!r}", field=TOKENIZER_FIELD, hint=hint)
    file = bpe.file_in(path) if path.is_dir() else path
    others = sorted(path.iterdir()) if path.is_dir() and file is None else [path]
    if foreign := next((each for each in others if FOREIGN.search(each.name) and each.is_file()), None):
        message = "is a SentencePiece, tekken or tiktoken file, which is not read; its tokenizer.json is"
        hint = "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers writes tokenizer.json; "
        hint += "it needs sentencepiece, mistral-common or tiktoken"
        raise BadInput(message, file=str(foreign), field=TOKENIZER_FIELD, hint=hint)
    if file is None or not file.is_file():
        raise BadInput("no such tokenizer file", file=str(file or path / "tokenizer.json"), field=TOKENIZER_FIELD)
    return file


def from_json(text: str, file: str) -> Tokenizer:
    """The tokenizer that `to_json` wrote into a store or a checkpoint.

    Raises:
        BadInput: the text is not the JSON text of a tokenizer.
    """
    try:
        fields = json.loads(text)
        kind = fields.get("kind")
        if kind == "byte":
            return ByteTokenizer()
        if kind == "char":
            return CharTokenizer(fields["characters"])
        if kind == "ids":
            return IdsTokenizer(int(fields["vocab_size"]))
        from palinode.data import library

        return library.parse(text, file)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"is not a tokenizer: {type(error).__name__}", file=file) from error
