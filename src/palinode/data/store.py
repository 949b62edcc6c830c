"""The token store: the token ids of each split in one memory-mapped file, and a manifest that describes them.

A store is built once for each (corpus content, tokenizer, split rule) and cached. The build has four steps, through which the text
streams: the survey (hashes, duplicates), the plan (the split of each document), the tokenizer (trained on the train split if
necessary), and the tokens on disk. The manifest is written last; a directory without a manifest is not a store. Even for a
large corpus, memory holds at most one chunk of the text.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from palinode.base import fsio
from palinode.base.config import content_hash
from palinode.base.errors import BadInput, Damaged, LostByte
from palinode.data.cache import MANIFEST, cache_directory, check_sha256, check_size, read_manifest
from palinode.data.catalogue import find_corpus
from palinode.data.config import SPLITS, TEST, TRAIN, TUNING, VALIDATION, DataConfig, Split, WindowChoice
from palinode.data.corpus import Corpus, Piece
from palinode.data.document_starts import DocumentStarts, Units, document_starts, starts_file, units_of
from palinode.data.document_starts import write as write_document_starts
from palinode.data.pieces import Chunks
from palinode.data.readers import Reading
from palinode.data.splits import Part, parts, plan, stream, survey
from palinode.data.tokenizer import Tokenizer, from_json, make_tokenizer, tokenizer_identity

if TYPE_CHECKING:  # these modules need torch, but the build of a store does not
    from palinode.base.example import Windows
    from palinode.data.windows import Stream

LOG = logging.getLogger("palinode")
STORE_VERSION = 2  # version 1 had no starts of documents
TOKENIZER = "tokenizer.json"
DIFFERENCE = "difference"  # the manifest entry with the first place where the ids do not spell the text
STARTS = "starts"  # the places of the documents of a split, until they are written into a file of their own
MANIFEST_HASH = "manifest_sha256"  # the manifest entry with the hash of all other entries
LARGEST_UINT16_VOCAB = 1 << 16
# The number of characters that are encoded at once; a BPE tokenizer needs about 50 MB of memory for them.
CHUNK_CHARACTERS = 1 << 20
FEWEST_SCORED_TOKENS = 100  # a split with fewer tokens gives a warning
HASHED_ON_OPENING_BYTES = 64 * 2**20  # a store up to this size is checked byte by byte when it is opened (about 0.1 s)


def prepare(config: DataConfig, cache: Path | None = None) -> TokenStore:
    """The token store of a config, which is built on first use and then opened from the cache.

    Args:
        config: the settings of the data.
        cache: the folder of stores; by default $PALINODE_CACHE or the XDG cache folder.

    Raises:
        BadInput: the corpus, tokenizer or split cannot be used, or differs from the data with which the config was resolved.
        EnvironmentProblem: the disk refuses a write, or a data set is not on this machine.
    """
    return _opened(config, cache)[2]


def resolve(config: DataConfig, cache: Path | None = None) -> DataConfig:
    """The config with the hashes of its corpus and tokenizer filled in; these hashes are part of the identity of a run."""
    corpus, read_as, store = _opened(config, cache)
    for note in (*corpus.notes, *store.notes()):
        LOG.warning("%s: %s", config.corpus, note)
    return read_as.with_(corpus_sha256=store.sha256, tokenizer_sha256=store.tokenizer_sha256)


def shared_key(config: DataConfig) -> str:
    """The name of the token store of a resolved config that hosts share. Each host finds it without the text of the corpus."""
    of_runs = {"window_tokens", "max_train_tokens", "tuning_fraction"}  # a run applies them to a store that it opens
    return content_hash([STORE_VERSION, config.model_dump(mode="json", exclude=of_runs)])[:24]


def cached(key: str, cache: Path | None = None) -> Path:
    """The folder in the cache of this host where a token store of this name is, or would be."""
    return cache_directory(cache) / "tokens" / key


def open_store(config: DataConfig, directory: Path) -> TokenStore:
    """Open the token store of a resolved config in this folder.

    Raises:
        Damaged: the folder has no such store, or not all of it is what was written.
        BadInput: the store is of other data.
    """
    store = TokenStore(directory, config.max_train_tokens, config.tuning_fraction)
    _check_identity(store, config)
    _check_size(store, config)
    return store


def copy_store(source: Path, target: Path) -> None:
    """Copy a token store and check every byte of the copy. The manifest is copied last.

    Raises:
        Damaged: the source is missing or damaged.
    """
    _read_manifest(source)
    fsio.remove(target / MANIFEST)
    for name in (TOKENIZER, *(f"{split}.bin" for split in SPLITS), *map(starts_file, SPLITS), MANIFEST):
        with fsio.committed(target / name) as temporary:
            shutil.copyfile(source / name, temporary)
    TokenStore(target).verify()


def _opened(config: DataConfig, cache: Path | None) -> tuple[Corpus, DataConfig, TokenStore]:
    """The corpus, the config with the reading rules filled in, and the store of the tokens."""
    corpus, config = read_corpus(config, cache)
    directory = cached(_key(corpus, config), cache)
    try:
        store = TokenStore(directory, config.max_train_tokens, config.tuning_fraction)
    except Damaged:  # the store is missing, cut short by a crash, or changed on disk; a store can always be built again
        build(corpus, config, directory)
        store = TokenStore(directory, config.max_train_tokens, config.tuning_fraction)
    _check_identity(store, config)
    _check_size(store, config)
    return corpus, config, store


def read_corpus(config: DataConfig, cache: Path | None = None) -> tuple[Corpus, DataConfig]:
    """The corpus of a config, and the config with the values of `split` and `files` that the corpus needs.

    A config that has `corpus_sha256` was resolved before, so it keeps the rules with which it was resolved.
    """
    corpus = find_corpus(config.corpus, cache, Reading.of(config))
    is_new = config.corpus_sha256 is None
    if is_new and corpus.has_splits and "split" not in config.model_fields_set:
        config = config.with_(split="given")
    if is_new and corpus.leaves_out:
        config = config.with_(files="documents")
    return corpus, config


class TokenStore:
    """The token ids of the three splits and of the tuning split, read from disk when they are used. See `data.source.Source`.

    Attributes:
        directory: the folder of this store.
        manifest: the counts, hashes and sources in the manifest file.
        sha256: the hash of the documents of the corpus.
        tokenizer_sha256: the hash of the tokenizer that made the ids.

    Raises:
        Damaged: the manifest, the tokenizer or a split is missing, or is not what was written.
    """

    def __init__(self, directory: Path, max_train_tokens: int | None = None, tuning_fraction: float = 0.0):
        self.directory = directory
        self.manifest = _read_manifest(directory)
        self.sha256 = str(self.manifest["corpus_sha256"])
        self.tokenizer_sha256 = str(self.manifest["tokenizer"]["sha256"])
        self._max_train_tokens = max_train_tokens
        self._tuning_tokens = int(self.manifest["splits"][TRAIN]["tokens"] * tuning_fraction)
        self._tuning_start = int(self.manifest["splits"][TRAIN]["tokens"]) - self._tuning_tokens
        total_bytes = sum(self.manifest["splits"][split]["file_bytes"] for split in SPLITS)
        if total_bytes <= HASHED_ON_OPENING_BYTES:
            self.verify()
        file = directory / TOKENIZER
        check_sha256(file, self.tokenizer_sha256)
        self.tokenizer: Tokenizer = from_json(file.read_text(encoding="utf-8"), str(file))
        self.vocab_size = self.tokenizer.vocab_size
        self.bytes_per_token = self.tokenizer.bytes_per_token()
        if self.manifest["tokenizer"].get(DIFFERENCE):
            self.bytes_per_token = np.zeros_like(self.bytes_per_token)

    def training(self, window_tokens: int, seed: int) -> Stream:
        """The endless stream of training windows; `TrainWindows` refuses a train split that is shorter than a window."""
        from palinode.data.windows import TrainWindows

        return TrainWindows(self.tokens(TRAIN), window_tokens, seed)

    def evaluation(
        self,
        split: Split,
        window_tokens: int,
        *,
        batch_windows: int,
        max_tokens: int | None,
        windows: WindowChoice = "first",
    ) -> Iterator[Windows]:
        """The batches to score: of the whole split, or of `max_tokens` tokens; see `data.windows`."""
        from palinode.data.windows import evaluation_windows, spread_windows

        if windows == "spread" and max_tokens is not None:
            return spread_windows(self.tokens(split), window_tokens, max_tokens, batch_windows, split)
        return evaluation_windows(self.tokens(split), window_tokens, max_tokens, batch_windows)

    def scored_tokens(self, split: Split, max_tokens: int | None) -> int:
        """The number of tokens that an evaluation of a split covers."""
        total = len(self.tokens(split))
        return total if max_tokens is None else min(total, max_tokens)

    def tokens(self, split: Split) -> NDArray[np.integer]:
        """The 1-D memory map of the ids of a split, or an empty array. Train has at most its first `max_train_tokens` tokens.

        The tuning split is the end of the train text; the train split ends before it.
        """
        if split in (TRAIN, TUNING):
            whole = self._stored(TRAIN)
            end = len(whole) - self._tuning_tokens
            return whole[end:] if split == TUNING else whole[:end][: self._max_train_tokens]
        return self._stored(split)

    def units(self, split: Split) -> Units:
        """The documents of a split; blocks of at least BLOCK_TOKENS tokens where the split has fewer than two documents."""
        stored: Split = TRAIN if split == TUNING else split
        starts = document_starts(self.directory, stored, self.manifest["splits"][stored])
        if split in (TRAIN, TUNING):
            low, high = (self._tuning_start, starts[-1]) if split == TUNING else (0, self._tuning_start)
            inside = starts[(starts > low) & (starts < high)]
            starts = np.concatenate([[low], inside, [high]]) - low
        return units_of(starts)

    def _stored(self, split: Split) -> NDArray[np.integer]:
        count = self.manifest["splits"][split]["tokens"]
        if count == 0:
            return np.empty(0, dtype=self.manifest["dtype"])
        return np.memmap(self.directory / f"{split}.bin", dtype=self.manifest["dtype"], mode="r", shape=(count,))

    def notes(self) -> list[str]:
        """Notes for the user, one line each, about facts of this data that may be unexpected."""
        lines = []
        if blank := self.manifest.get("blank_dropped"):
            lines.append(f"{blank} document(s) are empty or null and are left out")
        if self.manifest.get("split_inside"):
            lines.append("too few documents to split by document: the joined text is cut, as by split = 'contiguous'")
        if markers := self.manifest.get("markers"):
            lines.append(f"the text holds the marker {markers[0]}, read as text; data.document_separator cuts there")
        if difference := self.manifest["tokenizer"].get(DIFFERENCE):
            lines.append(f"the tokenizer does not keep the text ({difference}): bits per byte are missing")
        for split in (VALIDATION, TEST):
            tokens = self.manifest["splits"][split]["tokens"]
            if 0 < tokens < FEWEST_SCORED_TOKENS:
                lines.append(f"the {split} split has only {tokens} token(s) to score: its loss says little")
        return lines

    def verify(self) -> None:
        """Check every byte of every split.

        Raises:
            Damaged: the content of a file is not what was written.
        """
        for split in SPLITS:
            entry = self.manifest["splits"][split]
            check_sha256(self.directory / f"{split}.bin", entry["sha256"])
            check_sha256(self.directory / starts_file(split), entry["document_starts"]["sha256"])


def build(corpus: Corpus, config: DataConfig, directory: Path) -> None:
    """Tokenise a corpus into a store directory, in bounded memory.

    Raises:
        BadInput: see `prepare`.
    """
    _check_kinds(corpus, config)
    facts = survey(corpus, want_characters=config.tokenizer == "char")
    assignment = plan(facts, corpus, config)

    def train_text() -> Iterator[str]:
        return (piece for split, piece in stream(corpus, assignment) if split == TRAIN and isinstance(piece, str))

    tokenizer = make_tokenizer(config.tokenizer, train_text, facts.characters)
    if corpus.id_bytes == 2 and tokenizer.vocab_size > LARGEST_UINT16_VOCAB:
        message = f"is read as 2-byte ids, which cannot hold a vocabulary of {tokenizer.vocab_size}"
        hint = "4-byte ids are read from a name that ends in .u32.bin, or from .npy"
        raise BadInput(message, file=corpus.name, field="data.corpus", hint=hint)
    dtype = "<u2" if tokenizer.vocab_size <= LARGEST_UINT16_VOCAB else "<u4"
    fsio.remove_stray_temporaries(directory)
    splits = _write_splits(parts(corpus, assignment), directory, tokenizer, dtype, corpus)
    fsio.write_text(directory / TOKENIZER, tokenizer.to_json())
    for name, entry in splits.items():
        entry["document_starts"] = write_document_starts(directory, name, entry.pop(STARTS))
        documents = int((assignment.split_of == SPLITS.index(name)).sum())
        entry["documents"] = documents if assignment.ends is None else None
    difference = next((found for entry in splits.values() if (found := entry.pop(DIFFERENCE))), "")
    if difference:
        for entry in splits.values():
            entry["bytes"] = 0
    manifest = {
        "version": STORE_VERSION,
        "corpus_sha256": facts.sha256,
        "source": corpus.source,
        "licence": corpus.licence,
        "separator": corpus.separator,
        "duplicates_dropped": assignment.duplicates,
        "blank_dropped": int(facts.blank.sum()),
        "split_inside": assignment.ends is not None and config.split != "contiguous",
        "markers": list(facts.markers),
        "documents": int((assignment.split_of >= 0).sum()),
        "tokenizer": {
            "name": config.tokenizer,
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": hashlib.sha256(tokenizer.to_json().encode()).hexdigest(),
            DIFFERENCE: difference,
        },
        "split": config.split,
        "dtype": dtype,
        "splits": splits,
    }
    fsio.write_json(directory / MANIFEST, manifest | {MANIFEST_HASH: content_hash(manifest)})


def _check_kinds(corpus: Corpus, config: DataConfig) -> None:
    kind = config.tokenizer.partition(":")[0]
    if corpus.holds == "text" and kind == "ids":
        hint = "ids:<vocabulary size> is for token files only"
    elif corpus.holds == "ids" and kind in ("char", "bpe"):
        hint = "it holds token ids: name the tokenizer that made them, or ids:<vocabulary size>"
    else:
        return
    message = f"cannot be read with tokenizer {config.tokenizer!r}"
    raise BadInput(message, file=corpus.name, field="data.tokenizer", hint=hint)


class _SplitWriter:
    """A writer that encodes the pieces of one split as they come, and writes, counts, hashes and checks the ids."""

    def __init__(self, handle: BinaryIO, tokenizer: Tokenizer, dtype: str, corpus: Corpus):
        self.handle, self.tokenizer, self.dtype, self.corpus = handle, tokenizer, dtype, corpus
        self.table = tokenizer.bytes_per_token()
        self.digest = hashlib.sha256()
        self.tokens = self.text_bytes = self.encoded_bytes = self.token_bytes = 0
        self.difference: str | None = None
        self.chunks = Chunks(CHUNK_CHARACTERS)
        self.starts = DocumentStarts()

    def feed(self, piece: Piece, starts_document: bool = False) -> None:
        """Add the next piece. Text is collected until it fills a chunk; then the chunk is encoded."""
        if not isinstance(piece, str):
            if starts_document:
                self.starts.at_token(self.tokens)
            self._write(self._checked(piece))
            return
        if starts_document:
            self.starts.at_byte(self.text_bytes)
        self.text_bytes += len(piece.encode())
        for chunk in self.chunks.feed(piece):
            self._encode(chunk)

    def finish(self) -> dict[str, Any]:
        """Encode the rest of the text and return the entry of the split in the manifest.

        Raises:
            BadInput: the tokens have another number of bytes than the text.
        """
        self._encode(self.chunks.rest())
        is_known = self.table.any() and self.corpus.holds == "text" and not self.difference
        if is_known and self.text_bytes != self.token_bytes:
            message = f"tokens have {self.token_bytes} bytes, the text has {self.text_bytes}: the tokenizer is lossy"
            raise BadInput(message, file=self.corpus.name, field="data.tokenizer")
        return {
            "tokens": self.tokens,
            "bytes": self.token_bytes,
            "file_bytes": self.tokens * np.dtype(self.dtype).itemsize,
            "sha256": self.digest.hexdigest(),
            DIFFERENCE: self.difference,
            STARTS: self.starts.whole(self.tokens, are_known=bool(is_known) or self.corpus.holds != "text"),
        }

    def _encode(self, text: str) -> None:
        if text:
            try:
                ids = self.tokenizer.encode_part(text)
            except LostByte as lost:
                place = self.encoded_bytes + lost.place
                raise LostByte(place, lost.value, file=self.corpus.name, text="its split") from None
            self.difference = self.difference or self.tokenizer.difference(ids, text, self.encoded_bytes)
            self.encoded_bytes += len(text.encode())
            self._write(ids)

    def _checked(self, ids: NDArray[np.integer]) -> NDArray[np.integer]:
        wrong = (ids < 0) | (ids >= self.tokenizer.vocab_size)
        if wrong.any():
            place = int(np.argmax(wrong))
            message = f"id {int(ids[place])} at token {self.tokens + place} of its split"
            message += f"; the vocabulary is 0 to {self.tokenizer.vocab_size - 1}"
            raise BadInput(message, file=self.corpus.name, field="data.tokenizer", hint=self._byte_order(ids))
        return ids

    def _byte_order(self, ids: NDArray[np.integer]) -> str | None:
        """A hint that the bytes of the ids may be in the other order; None if the swapped ids would not fit the vocabulary."""
        kind = "<u2" if ids.max() < LARGEST_UINT16_VOCAB else "<u4"
        swapped = ids.astype(kind).byteswap()
        fits = ids.min() >= 0 and swapped.max() < self.tokenizer.vocab_size
        return "in the other byte order every id fits: it looks like a big-endian file" if fits else None

    def _write(self, ids: NDArray[np.integer]) -> None:
        content = ids.astype(self.dtype).tobytes()
        self.handle.write(content)
        self.digest.update(content)
        sizes = self.table[ids]
        self.starts.place(sizes, self.tokens, self.token_bytes)
        self.tokens += len(ids)
        self.token_bytes += int(sizes.sum())


def _write_splits(
    pieces: Iterator[Part], directory: Path, tokenizer: Tokenizer, dtype: str, corpus: Corpus
) -> dict[str, dict[str, Any]]:
    with ExitStack() as stack:
        writers: dict[str, _SplitWriter] = {}
        for split in SPLITS:
            temporary = stack.enter_context(fsio.committed(directory / f"{split}.bin"))
            handle = stack.enter_context(open(temporary, "wb"))
            writers[split] = _SplitWriter(handle, tokenizer, dtype, corpus)
        for split, piece, starts_document in pieces:
            writers[split].feed(piece, starts_document)
        return {split: writer.finish() for split, writer in writers.items()}


def _key(corpus: Corpus, config: DataConfig) -> str:
    """The name of the folder of a store: a hash of all settings that decide the bytes of the store."""
    fractions: list[float] | None = [config.validation_fraction, config.test_fraction]
    if config.split == "given" and config.validation_fraction == DataConfig().validation_fraction:
        fractions = None
    tokenizer = tokenizer_identity(config.tokenizer)
    return content_hash([STORE_VERSION, corpus.fingerprint, tokenizer, config.split, fractions])[:24]


def _check_identity(store: TokenStore, config: DataConfig) -> None:
    for field, name, expected, sha256 in (
        ("corpus_sha256", config.corpus, config.corpus_sha256, store.sha256),
        ("tokenizer_sha256", config.tokenizer, config.tokenizer_sha256, store.tokenizer_sha256),
    ):
        if expected not in (None, sha256):
            message = f"{name!r} is {sha256[:12]}... here, the spec was resolved with {str(expected)[:12]}..."
            raise BadInput(message, field=f"data.{field}", hint="other data needs a new resolved spec")


def _check_size(store: TokenStore, config: DataConfig) -> None:
    """Refuse a train split shorter than a window, and a tuning or validation split without tokens to score, before any training."""
    train, tuning = len(store.tokens(TRAIN)), len(store.tokens(TUNING))
    if train < config.window_tokens:
        message = f"a window has {config.window_tokens} tokens, the train split only {train}"
        raise BadInput(message, file=config.corpus, field="data.window_tokens")
    if config.tuning_fraction and tuning < 2:
        message = f"the corpus is too small: its tuning split holds {tuning} tokens"
        raise BadInput(message, file=config.corpus, field="data.tuning_fraction")
    if config.split != "given" and config.validation_fraction > 0 and len(store.tokens(VALIDATION)) == 0:
        message = "the corpus is too small: its validation split has no token"
        raise BadInput(message, file=config.corpus, field="data.validation_fraction")


def _read_manifest(directory: Path) -> dict[str, Any]:
    manifest = read_manifest(directory, "token", STORE_VERSION)
    if manifest["tokenizer"]["kind"] == "library" and DIFFERENCE not in manifest["tokenizer"]:
        raise Damaged("does not say whether its ids spell the text: written by an older version", file=str(directory))
    entries = {key: value for key, value in manifest.items() if key != MANIFEST_HASH}
    if content_hash(entries) != manifest.get(MANIFEST_HASH):
        raise Damaged("is not what was written (SHA-256 differs)", file=str(directory / MANIFEST))
    for split in SPLITS:
        check_size(directory / f"{split}.bin", manifest["splits"][split]["file_bytes"])
        check_size(directory / starts_file(split), manifest["splits"][split]["document_starts"]["file_bytes"])
    return manifest
