"""The embedded corpus: English prose that is on every machine with CPython. Python source files are parsed, never imported.

The corpus has one document for each topic of `pydoc_data.topics` (the language reference that `help()` shows), then one document
for each module of the standard library: the docstrings of the module in the order of the file. Doctests and tables are left
out. A paragraph that repeats parts of earlier paragraphs is left out too: topics quote each other and modules copy docstrings,
so a split by document would put the same paragraph into train and validation. The overlap was measured on CPython 3.11: equal
passages of at least 50 characters. If repeated paragraphs stay, 0.8 % of the validation text is in train too (the longest
passage has 236 characters). If they are left out, 0.03 % of the validation text is in train too (the longest passage has 64
characters); the train text repeats the same share of itself.
"""

from __future__ import annotations

import ast
import inspect
import os
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from palinode.base.config import content_hash
from palinode.base.errors import Damaged, EnvironmentProblem
from palinode.data.cache import cache_directory
from palinode.data.corpus import PYTHON_DOCS, Corpus, Document
from palinode.data.text_store import read_text_store, text_manifest, write_text_store

BUILDER_VERSION = 3
TOPICS = Path("pydoc_data") / "topics.py"
# Tests and optional packages are left out: Linux distributions put them into other packages than the interpreter, so with them
# the corpus would depend on the distribution.
LEFT_OUT = {
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "tkinter", "distutils", "ensurepip", "pydoc_data"),
    *("site-packages", "dist-packages", "__pycache__"),
}
SHORTEST_DOCUMENT = 200  # characters; 100 modules for codecs have only one sentence each
# The smallest share of letters among the characters of a paragraph that are not white space; tables and lines of grammar have
# less.
LEAST_LETTERS = 0.5
SHINGLE_WORDS = 8  # a shingle is this many consecutive words
# The largest share of a paragraph's shingles that may have occurred before. The share is low, so that a paragraph with small
# edits counts as repeated too.
MOST_REPEATED = 0.1
SHORTEST_TO_COMPARE = 20  # characters; shorter paragraphs ("Returns:") often repeat by chance
# A doctest goes to the end of its paragraph.
DOCTEST = re.compile(r"^[ \t]*(>>>|\.\.\. ).*\Z", re.MULTILINE | re.DOTALL)
FEWEST_WORDS = 4  # a docstring of fewer words is a label, not prose


def python_docs(cache: Path | None = None) -> Corpus:
    """The embedded corpus. It is parsed once for each interpreter, then it is read from the cache.

    Raises:
        EnvironmentProblem: this Python has no source of its standard library.
    """
    return read_text_store(python_docs_directory(cache), PYTHON_DOCS)


def python_docs_directory(cache: Path | None = None) -> Path:
    """The folder of the text store of the embedded corpus; this function writes the store if there is none."""
    library = Path(sysconfig.get_path("stdlib"))
    listing = [(str(path.relative_to(library)), path.stat().st_size) for path in _sources(library)]
    fingerprint = content_hash([BUILDER_VERSION, sys.version, listing])
    directory = cache_directory(cache) / "text" / f"{PYTHON_DOCS}-{fingerprint[:16]}"
    if not _usable(directory, fingerprint):
        version = platform.python_version()
        source = f"CPython {version}: pydoc topics and docstrings of the standard library"
        facts = {"source": source, "licence": "PSF-2.0", "fingerprint": fingerprint}
        write_text_store(directory, gather(library), facts)
    return directory


def gather(library: Path) -> Iterator[Document]:
    """The documents of the standard library below this folder: topics, then modules, both sorted by name."""
    seen: set[str] = set()
    for name, text in [*_topics(library), *_modules(library)]:
        prose = "\n\n".join(_fresh_paragraphs(text, seen))
        if len(prose) >= SHORTEST_DOCUMENT:
            yield Document.of(name, prose)


def _topics(library: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(_parsed(library / TOPICS)):
        if isinstance(node, ast.Dict):
            topics = ast.literal_eval(node)
            yield from ((f"topic {name}", inspect.cleandoc(topics[name])) for name in sorted(topics))
            return


def _modules(library: Path) -> Iterator[tuple[str, str]]:
    for path in _sources(library):
        if path.relative_to(library) == TOPICS:
            continue
        parts = path.relative_to(library).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        docstrings = [text for text in _docstrings(_parsed(path)) if len(text.split()) >= FEWEST_WORDS]
        if docstrings:
            yield f"module {name}", "\n\n".join(docstrings)


def _sources(library: Path) -> list[Path]:
    """The source files of the standard library that the corpus reads, sorted by their path in the library."""
    paths = []
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        paths += [
            Path(folder, name) for name in files if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    if not paths or not (library / TOPICS).is_file():
        raise EnvironmentProblem("this Python has no source of its standard library, so there is no python-docs corpus")
    return sorted([*paths, library / TOPICS], key=lambda path: path.relative_to(library).parts)


def _parsed(path: Path) -> ast.Module:
    """The syntax tree of a file; a file that does not parse (a template, syntax of another version) gives an empty tree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # docstrings of the standard library may have invalid escapes
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return ast.Module(body=[], type_ignores=[])


def _docstrings(node: ast.AST) -> Iterator[str]:
    """The docstrings below a node, in source order. Only statements are visited: expressions have no docstrings."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield text
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            if isinstance(child, ast.stmt | ast.ExceptHandler):
                yield from _docstrings(child)


def _fresh_paragraphs(text: str, seen: set[str]) -> Iterator[str]:
    """The paragraphs of prose that repeat few of the shingles in `seen` (MOST_REPEATED); adds the new shingles to `seen`."""
    text = text.encode("utf-8", "replace").decode()  # a docstring may contain half a surrogate pair
    for paragraph in re.split(r"\n\s*\n", text):
        prose = DOCTEST.sub("", paragraph).rstrip()
        if sum(map(str.isalpha, prose)) < LEAST_LETTERS * len("".join(prose.split())):
            continue
        words = prose.casefold().split()
        places = range(max(1, len(words) - SHINGLE_WORDS + 1))
        shingles = {" ".join(words[place : place + SHINGLE_WORDS]) for place in places}
        repeated = len(shingles & seen) > MOST_REPEATED * len(shingles) and len(prose) >= SHORTEST_TO_COMPARE
        seen |= shingles
        if words and not repeated:
            yield prose


def _usable(directory: Path, fingerprint: str) -> bool:
    try:
        return bool(text_manifest(directory).get("fingerprint") == fingerprint)
    except Damaged:
        return False
