"""Hosts that share a results store share its token stores. A host is a cache of its own, and may have another text of that name."""

import shutil
import threading
import time

import pytest
from tiny_run import TEXT

from palinode.base.errors import BadInput
from palinode.data import store as tokens
from palinode.data.config import DataConfig
from palinode.data.source import resolve
from palinode.results.holds import take
from palinode.results.store import Store
from palinode.run import shared_data
from palinode.run.shared_data import prepare_shared


@pytest.fixture
def on_host(tmp_path, monkeypatch):
    """Makes this process the host of this name, where the corpus has this text; None: the host has no such text."""
    corpus = tmp_path / "text.txt"

    def become(name, text):
        monkeypatch.setenv("PALINODE_CACHE", str(tmp_path / name))
        corpus.unlink(missing_ok=True)
        if text is not None:
            corpus.write_text(text)
        return DataConfig(corpus=str(corpus), split="contiguous", window_tokens=32, test_fraction=0.0)

    return become


def train_tokens(source):
    return source.tokens("train").tolist()


@pytest.fixture
def shared(tmp_path):
    store = Store(tmp_path / "runs")
    store.share_data()
    return store


@pytest.mark.parametrize("text", [None, TEXT.upper()], ids=["no text", "another text"])
def test_another_host_takes_the_tokens_of_the_first(on_host, shared, tmp_path, text):
    config = resolve(on_host("a", TEXT))
    first = prepare_shared(config, shared)
    on_host("b", text)
    with pytest.raises(BadInput):
        tokens.prepare(config)
    second = prepare_shared(config, shared)
    assert second.directory.is_relative_to(tmp_path / "b")
    assert train_tokens(second) == train_tokens(first)
    shutil.rmtree(shared.root / "data")
    shared.share_data()
    assert train_tokens(prepare_shared(config.with_(window_tokens=16), shared)) == train_tokens(first), "from its cache"


def test_the_first_host_needs_the_tokens_once_in_its_cache(on_host, shared, tmp_path):
    config = resolve(on_host("a", TEXT))
    for _ in range(2):
        prepare_shared(config, shared)
    folders = [path for path in (tmp_path / "a" / "tokens").iterdir() if not path.is_symlink()]
    assert len(folders) == 1
    shutil.rmtree(folders[0])
    assert train_tokens(prepare_shared(config, shared)), "the link leads nowhere, and the store has a copy"


def test_a_store_of_one_host_holds_no_tokens(on_host, tmp_path):
    store = Store(tmp_path / "runs").create()
    prepare_shared(resolve(on_host("a", TEXT)), store)
    assert not (store.root / "data").exists()


def test_damaged_tokens_are_built_again(on_host, shared):
    config = resolve(on_host("a", TEXT))
    first = train_tokens(prepare_shared(config, shared))
    place = shared.data_directory(tokens.shared_key(config))
    content = bytearray((place / "train.bin").read_bytes())
    content[5] ^= 1
    (place / "train.bin").write_bytes(content)
    on_host("b", TEXT.upper())
    with pytest.raises(BadInput):
        prepare_shared(config, shared)
    on_host("c", TEXT)
    assert train_tokens(prepare_shared(config, shared)) == first
    on_host("d", None)
    assert train_tokens(prepare_shared(config, shared)) == first


def test_a_host_waits_while_another_builds(on_host, shared, monkeypatch):
    monkeypatch.setattr(shared_data, "LOOK_SECONDS", 0.01)
    config = resolve(on_host("a", TEXT))
    place = shared.data_directory(tokens.shared_key(config))
    built = tokens.prepare(config)
    hold, on_time = take(place), []

    def build():
        time.sleep(0.1)
        on_time.append((place / "manifest.json").exists())
        tokens.copy_store(built.directory, place)
        hold.release()

    on_host("b", None)  # this host could not build it
    builder = threading.Thread(target=build)
    builder.start()
    assert train_tokens(prepare_shared(config, shared)) == train_tokens(built)
    builder.join()
    assert on_time == [False]
