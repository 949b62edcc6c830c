"""A retriever is trained from the weights of a run and scored, on a tiny random Llama and twelve documents."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_run import tiny_spec

from palinode import (
    Arm,
    ChooseObjective,
    Claim,
    Constant,
    Decision,
    EvaluationConfig,
    Experiment,
    HfModel,
    LtrObjective,
    Retrieval,
    Store,
    modern,
)
from palinode.analysis.queries import retrieval_table, type_table
from palinode.analysis.verdict import verdicts
from palinode.base.errors import AuditFailed, BadInput, EnvironmentProblem
from palinode.data.retrieval import Fold, collection_sha256, divided, fold_of
from palinode.experiment.calibrate import measure
from palinode.experiment.cells import pinned
from palinode.report.build import build_report
from palinode.report.findings import write_findings
from palinode.report.retrieval_figures import retrieval_content, retrieval_figures
from palinode.report.study import Study
from palinode.results.record import ArmEntry, ExperimentEntry, RunEntry
from palinode.results.verify import verify
from palinode.run.one import run_one
from palinode.run.retrieval import Task, trained_retriever
from palinode.run.trained import load_trained
from palinode.train.optim import AdamW
from palinode.train.recipe import Recipe
from palinode.train.schedule import Constant as ConstantRate
from tiny_llama import save_tiny_llama

pytest.importorskip("bm25s")
BIRDS = ("owl", "wren", "lark", "swan", "crow", "rook", "tern", "gull", "kite", "dove", "rail", "ibis")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def write_collection(folder, queries=18):
    """Twelve documents about a bird each; every query names the bird of its document."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": bird, "text": f"The {bird} flies far."} for i, bird in enumerate(BIRDS)]
    asked = [{"_id": f"q{i}", "text": f"where {i} is the {BIRDS[i % 12]}"} for i in range(queries)]
    for name, rows in (("corpus", documents), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    grades = "".join(f"q{i}\td{i % 12}\t1\n" for i in range(queries))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{grades}")
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("birds") / "beir")


def spec_of(corpus, llama, collection, run_steps=2, readings=("full",), **changes):
    asked = Retrieval(
        folder=str(collection), readings=readings, depth=1, width=8, batch=4, steps=4, pool=12, learning_rate=1e-3
    )
    return tiny_spec(
        corpus,
        model=HfModel(source=str(llama), rtl_positions="text").pinned(),
        objective=ChooseObjective(p=Constant(p=0.5)),
        recipe=Recipe(steps=run_steps, batch_windows=2, optimizer=AdamW(learning_rate=0.01), schedule=ConstantRate()),
        evaluation=EvaluationConfig(max_tokens=100, retrieval=asked.with_(**changes)),
    )


@pytest.fixture(scope="module")
def done(corpus, llama, collection, tmp_path_factory):
    """Arms `ltr` (two steps) and `as is` (none), with the seeds 1 and 2: (store, (arm, seed) -> (spec, result))."""
    store, found = Store(tmp_path_factory.mktemp("runs")), {}
    for arm, steps in (("ltr", 2), ("as is", 0)):
        for seed in (1, 2):
            spec = spec_of(corpus, llama, collection, steps).with_(seed=seed)
            found[arm, seed] = spec, run_one(spec, store)
    return store, found


def test_the_scores_of_every_query_are_kept_and_their_means_are_metrics(done):
    store, found = done
    spec, result = found["ltr", 1]
    row = store.record(spec.run_id).retrieval
    tested = row.queries
    assert tested
    assert {fold_of(query, 3) for query in tested} == {1}
    assert set(row.by_query) == {"retrieval_full", "mean_full", "bm25"}
    for name, one in row.by_query.items():
        for kind, values in one.items():
            assert result.score(f"validation.{name}.{kind}") == pytest.approx(sum(values) / len(values))
    assert result.sentences["bm25"]["count"] == len(tested)
    assert result.score("validation.bm25.ndcg_at_10") == 1.0, "each query names the one bird of its document"
    assert [one.query for one in row.shown] == tested[:10]
    assert all(one.first["bm25"] == one.relevant[0] and one.rank["bm25"] == 1 for one in row.shown)
    assert verify(store).damaged == ()


def test_a_run_of_no_steps_reads_no_tokens_and_is_scored(done):
    _, found = done
    _, result = found["as is", 1]
    assert result.outcome == "done"
    assert (result.counters["tokens_read"], result.counters["optimizer_steps"]) == (0, 0)
    assert 0 < result.score("validation.retrieval_full.ndcg_at_10") <= 1


def test_the_retriever_changes_no_weight_of_the_run_and_no_other_score(done, corpus, llama, tmp_path):
    _, found = done
    spec, result = found["ltr", 1]
    plain = spec.with_(evaluation=spec.evaluation.with_(retrieval=None))
    assert plain.run_id == spec.with_(evaluation=EvaluationConfig(max_tokens=100)).run_id != spec.run_id
    without = run_one(plain, Store(tmp_path))
    assert without.weights_sha256 == result.weights_sha256
    assert without.scores == result.scores


def test_arms_with_one_seed_are_trained_on_the_same_batches(done):
    store, found = done
    tasks = [Task.of(load_trained(found[arm, 1][0], store)) for arm in ("ltr", "as is")]
    assert tasks[0].batch(3)[0] == tasks[1].batch(3)[0]
    assert tasks[0].pool == tasks[1].pool
    retriever, losses = trained_retriever(tasks[0], "full")
    again, same = trained_retriever(tasks[0], "full")
    assert losses == same
    assert torch.equal(retriever.map.weight, again.map.weight)


@pytest.fixture(scope="module")
def experiment(done):
    """The store with the four runs as an experiment."""
    store, found = done
    rule = {"baseline": "ltr", "metric": "validation.retrieval_full.ndcg_at_10", "better": "higher"}
    runs = [RunEntry(arm=arm, scale="base", seed=seed, run_id=spec.run_id) for (arm, seed), (spec, _) in found.items()]
    arms = (ArmEntry(name="ltr"), ArmEntry(name="as is"))
    entry = ExperimentEntry(
        name="birds",
        size="smoke",
        decision={**rule, "over": "seeds and text"},
        arms=arms,
        seeds=(1, 2),
        runs=tuple(runs),
        claims=(
            Claim(name="D", sentence="More text finds more.", measure="difference", arm="as is", against=("ltr",)),
        ),
    )
    store.write_experiment(entry)
    return store.experiment("birds--smoke")


def test_the_verdict_is_over_seeds_and_over_queries(done, experiment):
    store, found = done
    record = experiment
    verdict = verdicts(record)[0]
    differences = [
        np.array(store.record(found["as is", seed][0].run_id).retrieval.by_query["retrieval_full"]["ndcg_at_10"])
        - np.array(store.record(found["ltr", seed][0].run_id).retrieval.by_query["retrieval_full"]["ndcg_at_10"])
        for seed in (1, 2)
    ]
    assert verdict.improvement == pytest.approx(np.mean([one.mean() for one in differences]))
    assert verdict.deciding.text.documents == sum(map(len, differences))
    assert verdict.deciding.over == "seeds and text"
    levels = retrieval_table(record).filter(measure="ndcg_at_10", retriever="bm25")
    assert levels["mean"].to_list() == [1.0, 1.0]
    assert set(type_table(record)["way"]) >= {"relevant documents", "words of the query"}
    study = Study.of(record)
    names = [figure.name for figure in retrieval_figures(study)]
    assert names == ["retrieval_full-ndcg", "mean_full-ndcg"]
    content = retrieval_content(record)
    assert content["retriever"] == "late interaction, read without a mask"
    assert [one["arm"] for one in content["shown"][0]["firsts"]] == ["ltr", "as is", "BM25"]


def test_the_page_of_findings_has_every_retriever_every_type_and_the_queries(done, experiment, tmp_path):
    store, _ = done
    page, numbers, *figures = write_findings(store, "birds--smoke", tmp_path)
    text, content = page.read_text(), json.loads(numbers.read_text())["retrieval"]
    assert [path.name for path in figures] == ["birds--smoke.svg", "birds--smoke-ndcg.svg"]
    assert "![nDCG@10 of each arm with its interval over queries, beside BM25](birds--smoke-ndcg.svg)" in text
    assert "as is" in figures[1].read_text()
    levels = {(row["arm"], row["retriever"]): row for row in content["levels"]}
    assert len(levels) == 5, "two retrievers of two arms, and BM25 once"
    row = levels["as is", "Late interaction, read without a mask"]
    table = retrieval_table(experiment).filter(arm="as is", retriever="retrieval_full").sort("measure")
    assert [row["ndcg_at_10"], row["recall_at_100"]] == pytest.approx(table["mean"].to_list(), rel=1e-9)
    assert (
        f"| as is | base | {row['retriever']} | {row['ndcg_at_10']:.3f} | {row['low']:.3f} to {row['high']:.3f} |"
        in text
    )
    assert "| every arm | base | BM25 | 1.000 |" in text
    assert "| relevant documents: one |" in text
    assert text.count("| arm | ranks first | rank |") == len(content["shown"]) > 0
    assert "deviation, seeds" not in text


@pytest.mark.nightly
@pytest.mark.usefixtures("experiment")
def test_the_page_has_the_section(done, tmp_path):
    store, _ = done
    page = build_report(store, "birds--smoke", tmp_path).read_text()
    assert "nDCG@10 by the type of a query (late interaction, read without a mask)" in page
    assert "What each arm ranks first" in page
    assert (tmp_path / "figures" / "retrieval_full-ndcg.svg").is_file()


def test_a_query_that_is_tested_and_trained_on_fails_the_run(corpus, llama, collection, tmp_path, monkeypatch):
    def leaking(whole, folds, seed):
        fold = divided(whole, folds, seed)
        return Fold((*fold.trained, *fold.tested), fold.tested)

    monkeypatch.setattr("palinode.run.retrieval.divided", leaking)
    with pytest.raises(AuditFailed, match=r"evaluation.retrieval: query q\d+ is tested, and query q\d+ was trained on"):
        run_one(spec_of(corpus, llama, collection, 0, steps=20), Store(tmp_path))


def test_a_plan_counts_the_seconds_of_the_retriever(corpus, llama, collection, tmp_path):
    spec = spec_of(corpus, llama, collection, 1)
    calibration, _ = measure(spec, Store(tmp_path / "with"), 0.0)
    assert calibration.retrieval_seconds > 0
    shorter = replace(calibration, retrieval_seconds=0.0)
    counted = calibration.predicted_seconds(spec) - shorter.predicted_seconds(spec)
    assert counted == pytest.approx(calibration.retrieval_seconds)


def test_a_plan_predicts_a_model_that_is_not_trained(corpus, llama, collection, tmp_path):
    """It stopped with the error `no median for empty data`."""
    spec = spec_of(corpus, llama, collection, run_steps=0)
    calibration, product_share = measure(spec, Store(tmp_path / "with"), 0.0)
    assert (calibration.seconds_per_slot, product_share) == (0.0, None)
    assert calibration.predicted_seconds(spec) > calibration.retrieval_seconds > 0


# --- settings -------------------------------------------------------------------------------------------------------


def test_resolving_pins_the_folder_and_a_metric_needs_its_reading(corpus, llama, collection):
    experiment = Experiment(
        name="birds",
        question="Which birds?",
        base=spec_of(corpus, llama, collection).settings,
        arms=(Arm(name="both"), Arm(name="ltr", change={"objective": LtrObjective()})),
        seeds=(1,),
        decision=Decision(metric="validation.retrieval_full.recall_at_100", baseline="ltr", better="higher"),
    )
    for run in pinned(experiment.resolve()).runs:
        assert run.spec.evaluation.retrieval.folder_sha256 == collection_sha256(str(collection))
    for metric in ("validation.retrieval_ltr.ndcg_at_10", "validation.mean_both.ndcg_at_10"):
        with pytest.raises(BadInput, match=f"{metric} is not measured"):
            experiment.with_(decision=Decision(metric=metric, baseline="ltr", better="higher")).resolve()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": "./none"}, r"./none: evaluation.retrieval.folder: no such folder"),
        ({"folder_sha256": "0" * 64}, "evaluation.retrieval.folder_sha256: .* the spec was resolved with 000000000000"),
        ({"depth": 3}, "evaluation.retrieval.depth: 3 blocks are more than the 2 of the model"),
        ({"queries": 4, "folds": 50}, "evaluation.retrieval.folds: fold 1 of 50 leaves no query to"),
    ],
)
def test_a_retriever_that_cannot_be_is_refused_before_training(corpus, llama, collection, tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        run_one(spec_of(corpus, llama, collection, **changes), Store(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_our_own_models_are_refused_with_what_would_do(corpus, llama, collection, tmp_path):
    spec = spec_of(corpus, llama, collection).with_(model=modern(layers=1, width=16, heads=2))
    with pytest.raises(BadInput, match=r"depth: a Decoder gives no copy of its first blocks \(an open model"):
        run_one(spec, Store(tmp_path / "runs"))


def test_bm25s_is_asked_for_before_training(corpus, llama, collection, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(EnvironmentProblem, match="bm25s is not installed"):
        run_one(spec_of(corpus, llama, collection), Store(tmp_path / "runs"))


@pytest.mark.nightly
@pytest.mark.usefixtures("real_audit")
@pytest.mark.parametrize("steps", [2, 0])
def test_every_reading_is_scored_and_the_run_is_audited(corpus, llama, collection, tmp_path, steps):
    store = Store(tmp_path / "runs")
    spec = spec_of(corpus, llama, collection, steps, ("full", "ltr", "both"))
    result = run_one(spec, store)
    assert result.outcome == "done"
    assert store.record(spec.run_id).audit_report().outcome != "fail"
    assert set(store.record(spec.run_id).retrieval.by_query) == set(spec.evaluation.retrieval.retrievers)
