"""The corpus that a name means: the one module that knows every kind of source."""

from __future__ import annotations

from pathlib import Path

from palinode.base.errors import BadInput, EnvironmentProblem, nearest
from palinode.data import catalogue
from palinode.data.cache import data_path
from palinode.data.corpus import PYTHON_DOCS, Corpus
from palinode.data.hub import HUB_SETS
from palinode.data.python_docs import python_docs
from palinode.data.readers import local_corpus


def find_corpus(name: str, cache: Path | None = None) -> Corpus:
    """The corpus that a config names: the embedded one, one that was added or fetched by name, or the files of a path.

    Raises:
        BadInput: no such corpus, or its files cannot be read; the error names file and line.
        EnvironmentProblem: a Hugging Face set that was not fetched yet, or `data:` without $PALINODE_DATA.
    """
    if name == PYTHON_DOCS:
        return python_docs(cache)
    if added := catalogue.find(name, cache):
        return added
    if path := data_path(name, "data.corpus"):
        return local_corpus(path, name)
    if name in HUB_SETS:
        # Only the user fetches a set: a run must not need a network, and a sweep would fetch it once for each process.
        raise EnvironmentProblem(
            f"{name} is not on this machine", field="data.corpus", hint=f"`palinode data get {name}`"
        )
    valid = [PYTHON_DOCS, *HUB_SETS, *catalogue.names(cache)]
    hint = nearest(name, valid) or "a path, or a name from `palinode data ls`"
    raise BadInput(f"no corpus named {name!r}, and no such file", field="data.corpus", hint=hint)
