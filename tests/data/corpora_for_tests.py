"""Small corpora held in memory, and helpers shared by the tests of the data room."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from palinode.data.config import SPLITS
from palinode.data.corpus import Corpus, Document
from palinode.data.store import TokenStore


def in_memory(
    texts: list[str], splits: list[str] | None = None, separator: str = "\n\n", piece_characters: int | None = None
) -> Corpus:
    """A corpus of these texts; `piece_characters` hands each out in pieces of that size."""

    def documents() -> Iterator[Document]:
        for number, text in enumerate(texts):
            split = splits[number] if splits else None
            if piece_characters is None:
                yield Document.of(f"document {number}", text, split)
            else:
                parts = [text[i : i + piece_characters] for i in range(0, len(text), piece_characters)]
                yield Document(f"document {number}", lambda parts=parts: iter(parts), split)

    return Corpus(
        "in memory",
        hashlib.sha256(repr([texts, splits]).encode()).hexdigest(),
        documents,
        separator,
        has_splits=splits is not None,
    )


def texts_of(store: TokenStore) -> dict[str, str]:
    """The text of each split, decoded from its tokens."""
    return {split: store.tokenizer.decode(store.tokens(split).tolist()) for split in SPLITS}


def written_files(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def sentences(count: int, start: int = 0) -> list[str]:
    """Distinct short documents."""
    return [
        f"Document {n} tells of {n * n} birds that flew north in the year {1000 + n}."
        for n in range(start, start + count)
    ]
