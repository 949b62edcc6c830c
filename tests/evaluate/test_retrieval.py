"""nDCG@10 and recall@100 against ir-measures, BM25 against its published quality, pools and folds."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from palinode.base.errors import AuditFailed, BadInput
from palinode.data.retrieval import Collection, check_apart, collection_sha256, divided, fold_of, read_collection
from palinode.evaluate.retrieval import Bm25, pool_of, query_types, ranking_scores, rankings

SCIFACT = Path(os.environ.get("PALINODE_DATA", "")) / "beir_scifact"


def made(folder, documents, queries, grades, heading="query-id\tcorpus-id\tscore"):
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        rows = [{"_id": key, "text": text} for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [heading, *("\t".join(map(str, grade)) for grade in grades)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_scores_equal_ir_measures_on_random_rankings():
    ir_measures = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(0)
    relevant = rng.random((40, 300)) < rng.choice([0.01, 0.2], (40, 1))
    relevant[np.arange(40), rng.integers(300, size=40)] = True
    scores = rng.permuted(np.tile(np.arange(300.0), (40, 1)), axis=1)
    qrels = {f"q{i}": {f"d{j}": 1 for j in np.flatnonzero(row)} for i, row in enumerate(relevant)}
    run = {f"q{i}": {f"d{j}": float(value) for j, value in enumerate(row)} for i, row in enumerate(scores)}
    measures = {"ndcg_at_10": ir_measures.nDCG @ 10, "recall_at_100": ir_measures.R @ 100}
    found = ranking_scores(scores, relevant)
    for metric in ir_measures.iter_calc(list(measures.values()), qrels, run):
        name = next(name for name, measure in measures.items() if measure == metric.measure)
        assert found[name][int(metric.query_id[1:])] == pytest.approx(metric.value, abs=1e-12)


def test_scores_by_hand():
    scores, relevant = np.array([[3.0, 2.0, 1.0]]), np.array([[False, True, False]])
    assert ranking_scores(scores, relevant) == {"ndcg_at_10": [1 / np.log2(3)], "recall_at_100": [1.0]}
    assert rankings(np.array([[1.0, 2.0, 2.0]])).tolist() == [[1, 2, 0]]
    assert ranking_scores(-scores, np.array([[True, True, True]]))["ndcg_at_10"] == pytest.approx([1.0])


def test_bm25_ranks_the_document_with_the_words_first():
    pytest.importorskip("bm25s")
    index = Bm25(["the owl flies", "the wren sings", "an owl sings"])
    scores = index.scores(["owl flies", "xyzzy", ""])
    assert scores[0].argmax() == 0
    assert scores[1:].tolist() == [[0.0] * 3] * 2


@pytest.mark.nightly
def test_bm25_has_its_known_quality_on_scifact():
    pytest.importorskip("bm25s")
    if not SCIFACT.is_dir():
        pytest.skip("no SciFact below $PALINODE_DATA")
    whole = read_collection(str(SCIFACT))
    lines = (SCIFACT / "qrels" / "test.tsv").read_text().splitlines()[1:]
    queries = sorted({line.split("\t")[0] for line in lines})
    places = {document: place for place, document in enumerate(whole.documents)}
    relevant = np.zeros((len(queries), len(places)), dtype=bool)
    for row, query in enumerate(queries):
        relevant[row, [places[document] for document in whole.relevant[query]]] = True
    found = ranking_scores(
        Bm25(list(whole.documents.values())).scores([whole.queries[one] for one in queries]), relevant
    )
    assert (len(queries), len(places), len(whole.queries)) == (300, 5183, 1109)
    assert np.mean(found["ndcg_at_10"]) == pytest.approx(0.6617, abs=0.001)
    assert np.mean(found["recall_at_100"]) == pytest.approx(0.876, abs=0.002)


def test_a_pool_holds_all_relevant_documents_and_fills_up_rank_by_rank():
    scores = np.arange(24.0).reshape(2, 12)
    assert pool_of([[0], [1]], scores, 9) == [0, 1, 5, 6, 7, 8, 9, 10, 11]
    assert pool_of([[0], [1]], scores, 2) == [0, 1, 7, 8, 9, 10, 11], "a small pool still has all of these"
    assert pool_of([[0], [1]], scores, 100) == list(range(12))


def test_query_types():
    found = query_types(["a b", "a b c d", "a b"], [["1"], ["1", "2"], ["3"]], [0.0, 0.5, 1.0])
    assert list(found.values()) == [
        ["short", "long", "short"],
        ["one", "several", "one"],
        ["holds none", "holds one", "holds one"],
    ]


# --- folds ----------------------------------------------------------------------------------------------------------


def queries_of(texts):
    return Collection({}, {}, texts, dict.fromkeys(texts, frozenset(["d"])))


def test_every_query_is_tested_in_one_fold_and_never_trained_on_there():
    whole = queries_of({f"q{i}": f"text {i}" for i in range(200)})
    folds = [divided(whole, 3, seed) for seed in (1, 2, 3)]
    assert sorted(query for fold in folds for query in fold.tested) == sorted(whole.queries)
    for seed, fold in zip((1, 2, 3), folds, strict=True):
        assert {fold_of(query, 3) for query in fold.tested} == {seed % 3}
        assert not set(fold.trained) & set(fold.tested)
        assert len(fold.trained) + len(fold.tested) == 200
        check_apart(whole, set(fold.trained), fold.tested)


def test_a_query_with_the_text_of_a_tested_one_is_not_trained_on():
    texts = {f"q{i}": "the  SAME text" if i % 2 else f"text {i}" for i in range(40)}
    whole = queries_of(texts)
    fold = divided(whole, 3, 1)
    assert any(texts[query] == "the  SAME text" for query in fold.tested)
    assert not any(texts[query] == "the  SAME text" for query in fold.trained)
    twin = next(query for query in texts if texts[query] == "the  SAME text" and query not in fold.tested)
    with pytest.raises(AuditFailed, match=f"query {twin}, which has its text, was trained on"):
        check_apart(whole, {twin}, fold.tested)
    with pytest.raises(AuditFailed, match=f"query {fold.tested[0]} was trained on"):
        check_apart(whole, {fold.tested[0]}, fold.tested)


# --- reading --------------------------------------------------------------------------------------------------------


def test_a_collection_is_read_and_hashed(tmp_path):
    folder = made(
        tmp_path / "c", {"1": "owl", "2": "wren"}, {"a": "o", "b": "w"}, [("a", 1, 1), ("b", 2, 0), ("a", 2, 2)]
    )
    found = read_collection(str(folder))
    assert found.queries == {"a": "o"}, "a query without a relevant document is left out"
    assert found.relevant == {"a": frozenset(["1", "2"])}
    before = collection_sha256(str(folder))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na\t1\t1\n")
    assert collection_sha256(str(folder)) != before
    assert read_collection(str(folder)).first(1).queries == {"a": "o"}


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda folder: (folder / "qrels" / "test.tsv").unlink(), r"c: folder: has no qrels/\*.tsv"),
        (lambda folder: (folder / "corpus.jsonl").unlink(), "corpus.jsonl: folder: cannot be read: No such file"),
        (lambda folder: (folder / "corpus.jsonl").write_text("{"), "corpus.jsonl: folder: line 1 is not JSON"),
        (
            lambda folder: (folder / "queries.jsonl").write_text("[]"),
            "queries.jsonl: folder: line 1 has no _id and text",
        ),
        (
            lambda folder: (folder / "qrels" / "test.tsv").write_text("h\na 1"),
            "line 2 is not query, document and grade",
        ),
        (
            lambda folder: (folder / "qrels" / "test.tsv").write_text("h\na\t9\t1"),
            "names the document '9', which is not",
        ),
        (lambda folder: (folder / "qrels" / "test.tsv").write_text("h\na\t1\t0"), "no query has a relevant document"),
    ],
)
def test_a_broken_collection_is_refused_in_one_line(tmp_path, breaks, message):
    folder = made(tmp_path / "c", {"1": "owl"}, {"a": "o"}, [("a", 1, 1)])
    breaks(folder)
    with pytest.raises(BadInput, match=message):
        read_collection(str(folder))


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no such folder \(it needs corpus.jsonl, queries.jsonl and qrels"):
        read_collection(str(tmp_path / "none"))


def test_too_few_queries_are_refused():
    with pytest.raises(BadInput, match="leaves no query to"):
        divided(queries_of({"q": "text"}), 3, 1)
