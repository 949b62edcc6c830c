"""Which corpus a name means: the one place that knows every kind of source."""

from __future__ import annotations

from pathlib import Path

from palinode.base.errors import BadInput, EnvironmentProblem, nearest
from palinode.data import catalogue
from palinode.data.cache import data_path
from palinode.data.corpus import HUB_NAMES, PYTHON_DOCS, Corpus
from palinode.data.python_docs import python_docs
from palinode.data.readers import local_corpus


def find_corpus(name: str, cache: Path | None = None) -> Corpus:
    """The corpus a config names: embedded, added or fetched by name, a path, or a Hugging Face set (fetched before).

    Raises:
        BadInput: no such corpus, or its files cannot be read as one (file and line named).
        EnvironmentProblem: a Hugging Face set that was not fetched yet, or `data:` without $PALINODE_DATA.
    """
    if name == PYTHON_DOCS:
        return python_docs(cache)
    if added := catalogue.find(name, cache):
        return added
    if path := data_path(name, "data.corpus"):
        return local_corpus(path, name)
    if name in HUB_NAMES:
        # Never fetched behind the user's back: a sweep would do it once per process, and a run would need a network.
        raise EnvironmentProblem(
            f"{name} is not on this machine", field="data.corpus", hint=f"`palinode data get {name}`"
        )
    known = [PYTHON_DOCS, *HUB_NAMES, *catalogue.names(cache)]
    hint = nearest(name, known) or "a path, or a name from `palinode data ls`"
    raise BadInput(f"no corpus named {name!r}, and no such file", field="data.corpus", hint=hint)
