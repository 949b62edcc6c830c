"""The token store holds exactly the text, is built once, notices damage, and survives being killed while it is built."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corpora_for_tests import in_memory, sentences, texts_of, written_files

from palinode.base import fsio
from palinode.base.errors import BadInput, Damaged
from palinode.data import bpe
from palinode.data import store as store_module
from palinode.data.config import SPLITS, DataConfig
from palinode.data.splits import plan, stream, survey
from palinode.data.store import TokenStore, build, prepare, resolve
from palinode.data.tokenizer import ByteTokenizer


@pytest.fixture
def folder(tmp_path):
    """A folder of 30 text files."""
    root = tmp_path / "texts"
    root.mkdir()
    for number, text in enumerate(sentences(30)):
        (root / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def config_for(folder, **fields) -> DataConfig:
    return DataConfig(corpus=str(folder), window_tokens=8, **fields)


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe:300"])
def test_a_split_holds_its_documents_and_their_separators_to_the_byte(folder, cache, tokenizer):
    store = prepare(config_for(folder, tokenizer=tokenizer), cache)
    texts = texts_of(store)
    documents = sentences(30)
    assert sorted(text for split in SPLITS for text in texts[split].split("\n\n")) == sorted(documents)
    for split in SPLITS:
        facts = store.manifest["splits"][split]
        assert facts["documents"] == texts[split].count("\n\n") + 1
        assert facts["bytes"] == len(texts[split].encode()) == int(store.bytes_per_token[store.tokens(split)].sum())
        assert facts["tokens"] == len(store.tokens(split))
        assert store.tokens(split).tolist() == store.tokenizer.encode(texts[split])
    separators = 2 * (30 - len(SPLITS))
    assert sum(store.manifest["splits"][split]["bytes"] for split in SPLITS) == sum(map(len, documents)) + separators


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe:300"])
def test_chunks_do_not_show_in_the_tokens(tmp_path, monkeypatch, tokenizer):
    """A chunk of 50 characters gives the same bytes on disk as one that holds everything."""
    config = DataConfig(tokenizer=tokenizer, validation_fraction=0.2)
    for name, characters in (("large", 1 << 20), ("small", 50)):
        monkeypatch.setattr(store_module, "CHUNK_CHARACTERS", characters)
        build(in_memory(sentences(40), piece_characters=13), config, tmp_path / name)
    for split in SPLITS:
        assert (tmp_path / "large" / f"{split}.bin").read_bytes() == (tmp_path / "small" / f"{split}.bin").read_bytes()


def test_bpe_is_trained_on_the_train_split_only(tmp_path):
    """The words of the validation split leave no trace in the tokenizer."""
    texts = sentences(30)
    config = DataConfig(tokenizer="bpe:400", validation_fraction=0.2)
    corpus = in_memory(texts)
    chosen = plan(survey(corpus), corpus, config)
    build(corpus, config, tmp_path / "plain")
    train_text = "".join(piece for split, piece in stream(corpus, chosen) if split == "train")
    result = TokenStore(tmp_path / "plain").tokenizer.to_json()
    assert result == bpe.train(lambda: iter([train_text]), 400).to_json()
    assert result != bpe.train(lambda: iter(["\n\n".join(texts)]), 400).to_json()


def test_a_lossy_tokenizer_is_caught(folder, cache, monkeypatch):
    """The guard on the whole corpus: bits per byte would be wrong if tokens stood for other bytes than the text's."""
    lossy = ByteTokenizer()
    monkeypatch.setattr(lossy, "encode_array", lambda text: np.frombuffer(text.encode()[:-1], dtype=np.uint8))
    monkeypatch.setattr(store_module, "make_tokenizer", lambda *_: lossy)
    with pytest.raises(
        BadInput, match=r"data\.tokenizer: tokens have .* bytes, the text has .*: the tokenizer is lossy"
    ):
        prepare(config_for(folder), cache)
    assert written_files(cache) == []


def test_it_is_built_once(folder, cache, monkeypatch):
    first = prepare(config_for(folder), cache)
    monkeypatch.setattr(store_module, "build", lambda *_: pytest.fail("was built again"))
    again = prepare(config_for(folder, max_train_tokens=100), cache)
    assert again.directory == first.directory
    assert again.sha256 == first.sha256
    assert len(again.tokens("train")) == 100
    assert again.tokens("train").tolist() == first.tokens("train")[:100].tolist()
    assert len(again.tokens("validation")) == len(first.tokens("validation"))


def test_other_text_tokenizer_or_split_is_another_store(folder, cache):
    changes = [{}, {"tokenizer": "char"}, {"split": "contiguous"}, {"validation_fraction": 0.2}]
    directories = {prepare(config_for(folder, **change), cache).directory for change in changes}
    (folder / "00.txt").write_text("Another text.", encoding="utf-8")
    directories.add(prepare(config_for(folder), cache).directory)
    assert len(directories) == 5


def test_a_corpus_that_moved_is_the_same_corpus(folder, cache, tmp_path):
    before = prepare(config_for(folder), cache)
    moved = folder.rename(tmp_path / "elsewhere")
    os.utime(moved / "00.txt", (1, 1))
    after = prepare(config_for(moved), cache)
    assert (after.directory, after.sha256) == (before.directory, before.sha256)


def test_tokens_are_memory_mapped_and_read_only(folder, cache):
    tokens = prepare(config_for(folder), cache).tokens("train")
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.dtype("<u2")
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_a_vocabulary_above_65536_takes_four_bytes(tmp_path, cache):
    np.save(tmp_path / "ids.npy", np.array([70_000, 3, 65_536] * 20))
    config = config_for(tmp_path / "ids.npy", tokenizer="ids:70001", split="contiguous")
    tokens = prepare(config, cache).tokens("train")
    assert tokens.dtype == np.dtype("<u4")
    assert tokens[:3].tolist() == [70_000, 3, 65_536]


def test_a_split_of_no_share_is_empty(folder, cache):
    store = prepare(config_for(folder, test_fraction=0.0), cache)
    assert len(store.tokens("test")) == 0
    assert store.manifest["splits"]["test"]["documents"] == 0


def test_resolving_pins_corpus_and_tokenizer(folder, cache):
    pinned = resolve(config_for(folder, tokenizer="bpe:300"), cache)
    assert prepare(pinned, cache).sha256 == pinned.corpus_sha256
    (folder / "00.txt").write_text("Another text.", encoding="utf-8")
    with pytest.raises(BadInput, match=r"data\.corpus_sha256: .* the spec was resolved with"):
        prepare(pinned, cache)


def test_another_tokenizer_file_under_the_same_name_is_refused(folder, cache, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(bpe.train(lambda: iter(sentences(30)), 300).to_json(), encoding="utf-8")
    pinned = resolve(config_for(folder, tokenizer=str(file)), cache)
    file.write_text(bpe.train(lambda: iter(sentences(30)), 280).to_json(), encoding="utf-8")
    with pytest.raises(BadInput, match=r"data\.tokenizer_sha256"):
        prepare(pinned, cache)


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_remove])
@pytest.mark.parametrize("file", ["train.bin", "validation.bin", "tokenizer.json", "manifest.json"])
def test_a_damaged_store_is_noticed_and_built_again(folder, cache, file, damage):
    store = prepare(config_for(folder), cache)
    before = {path: (store.directory / path).read_bytes() for path in written_files(store.directory)}
    damage(store.directory / file)
    with pytest.raises(Damaged):
        TokenStore(store.directory)
    prepare(config_for(folder), cache)
    assert {path: (store.directory / path).read_bytes() for path in written_files(store.directory)} == before


def test_a_store_too_large_to_hash_on_opening_is_hashed_on_request(folder, cache, monkeypatch):
    directory = prepare(config_for(folder), cache).directory
    damage_flip(directory / "train.bin")
    monkeypatch.setattr(store_module, "HASHED_ON_OPENING_BYTES", 0)
    with pytest.raises(Damaged, match=r"train\.bin: is not what was written"):
        TokenStore(directory).verify()


CRASH_POINTS = [
    f"{file}.{moment}"
    for file in ("train.bin", "test.bin", "test.documents.bin", "tokenizer.json", "manifest.json")
    for moment in ("written", "before_rename", "after_rename")
]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns; the child uses no thread
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_kill_while_building_leaves_nothing_that_counts(folder, cache, point):
    """Killed at any moment of a commit, then the same call again: the store of an undisturbed build, and no stray file."""
    child = os.fork()
    if child == 0:  # a fork-server in small: the imports are there already
        os.environ[fsio.CRASH_POINT_VARIABLE] = point
        prepare(config_for(folder), cache)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    store = prepare(config_for(folder), cache)
    assert written_files(store.directory) == sorted(
        [
            "manifest.json",
            "tokenizer.json",
            *(f"{split}{end}" for split in SPLITS for end in (".bin", ".documents.bin")),
        ]
    )
    undisturbed = prepare(config_for(folder), cache.with_name("other"))
    assert store.manifest == undisturbed.manifest


def test_the_same_text_gives_the_same_bytes_in_another_process(folder, cache, tmp_path):
    program = (
        "import sys; from pathlib import Path; from palinode.data.config import DataConfig\n"
        "from palinode.data.store import prepare\n"
        "s = prepare(DataConfig(corpus=sys.argv[1], tokenizer='bpe:300', window_tokens=8), Path(sys.argv[2]))\n"
        "print(s.directory.name, 'torch' in sys.modules)"
    )
    here = prepare(config_for(folder, tokenizer="bpe:300"), cache).directory
    environment = {**os.environ, "PYTHONHASHSEED": "3", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    command = [sys.executable, "-c", program, str(folder), str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == [here.name, "False"]
    there = tmp_path / "other" / "tokens" / here.name
    for file in written_files(here):
        assert (here / file).read_bytes() == (there / file).read_bytes()
