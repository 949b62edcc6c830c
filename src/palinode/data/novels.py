"""The English novels of ELTeC: 99 books from 1840 to 1920, one document each, with a checksum for each book.

The published release holds TEI files. A book's text is its blocks (paragraphs, headings, lines of verse), joined by an empty line,
with every run of white space as one space; page breaks and fonts are dropped. `novels.tsv` has, for each book, the git hash of its
TEI file and the SHA-256 of its text, so another release or another reader is refused and not trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.data.corpus import TEXT_SEPARATOR, Document

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

NOVELS = "eltec-eng"
REPOSITORY, RELEASE = "COST-ELTeC/ELTeC-eng", "v1.0.1"
LICENCE, SIZE = "CC BY 4.0 (the texts are in the public domain)", "64 MB"
TIMEOUT_SECONDS = 60
TEXT = "{http://www.tei-c.org/ns/1.0}text"
INLINE = frozenset(["abbr", "corr", "emph", "foreign", "gap", "hi", "milestone", "pb", "ref", "said", "title"])


class Novel(NamedTuple):
    """A book: its file name without an ending, the git hash of its TEI file, the SHA-256 of its text with a line end."""

    name: str
    git_blob: str
    sha256: str


def novels() -> tuple[Novel, ...]:
    """The books, in the order of their file names."""
    table = resources.files("palinode.data").joinpath("novels.tsv").read_text(encoding="utf-8")
    return tuple(Novel(*line.split("\t")) for line in table.splitlines()[1:])


def novel_documents(source: Path | None) -> Iterator[Document]:
    """The books as documents.

    Args:
        source: the folder of a mirror: a copy of the release, or a folder with the texts (`NAME.txt`, also below `txt/`). None:
            the release is downloaded.

    Raises:
        BadInput: a book is missing in the mirror, or is not the one of the release; the error names its file.
        EnvironmentProblem: the release cannot be downloaded.
    """
    for novel in novels():
        yield Document.of(f"{NOVELS}:{novel.name}", _text(novel, source))


def tei_text(content: bytes) -> str:
    """The text of a TEI file: its blocks, joined by an empty line."""
    from xml.etree import ElementTree

    blocks: list[str] = []
    current: list[str] = []

    def close() -> None:
        if block := " ".join("".join(current).split()):
            blocks.append(block)
        current.clear()

    def read(element: Element) -> None:
        is_block = element.tag.rpartition("}")[2] not in INLINE
        if is_block:
            close()
        current.append(element.text or "")
        for child in element:
            read(child)
            current.append(child.tail or "")
        if is_block:
            close()

    for text in ElementTree.fromstring(content).iter(TEXT):  # noqa: S314  the file's hash is that of the release
        read(text)
    return TEXT_SEPARATOR.join(blocks)


def _text(novel: Novel, source: Path | None) -> str:
    """The text of one book, after a check of its hash."""
    if source is None:
        path, text = f"{novel.name}.xml", tei_text(_checked_blob(novel, _download(novel), f"{novel.name}.xml"))
    else:
        choices = (source / f"{novel.name}.txt", source / "txt" / f"{novel.name}.txt")
        tei = source / "level1" / f"{novel.name}.xml"
        found = next((choice for choice in (*choices, tei) if choice.is_file()), None)
        if found is None:
            raise BadInput(
                "the mirror lacks this book", file=str(tei), hint="give the folder of the release, or of its texts"
            )
        content = found.read_bytes()
        path = str(found)
        text = (
            tei_text(_checked_blob(novel, content, path))
            if found == tei
            else content.decode("utf-8", "replace").rstrip("\n")
        )
    if hashlib.sha256(f"{text}\n".encode()).hexdigest() != novel.sha256:
        raise BadInput("is not the text of the release: its SHA-256 differs", file=path)
    return text


def _checked_blob(novel: Novel, content: bytes, path: str) -> bytes:
    """The bytes of a TEI file, after a check of the hash that git gives them."""
    if hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() != novel.git_blob:
        raise BadInput("is not the file of the release: its git hash differs", file=path)
    return content


def _download(novel: Novel) -> bytes:
    import urllib.error  # only the download needs both, and every command imports this file
    import urllib.request

    address = f"https://raw.githubusercontent.com/{REPOSITORY}/{RELEASE}/level1/{novel.name}.xml"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  the address is https
            content: bytes = answer.read()
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        hint = f"from a local copy: `palinode data get {NOVELS} --from FOLDER`"
        raise EnvironmentProblem(f"cannot fetch {NOVELS}: {reason}", field="data.corpus", hint=hint) from error
    return content
