"""Reads a tokenizer.json of any kind, such as Unigram or WordPiece, through the library `tokenizers` of Hugging Face.

The module `bpe` reads a lossless byte-level BPE. A tokenizer of another kind may change the text with a normaliser, and may
turn a whole unknown word into one id. So this module guesses the bytes of an id from the id's name, and the token store checks
these guesses on the text. If the ids do not spell the text byte for byte, the number of bytes of an id is not known, and bits
per byte are not reported.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from palinode.base.errors import BadInput, LostByte
from palinode.data import bpe
from palinode.data.config import MOST_TOKEN_IDS
from palinode.data.pieces import cut
from palinode.data.tokenizer import Tokenizer

SPACE = "\u2581"  # the character that stands for a space in the tokens of SentencePiece
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # the name of a token that is one byte, in a model with byte fallback
SHOWN_BYTES = 24
# The steps that put a space before a text, and the options that switch the space off. `Prepend` has no such option: the step is
# removed.
NO_SPACE: dict[str, dict[str, Any]] = {
    "Prepend": {},
    "Metaspace": {"prepend_scheme": "never", "add_prefix_space": False},
    "ByteLevel": {"add_prefix_space": False},
}
UNBOUNDED = "*+{"  # the signs of an unlimited repetition in a regular expression
CLASS = re.compile(r"\[(?:\\.|[^\]\\])*\]")
BOUNDED_GROUP = re.compile(r"\(\?(?:i:|:|!|=)[^()*+{]*\)(?![*+{])\??")
ALTERNATIVE = re.compile(rf"(?:{CLASS.pattern}|\((?:{CLASS.pattern}|\\.|[^()\\])*\)|\\.|[^|\\])+")


class LibraryTokenizer(Tokenizer):
    """The tokenizer that the library `tokenizers` makes from a tokenizer.json.

    This class adds no special tokens at the ends of a text, and encodes text that spells a special token as ordinary text.
    """

    kind = "library"

    def __init__(self, fields: dict[str, Any], json_text: str, file: str):
        self._whole = _read(fields, file)
        bare = _without_first_space(fields)
        self._inner_part = self._whole if bare == fields else _read(bare, file)
        self._json_text = json_text
        names = self._whole.get_vocab(with_added_tokens=True)
        self.vocab_size = max(names.values(), default=-1) + 1
        if not 0 < self.vocab_size <= MOST_TOKEN_IDS:
            raise BadInput(f"has {self.vocab_size} ids", file=file, field="model.vocab", hint=f"most: {MOST_TOKEN_IDS}")
        contents = _contents(fields, names)
        self._contents = [contents.get(number, b"") for number in range(self.vocab_size)]
        self._dropped = _dropped_bytes(fields, names)

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The ids of a text as uint32. If the tokenizer puts a space before a text, the ids include this space.

        Raises:
            LostByte: the library would drop a byte of the text.
        """
        first, *others = list(cut(text, bpe.PIECE_CHARACTERS)) or [""]
        ids = np.concatenate([bpe.ids_of(self._whole, [first]), bpe.ids_of(self._inner_part, others)])
        self._refuse_loss(ids, text)
        return ids

    def encode_part(self, text: str) -> NDArray[np.integer]:
        ids = bpe.ids_of(self._inner_part, list(cut(text, bpe.PIECE_CHARACTERS)))
        self._refuse_loss(ids, text)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._whole.decode(list(ids), skip_special_tokens=False))

    def bytes_per_token(self) -> NDArray[np.int64]:
        """(V,) the number of bytes of each id; the numbers are right only for texts for which `difference` returns None."""
        return np.array([len(content) for content in self._contents], dtype=np.int64)

    def difference(self, ids: NDArray[np.integer], text: str, before: int = 0) -> str | None:
        written, read = text.encode(), self._read(ids)
        if written == read:
            return None
        places = (at for at, (a, b) in enumerate(zip(written, read, strict=False)) if a != b)
        place = next(places, min(len(written), len(read)))
        start = max(0, place - SHOWN_BYTES // 2)
        shown = [each[start : start + SHOWN_BYTES].decode(errors="ignore") for each in (written, read)]
        return f"{shown[0]!r} is read as {shown[1]!r}, first at byte {before + place}"

    def _read(self, ids: NDArray[np.integer]) -> bytes:
        return b"".join([self._contents[number] for number in ids.tolist()])

    def _refuse_loss(self, ids: NDArray[np.integer], text: str) -> None:
        """Refuse a text with a byte that has no id, because the library drops such bytes without a word."""
        if not self._dropped:
            return
        written = text.encode()
        places = (at for at, byte in enumerate(written) if byte in self._dropped)
        place = next(places, None)
        if place is not None and _count(written, self._dropped) > _count(self._read(ids), self._dropped):
            raise LostByte(place, written[place])

    def to_json(self) -> str:
        return self._json_text


def load(path: Path) -> Tokenizer:
    """Read a tokenizer file; see `parse`.

    Raises:
        BadInput: the file is not the file of a tokenizer.
    """
    if path.name in dict(bpe.VOCABULARY_PAIRS):
        return bpe.load(path)
    return parse(bpe.text_of(path), str(path))


def parse(text: str, file: str) -> Tokenizer:
    """Make a tokenizer from the text of a tokenizer.json: a lossless byte-level BPE or, for another kind, one of the library.

    Raises:
        BadInput: neither of these two ways can read the text; the error names the field.
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
        fields.update(truncation=None, padding=None)  # truncation would cut text, and padding would add ids
        return LibraryTokenizer(fields, text, file)


def _read(fields: dict[str, Any], file: str) -> tokenizers.Tokenizer:
    """The library's tokenizer with these fields. Every exception is caught, because the library raises plain `Exception`."""
    try:
        inner = tokenizers.Tokenizer.from_str(json.dumps(fields))
        inner.encode_special_tokens = True
        inner.encode(bpe.PROBE, add_special_tokens=False)
    except Exception as error:  # noqa: BLE001 - the library raises plain `Exception`
        reason = str(error).split("\n")[0][:120]
        raise BadInput(f"is refused by the tokenizers library: {reason}", file=file, field="model") from error
    return inner


def _without_first_space(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a tokenizer, changed so that no step puts a space before the whole text.

    A step that puts a space before every word is not changed.
    """
    fields = copy.copy(fields)
    for key, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        step = fields.get(key)
        if not isinstance(step, dict):
            continue
        steps = step[inner] if step.get("type") == "Sequence" and isinstance(step.get(inner), list) else [step]
        if steps and isinstance(steps[0], dict) and (kind := str(steps[0].get("type"))) in NO_SPACE:
            first = [steps[0] | NO_SPACE[kind]] if NO_SPACE[kind] else []
            fields[key] = {"type": "Sequence", inner: [*first, *steps[1:]]}
    return fields


def _contents(fields: dict[str, Any], names: dict[str, int]) -> dict[int, bytes]:
    """The bytes of text that each id means, guessed from the name of the id. A special token has no bytes."""
    specials = {each["id"] for each in fields.get("added_tokens") or [] if each.get("special")}
    added = {each["id"] for each in fields.get("added_tokens") or []}
    steps = json.dumps([fields.get("normalizer"), fields.get("pre_tokenizer")], ensure_ascii=False)
    byte_of = {character: byte for byte, character in enumerate(bpe.byte_alphabet())}
    has_bytes = bool(fields["model"].get("byte_fallback"))
    continues = str(fields["model"].get("continuing_subword_prefix") or "")
    contents = {}
    for name, number in names.items():
        if number in specials:
            contents[number] = b""
        elif number in added:
            contents[number] = name.encode(errors="replace")
        elif has_bytes and (byte := BYTE.fullmatch(name)):
            contents[number] = bytes([int(byte[1], 16)])
        elif '"ByteLevel"' in steps and set(name) <= byte_of.keys():
            contents[number] = bytes(byte_of[character] for character in name)
        else:
            plain = name.removeprefix(continues)
            contents[number] = (plain.replace(SPACE, " ") if SPACE in steps else plain).encode(errors="replace")
    return contents


def _dropped_bytes(fields: dict[str, Any], names: dict[str, int]) -> bytes:
    """The bytes that the library drops without a word: those without an id, in a byte-level BPE that has no unknown token."""
    steps, model = json.dumps(fields.get("pre_tokenizer")), fields["model"]
    if '"ByteLevel"' not in steps or model.get("type", "BPE") != "BPE" or model.get("unk_token") is not None:
        return b""
    return bytes(byte for byte, character in enumerate(bpe.byte_alphabet()) if character not in names)


def _count(text: bytes, some: bytes) -> int:
    """The number of bytes of a text that are among some bytes."""
    return len(text) - len(text.translate(None, some))


def _is_of_another_kind(fields: dict[str, Any]) -> bool:
    """Whether the fields are well-formed and have a feature that a byte-level BPE does not have."""
    model = fields.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list) or model.get("dropout"):
        return False
    added = fields.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(each, dict) and "id" in each for each in added):
        return False
    if model.get("type", "BPE") != "BPE":
        return model["type"] in ("Unigram", "WordPiece", "WordLevel")
    if not isinstance(model.get("merges"), list) or not isinstance(model["vocab"], dict):
        return False
    # The library cuts this prefix off the right half of each merge without a check; a right half without the prefix ends the
    # process.
    if model.get("continuing_subword_prefix"):
        return False
    numbers = model["vocab"].values()
    if any(type(number) is not int or not 0 <= number < MOST_TOKEN_IDS for number in numbers):
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
    """Every regular expression in the steps of a tokenizer, found by a walk over its fields."""
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
    """Whether a search with this regular expression is certain to end in linear time.

    Each alternative must be an alternative of a known pattern, or must have no repeated group and at most one repetition.
    """
    known = {each for whole in bpe.KNOWN_PATTERNS for each in _alternatives(whole)}
    return all(each in known or _has_one_repetition(each) for each in _alternatives(pattern))


def _alternatives(pattern: str) -> list[str]:
    return [each[0] for each in ALTERNATIVE.finditer(pattern)]


def _has_one_repetition(alternative: str) -> bool:
    bare = BOUNDED_GROUP.sub("", CLASS.sub("c", alternative))
    return "(" not in bare and sum(map(bare.count, UNBOUNDED)) <= 1
