"""A finished run is whole without its corpus: its tokenizer is beside its spec, and its text is prepared only when asked for."""

import os
import shutil

import pytest
from tiny_run import TEXT, tiny_spec

from palinode import Store
from palinode.base.errors import BadInput, Damaged
from palinode.data.source import resolve
from palinode.data.task_store import TaskData
from palinode.data.tasks import Copy
from palinode.data.tokenizer import ByteTokenizer, CharTokenizer
from palinode.objectives import LtrObjective
from palinode.results.verify import verify
from palinode.run.one import run_one
from palinode.run.trained import load_trained
from palinode.use.generate import generate_text


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run on a text that has moved since, with an empty cache: (spec, store)."""
    folder = tmp_path_factory.mktemp("moved")
    corpus = folder / "birds.txt"
    corpus.write_text(TEXT)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PALINODE_CACHE", str(folder / "cache"))
        spec = tiny_spec(corpus, steps=10, evaluate_every=None)
        spec = spec.with_(data=resolve(spec.data.with_(tokenizer="char")))
        store = Store(folder / "runs")
        run_one(spec, store)
        corpus.rename(folder / "elsewhere.txt")
        shutil.rmtree(folder / "cache")
        yield spec, store


@pytest.fixture
def tokenizer_file(moved):
    spec, store = moved
    path = store.run_directory(spec.run_id) / "tokenizer.json"
    whole = path.read_bytes()
    yield path
    path.unlink(missing_ok=True)
    path.write_bytes(whole)


def test_a_run_writes_text_where_its_corpus_has_moved(moved):
    spec, store = moved
    trained = load_trained(spec, store)
    [text] = generate_text(trained, "The ", 5, 1)
    assert text.startswith("The ")
    assert len(text) == 9
    with pytest.raises(BadInput, match="no such file"):
        trained.data.units("validation")


def test_the_text_of_a_loaded_run_is_that_of_its_training(corpus, tmp_path):
    spec, store = tiny_spec(corpus, steps=10, evaluate_every=None), Store(tmp_path)
    run_one(spec, store)
    data = load_trained(spec, store).data
    assert data.tokens("validation").tolist() == list(TEXT.encode())[-len(data.tokens("validation")) :]
    assert data.scored_tokens("validation", 100) == 100
    assert data.bytes_per_token.tolist() == [1] * 256


def test_another_tokenizer_is_refused_and_ls_verify_names_it(moved, tokenizer_file):
    spec, store = moved
    assert verify(store).damaged == ()
    files = verify(store).files
    for other in (CharTokenizer("abc").to_json(), ByteTokenizer().to_json(), "{"):
        tokenizer_file.write_text(other)
        with pytest.raises(Damaged, match=r"tokenizer.json: is not this run's") as refused:
            load_trained(spec, store)
        assert refused.value.exit_code == 4
        assert [str(problem) for problem in verify(store).damaged] == [f"{tokenizer_file}: is not this run's"]
    tokenizer_file.unlink()
    assert verify(store).files == files - 1
    os.mkfifo(tokenizer_file)
    with pytest.raises(Damaged, match="not a regular file"):
        load_trained(spec, store)


def test_a_run_without_the_file_prepares_its_data_as_before(moved, tokenizer_file):
    spec, store = moved
    tokenizer_file.unlink()
    with pytest.raises(BadInput, match="no such file"):
        load_trained(spec, store)


def test_an_attempt_that_goes_on_writes_the_file_again(corpus, tmp_path):
    spec, store = tiny_spec(corpus, steps=10, evaluate_every=None), Store(tmp_path)
    run_one(spec, store, should_stop=lambda: True)
    path = store.run_directory(spec.run_id) / "tokenizer.json"
    whole = path.read_bytes()
    path.write_text("{")
    run_one(spec, store)
    assert path.read_bytes() == whole


def test_a_task_needs_no_tokenizer(tmp_path):
    spec = tiny_spec(
        tmp_path, steps=10, evaluate_every=None, objective=LtrObjective(), data=TaskData(task=Copy(length=4))
    )
    store = Store(tmp_path)
    run_one(spec, store)
    assert not (store.run_directory(spec.run_id) / "tokenizer.json").exists()
    assert load_trained(spec, store).data.vocab_size == spec.data.task.vocab_size
