"""A run keeps the scores of each document: they add up to its result, damage is noticed, and an old run is still read."""

import json
import math

import numpy as np
import pytest
from tiny_run import TEXT, tiny_spec

from palinode import EvaluationConfig, Store
from palinode.analysis.sources import document_nats, paired_documents
from palinode.base import fsio
from palinode.base.errors import BadInput, Damaged
from palinode.base.seeds import derive
from palinode.data.source import prepare
from palinode.data.windows import spread_numbers
from palinode.results.documents import (
    DOCUMENTS_FILE,
    MOST_UNITS,
    DocumentNats,
    documents_content,
    documents_seal,
    read_documents,
)
from palinode.results.verify import verify
from palinode.run.one import run_one


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for number, first in enumerate(range(0, len(TEXT), 1200)):
        (folder / f"{number:02}.txt").write_text(TEXT[first : first + 1200])
    return folder


def spec_of(corpus, **changes):
    spec = tiny_spec(corpus, steps=10, evaluate_every=None)
    data = spec.data.with_(split="documents", validation_fraction=0.4, test_fraction=0.1)
    return spec.with_(**{"data": data, "evaluation": EvaluationConfig(max_tokens=5001, test=True), **changes})


def trial_of(corpus, **evaluation):
    """A trial, which is not audited."""
    spec = spec_of(corpus)
    data = spec.data.with_(tuning_fraction=0.4)
    return spec.with_(data=data, evaluation=EvaluationConfig(split="tuning", **evaluation))


@pytest.fixture(scope="module")
def done(corpus, tmp_path_factory):
    store, spec = Store(tmp_path_factory.mktemp("runs")), spec_of(corpus)
    return store, spec, run_one(spec, store)


def test_the_scores_of_documents_add_up_to_the_result(done):
    store, spec, result = done
    record = store.record(spec.run_id)
    for split in ("validation", "test"):
        starts = prepare(spec.data).units(split).starts
        for name in ("ltr", "rtl"):
            found, row = document_nats(record, split, name), result.scores[split][name]
            assert (int(found.tokens.sum()), int(found.hits.sum())) == (row["tokens_scored"], row["hits"])
            assert math.fsum(found.nats) == pytest.approx(row["nats_sum"], rel=1e-9, abs=1e-9)
            covered = np.minimum(starts, row["tokens_scored"])
            lengths = np.diff(covered)
            assert found.tokens.tolist() == lengths[lengths > 0].tolist()
            assert found.kind == "documents"
    assert document_nats(record, "validation", "own") is None
    assert result.scored["validation"]["ltr"].kind == "likelihood"
    assert result.scored["validation"]["ltr"].tokens == 32
    assert result.scored["validation"]["ltr"].windows_sha256 == result.scored["validation"]["rtl"].windows_sha256
    ours, theirs, units = paired_documents([(record, "ltr")], [(record, "rtl")], "validation")
    assert ours.shape == theirs.shape == (1, len(units.tokens))
    assert verify(store).damaged == ()


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("harm", [flipped, lambda content: content[:-8], lambda content: b"", None])
def test_damage_is_noticed(done, harm):
    store, spec, result = done
    path = store.run_directory(spec.run_id) / DOCUMENTS_FILE
    content = path.read_bytes()
    path.unlink()
    if harm is not None:
        path.write_bytes(harm(content))
    [damage] = verify(store).damaged
    assert damage.file == str(path)
    assert store.ended(spec.run_id) is None
    with pytest.raises(Damaged, match="documents"):
        document_nats(store.record(spec.run_id), "validation", "ltr")
    path.write_bytes(content)
    assert store.ended(spec.run_id) == result


@pytest.mark.nightly
def test_a_run_with_damaged_documents_is_measured_again_to_the_bit(done):
    store, spec, result = done
    path = store.run_directory(spec.run_id) / DOCUMENTS_FILE
    content = path.read_bytes()
    path.write_bytes(flipped(content))
    again = run_one(spec, store)
    assert (again.scores, again.weights_sha256) == (result.scores, result.weights_sha256)
    assert path.read_bytes() == content


def test_scores_that_do_not_add_up_are_damage(tmp_path):
    found = DocumentNats(np.array([3, 4], np.int32), np.array([1.0, 2.0]), np.array([0, 1], np.int32), "documents")
    content = documents_content({("validation", "a/b"): found})
    fsio.write_bytes(tmp_path / DOCUMENTS_FILE, content)
    row = {"tokens_scored": 7, "nats_sum": 3.0, "hits": 1}

    def read(**changes):
        return read_documents(tmp_path, documents_seal(content), {"validation": {"a/b": {**row, **changes}}})

    assert read()["validation", "a/b"].nats.tolist() == [1.0, 2.0]
    for changes in ({"tokens_scored": 8}, {"nats_sum": 3.1}, {"hits": 0}):
        with pytest.raises(Damaged, match="does not add up"):
            read(**changes)


def test_a_run_of_an_older_version_has_no_text(done, tmp_path):
    store, spec, _ = done
    old = Store(tmp_path)
    directory = old.create().run_directory(spec.run_id)
    for path in store.run_directory(spec.run_id).glob("*.json*"):
        if not path.name.startswith("hold"):
            fsio.write_bytes(directory / path.name, path.read_bytes())
    table = json.loads((directory / "result.json").read_text())
    fsio.write_table(
        directory / "result.json", {k: v for k, v in table.items() if k not in ("scored", "documents", "self_sha256")}
    )
    record = old.record(spec.run_id)
    assert (record.documents, record.documents_damage, record.result.scored) == (None, None, {})
    assert old.ended(spec.run_id) is not None
    assert verify(old).damaged == ()
    assert paired_documents([(record, "ltr")], [(record, "ltr")], "validation") is None


def test_neighbours_are_merged_into_few_units(corpus, monkeypatch, tmp_path):
    monkeypatch.setattr("palinode.evaluate.details.MOST_UNITS", 2)
    store, spec = Store(tmp_path), trial_of(corpus)
    result = run_one(spec, store)
    found = document_nats(store.record(spec.run_id), "tuning", "ltr")
    assert len(found.tokens) == 2 < MOST_UNITS
    assert int(found.tokens.sum()) == result.scores["tuning"]["ltr"]["tokens_scored"]


def test_spread_windows_cover_the_whole_split_evenly(corpus, tmp_path):
    data = prepare(spec_of(corpus).data)
    tokens = data.tokens("validation")
    every, asked = len(tokens) // 32, 700
    [batch, *more] = data.evaluation("validation", 32, batch_windows=9, max_tokens=asked, windows="spread")
    starts = [start for one in (batch, *more) for start in one.starts.tolist()]
    u = derive(0, "evaluation", "validation") / 2**63
    assert [start // 32 for start in starts] == [math.floor((i + u) * every / 21) for i in range(21)]
    assert batch.tokens[1].tolist() == tokens[starts[1] : starts[1] + 32].tolist()
    assert len(set(starts)) == 21
    assert spread_numbers(5, 5, "test").tolist() == [0, 1, 2, 3, 4]
    whole = list(data.evaluation("validation", 32, batch_windows=9, max_tokens=10**6, windows="spread"))
    assert sum(one.tokens.numel() for one in whole) == len(tokens)
    spread = trial_of(corpus, max_tokens=asked, windows="spread")
    assert spread.run_id != trial_of(corpus, max_tokens=asked).run_id
    assert trial_of(corpus, max_tokens=asked, windows="first").run_id == trial_of(corpus, max_tokens=asked).run_id
    store = Store(tmp_path)
    assert run_one(spread, store).scores["tuning"]["ltr"]["tokens_scored"] == 21 * 32
    assert len(store.record(spread.run_id).documents["tuning", "ltr"].tokens) > 5


def test_spread_windows_are_refused_where_they_say_nothing(corpus):
    with pytest.raises(BadInput, match=r"evaluation\.windows: windows of other lengths"):
        spec_of(corpus, evaluation=EvaluationConfig(windows="spread", context_lengths=(8,)))
