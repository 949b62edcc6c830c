"""Byte-level byte-pair encoding (BPE): trains one, or reads one from a tokenizer.json or from encoder.json and vocab.bpe of GPT-2.

The name of a token has one printable stand-in character for each byte (Radford et al. 2019), so the bytes of each id are known.
Every part of a file is checked: a file that is not a lossless byte-level BPE is refused with the reason. A file with an unknown
splitting pattern is refused too, because an unknown regular expression may run for ever. Hugging Face `tokenizers` encodes text.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.data.cache import DATA_VARIABLE, cache_directory
from palinode.data.merging import train_merges
from palinode.data.pieces import cut, in_chunks
from palinode.data.tokenizer import Tokenizer

GPT2_FOLDERS = ("gpt2-bpe", "gpt2")
GPT2_PAIR = ("encoder.json", "vocab.bpe")
VOCABULARY_PAIRS = (GPT2_PAIR, ("vocab.json", "merges.txt"))
LARGEST_FILE_BYTES = 64 * 2**20
PIECE_CHARACTERS = 1 << 17  # the number of characters that one thread encodes at a time: fast, with constant memory
# The mean length of a word, weighted by bytes, above which `merging` is faster than `tokenizers`.
LONG_WORD_BYTES = 2500
LONG_RUN = re.compile(r"[^\W\d_]{1000,}|\d{1000,}|(?:[^\w\s]|_){1000,}|\s{1000,}")  # words, nearly as GPT-2 splits them
FEWEST_OCCURRENCES = 2  # the smallest number of occurrences of a pair that gets an id
PROBE = "It's 3.14  \n\n\tÄß 漢字 \U0001f600 don't\x00<|endoftext|>"
# Splitting patterns that end in linear time, in this order: GPT-2 (built into `tokenizers` too), cl100k (also used by Llama 3),
# Qwen 2, o200k, tekken of Mistral, DeepSeek-V3.
KNOWN_PATTERNS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


class BpeTokenizer(Tokenizer):
    """A byte-level BPE tokenizer. Text that spells a special token is encoded as ordinary text.

    Args:
        inner: the encoder, which has only the ordinary tokens.
        specials: the names of tokens that are not text, by id, such as <|endoftext|> of GPT-2.
        json_text: the text of the tokenizer.json, which `to_json` returns and Hugging Face can read.
    """

    kind = "bpe"

    def __init__(self, inner: tokenizers.Tokenizer, specials: dict[int, str], json_text: str):
        self._inner = inner
        self._specials = specials
        self._json_text = json_text
        names = {number: token for token, number in inner.get_vocab().items()} | specials
        byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
        self._content = [
            specials[number].encode() if number in specials else bytes(byte_of[stand_in] for stand_in in names[number])
            for number in range(len(names))
        ]
        self.vocab_size = len(self._content)  # the special tokens of the file included

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The ids of a text as uint32, encoded in pieces on all cores; pieces do not change the ids (see `pieces.cut`)."""
        return ids_of(self._inner, list(cut(text, PIECE_CHARACTERS)))

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self._content[token] for token in ids).decode("utf-8", errors="replace")

    def bytes_per_token(self) -> NDArray[np.int64]:
        lengths = [0 if number in self._specials else len(content) for number, content in enumerate(self._content)]
        return np.array(lengths, dtype=np.int64)

    def to_json(self) -> str:
        return self._json_text

    def library_fields(self) -> dict[str, Any]:
        """The fields of a tokenizer.json in which no option is left to a default of the library, special tokens included."""
        fields: dict[str, Any] = json.loads(self._inner.to_str())
        return {**fields, "added_tokens": [added_token(number, name) for number, name in self._specials.items()]}


def added_token(number: int, name: str) -> dict[str, Any]:
    """The entry of a special token in a tokenizer.json."""
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": name, **off, "special": True}


def train(texts: Callable[[], Iterator[str]], vocab_size: int) -> BpeTokenizer:
    """Train a tokenizer on a text. The same text gives the same tokenizer; a small text gives fewer than `vocab_size` ids.

    Args:
        texts: a function that returns a new stream of the text.
        vocab_size: the largest number of ids.
    """
    return _trained(texts, vocab_size, long_words=_has_long_words(texts()))


def _trained(texts: Callable[[], Iterator[str]], vocab_size: int, *, long_words: bool) -> BpeTokenizer:
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = sorted(byte_alphabet())
    if long_words:
        words = _words(texts(), splitter, alphabet)
        inner = _inner(models.BPE(*train_merges(words, alphabet, vocab_size, FEWEST_OCCURRENCES)), splitter)
    else:
        inner = _inner(models.BPE(), splitter)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=FEWEST_OCCURRENCES,
            initial_alphabet=alphabet,
            show_progress=False,
        )
        inner.train_from_iterator(in_chunks(texts(), PIECE_CHARACTERS), trainer=trainer)
    return BpeTokenizer(inner, {}, str(inner.to_str()))


def _has_long_words(texts: Iterator[str]) -> bool:
    """Whether `merging` is faster than the trainer of `tokenizers`, whose time grows with the squares of the lengths of words."""
    total_bytes, squares = 0, 0
    for chunk in in_chunks(texts, PIECE_CHARACTERS):
        total_bytes += len(chunk.encode())
        squares += sum(len(run[0].encode()) ** 2 for run in LONG_RUN.finditer(chunk))
    return squares > LONG_WORD_BYTES * total_bytes


def _words(texts: Iterator[str], splitter: pre_tokenizers.PreTokenizer, alphabet: list[str]) -> Counter[bytes]:
    """The number of occurrences of each distinct word; the bytes of a word are indices into the alphabet."""
    number_of = {ord(character): number for number, character in enumerate(alphabet)}
    counts: Counter[bytes] = Counter()
    for chunk in in_chunks(texts, PIECE_CHARACTERS):
        counts.update(word.translate(number_of).encode("latin-1") for word, _ in splitter.pre_tokenize_str(chunk))
    return counts


def load(path: Path) -> BpeTokenizer:
    """Read a tokenizer.json, or encoder.json of GPT-2 and vocab.bpe in the same folder.

    Raises:
        BadInput: the file is not that of a lossless byte-level BPE tokenizer.
    """
    text = text_of(path)
    pairs = dict(VOCABULARY_PAIRS)
    if path.name not in pairs:
        return parse(text, str(path))
    lines = [line for line in text_of(path.with_name(pairs[path.name])).split("\n") if not line.startswith("#version")]
    vocabulary = json_table(text, str(path))
    ends = [{"id": number, "content": name, "special": True} for name, number in vocabulary.items() if name[:2] == "<|"]
    model = {"type": "BPE", "vocab": vocabulary, "merges": [line.rstrip("\r") for line in lines if line.strip()]}
    whole = {"model": model, "pre_tokenizer": {"type": "ByteLevel"}, "added_tokens": ends}
    return parse(json.dumps(whole, ensure_ascii=False), str(path))


def parse(text: str, file: str) -> BpeTokenizer:
    """Read the text of a tokenizer.json.

    Raises:
        BadInput: the text is not that of a lossless byte-level BPE tokenizer; the error names the field.
    """
    fields = json_table(text, file)
    if fields.get("normalizer"):
        raise BadInput("rewrites text before encoding it, so bytes would not add up", file=file, field="normalizer")
    model = _table(fields, "model", file)
    specials = _specials(fields, file)
    vocabulary = _vocabulary(model, specials, file)
    merges = _merges(model, vocabulary, file)
    bpe = models.BPE(vocabulary, merges, ignore_merges=bool(model.get("ignore_merges")))
    inner = _inner(bpe, _pre_tokenizer(fields.get("pre_tokenizer"), file))
    tokenizer = BpeTokenizer(inner, specials, text)
    size_bytes = int(tokenizer.bytes_per_token()[tokenizer.encode_array(PROBE)].sum())
    if size_bytes != len(PROBE.encode()):
        raise BadInput("adds or drops text", file=file, field="model")
    return tokenizer


def gpt2_file() -> Path:
    """The path of tokenizer.json or encoder.json of GPT-2, below $PALINODE_DATA or in the cache.

    Raises:
        EnvironmentProblem: neither folder has such a file.
    """
    data = os.environ.get(DATA_VARIABLE)
    roots = [*([Path(data)] if data else []), cache_directory()]
    for folder in (root / name for root in roots for name in GPT2_FOLDERS):
        if file := file_in(folder):
            return file
    hint = f"put tokenizer.json in ${DATA_VARIABLE}/gpt2-bpe or {roots[-1] / 'gpt2-bpe'}, or name its path"
    raise EnvironmentProblem("GPT-2's tokenizer.json is not on this machine", field="data.tokenizer", hint=hint)


def file_in(folder: Path) -> Path | None:
    """The tokenizer.json of a folder, or else a complete pair's encoder.json or vocab.json (VOCABULARY_PAIRS), or else None."""
    if (folder / "tokenizer.json").is_file():
        return folder / "tokenizer.json"
    pairs = (pair for pair in VOCABULARY_PAIRS if all((folder / name).is_file() for name in pair))
    return next((folder / pair[0] for pair in pairs), None)


def byte_alphabet() -> list[str]:
    """The 256 stand-in characters, one for each byte: a printable byte stands for itself, other bytes are U+0100 and following."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def ids_of(inner: tokenizers.Tokenizer, parts: list[str]) -> NDArray[np.integer]:
    """The ids of consecutive parts of a text as uint32; the parts are encoded on all cores."""
    arrays = [np.array(part.ids, dtype=np.uint32) for part in inner.encode_batch_fast(parts, add_special_tokens=False)]
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.uint32)


def _inner(model: models.BPE, pre_tokenizer: pre_tokenizers.PreTokenizer) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizer
    inner.decoder = decoders.ByteLevel()
    return inner


def _specials(fields: dict[str, Any], file: str) -> dict[int, str]:
    """The added tokens by id. An added token that is not special is refused: it would be cut out of text before encoding."""
    specials: dict[int, str] = {}
    added = fields.get("added_tokens") or []
    if not isinstance(added, list):
        raise BadInput("is no list", file=file, field="added_tokens")
    for place, token in enumerate(added):
        field = f"added_tokens.{place}"
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or type(token.get("id")) is not int:
            raise BadInput("needs an id and a content", file=file, field=field)
        if not token.get("special"):
            raise BadInput(f"{token['content']!r} is an added token but not special", file=file, field=field)
        specials[token["id"]] = token["content"]
    return specials


def _vocabulary(model: dict[str, Any], specials: dict[int, str], file: str) -> dict[str, int]:
    """The ids of the ordinary tokens. The ids of ordinary and special tokens together must be 0 to V - 1."""
    numbers = _table(model, "vocab", file)
    if model.get("type", "BPE") != "BPE":
        raise BadInput(f"is {model['type']!r}, only BPE is read", file=file, field="model.type")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise BadInput("is not read: it must be absent or empty", file=file, field=f"model.{option}")
    if any(type(number) is not int for number in numbers.values()):
        raise BadInput("ids must be whole numbers", file=file, field="model.vocab")
    vocabulary = {token: number for token, number in numbers.items() if number not in specials}
    ids = sorted([*vocabulary.values(), *specials])
    if ids != list(range(len(ids))):
        raise BadInput(f"the {len(ids)} token ids are not 0 to {len(ids) - 1}", file=file, field="model.vocab")
    alphabet = set(byte_alphabet())
    if not alphabet <= vocabulary.keys() or any(not set(token) <= alphabet for token in vocabulary):
        raise BadInput("is not byte-level: the bytes of its tokens are not known", file=file, field="model.vocab")
    return vocabulary


def _merges(model: dict[str, Any], vocabulary: dict[str, int], file: str) -> list[tuple[str, str]]:
    lines = model.get("merges")
    if not isinstance(lines, list):
        raise BadInput("is missing or no list", file=file, field="model.merges")
    merges = []
    for place, merge in enumerate(lines):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise BadInput("must be a pair of tokens", file=file, field=f"model.merges.{place}")
        if not {pair[0], pair[1], pair[0] + pair[1]} <= vocabulary.keys():
            raise BadInput("a token of this merge is not in the vocabulary", file=file, field=f"model.merges.{place}")
        merges.append((pair[0], pair[1]))
    return merges


def _pre_tokenizer(fields: Any, file: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of a file: the word splitting of GPT-2, or known patterns and then the byte-level step."""
    is_sequence = isinstance(fields, dict) and fields.get("type") == "Sequence"
    steps = fields.get("pretokenizers") if is_sequence else [fields]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise BadInput("is missing or malformed", file=file, field="pre_tokenizer")
    *splits, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise BadInput("must end in ByteLevel without a prefix space", file=file, field="pre_tokenizer")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=bool(last.get("use_regex", True)))
    patterns = []
    for step in splits:
        pattern = step["pattern"].get("Regex") if isinstance(step.get("pattern"), dict) else None
        if step.get("type") != "Split" or step.get("invert") or step.get("behavior") != "Isolated":
            raise BadInput(f"has a step {step.get('type')!r} that is not read", file=file, field="pre_tokenizer")
        if pattern not in KNOWN_PATTERNS:
            raise BadInput(f"splits by an unknown pattern {str(pattern)[:40]!r}", file=file, field="pre_tokenizer")
        patterns.append(pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"))
    return pre_tokenizers.Sequence([*patterns, byte_level]) if patterns else byte_level


def _table(fields: dict[str, Any], key: str, file: str) -> dict[str, Any]:
    if not isinstance(fields.get(key), dict):
        raise BadInput("is missing or no table", file=file, field=key)
    table: dict[str, Any] = fields[key]
    return table


def json_table(text: str, file: str) -> dict[str, Any]:
    """The table in the text of a tokenizer.json.

    Raises:
        BadInput: the text is not JSON, or is not a table.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadInput(f"is not JSON{place}", file=file) from error
    if not isinstance(fields, dict):
        raise BadInput("is not a tokenizer.json", file=file)
    return fields


def text_of(path: Path) -> str:
    """The text of a tokenizer file.

    Raises:
        BadInput: the file is too large, is not text, or cannot be read.
    """
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise BadInput(f"is larger than {LARGEST_FILE_BYTES >> 20} MiB: not a tokenizer", file=str(path))
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("is not UTF-8 text", file=str(path)) from error
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=str(path)) from error
