"""The data of a run on a store that several hosts share: each host needs the same tokens, and not each host can make them.

A host takes a token store from its own cache, else from the folder `data` of the results store, else it builds the token store and
puts it there, under a hold, so that other hosts wait for it. `python-docs` is made from the Python of the host; a host with another
Python has other text, and can only take the token store of the first host.
A results store of one host has no folder `data`: the cache of the host is enough, and the store stays small.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from palinode.base.errors import Damaged
from palinode.data import store as tokens
from palinode.data.config import DataConfig
from palinode.data.source import Data, Source, prepare
from palinode.results.holds import Watch, holder, take
from palinode.results.store import Store

LOOK_SECONDS = 1.0  # from one look at a token store that another process builds to the next


def prepare_shared(config: Data, store: Store) -> Source:
    """The data of a run of this store, ready to be read.

    Raises:
        BadInput, EnvironmentProblem: see `data.source.prepare`.
    """
    is_resolved = isinstance(config, DataConfig) and config.corpus_sha256 is not None
    place = store.data_directory(tokens.shared_key(config)) if is_resolved else None  # type: ignore[arg-type]
    if place is None:
        return prepare(config)
    assert isinstance(config, DataConfig)
    here = tokens.cached(place.name)
    with contextlib.suppress(Damaged):
        return tokens.open_store(config, here)
    watch = Watch()
    while True:
        with contextlib.suppress(Damaged):
            return _taken(config, place, here)
        owner, stale = holder(place, watch)
        if owner is None and (hold := take(place, stale=stale)) is not None:
            with hold:
                return _taken_or_built(config, place, here)
        time.sleep(LOOK_SECONDS)


def _taken_or_built(config: DataConfig, place: Path, here: Path) -> Source:
    """The token store that another host has built in the meantime, else one that this host builds and puts into `place`."""
    with contextlib.suppress(Damaged):
        return _taken(config, place, here)
    built = prepare(config)
    assert isinstance(built, tokens.TokenStore)
    tokens.copy_store(built.directory, place)
    if not here.exists():
        here.unlink(missing_ok=True)  # a link to a token store that was deleted
        here.symlink_to(built.directory.resolve(), target_is_directory=True)
    return built


def _taken(config: DataConfig, place: Path, here: Path) -> Source:
    """The token store in `place`, copied into the cache of this host.

    Raises:
        Damaged: there is none, or it is damaged.
    """
    if here.is_symlink():
        here.unlink()
    tokens.copy_store(place, here)
    return tokens.open_store(config, here)
