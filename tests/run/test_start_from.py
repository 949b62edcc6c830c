"""A run that starts from the weights of another run: which weights, what the record says, and what is refused."""

from contextlib import contextmanager

import pytest
import torch
from tiny_run import tiny_spec

from palinode import Arm, Decision, Experiment, Store, modern
from palinode.analysis.audits import failed_about_run
from palinode.audit.runs import audit_comparison
from palinode.base.config import encode
from palinode.base.errors import AuditFailed, BadInput, Damaged
from palinode.base.finding import AuditReport, Finding
from palinode.data.source import prepare
from palinode.experiment.cells import cells_of, pinned
from palinode.experiment.plan import plan
from palinode.experiment.sources import refuse_sources
from palinode.results.record import ArmEntry, ExperimentEntry, RunEntry
from palinode.run.one import Attempt, build_model, run_one
from palinode.run.start import refuse_shapes
from palinode.run.trained import load_trained
from palinode.spec.start import StartFrom, with_seed


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def first(corpus, store):
    """A finished run of 12 steps, with checkpoints of steps 10 and 12."""
    spec = tiny_spec(corpus, steps=12, evaluate_every=None)
    return spec, run_one(spec, store)


def following(first, **start):
    spec, _ = first
    return spec.with_(start_from=StartFrom(run=spec.run_id, **start), seed=2)


def begun(spec, store):
    attempt = Attempt.begin(spec, store, lambda event: None)
    attempt.hold.release()
    return attempt


def test_the_first_weights_are_the_last_of_the_source(first, store):
    spec, result = first
    attempt = begun(following(first), store)
    source = load_trained(spec, store).model.state_dict()
    assert all(torch.equal(value, source[name]) for name, value in attempt.training.model.state_dict().items())
    assert attempt.start.stored() == {"run": spec.run_id, "step": 12, "weights_sha256": result.weights_sha256}
    assert not any(optimizer.state for optimizer in attempt.training.optimizers)


def test_the_result_names_its_source_and_counts_the_tokens_of_all_runs_before(first, store):
    _, result = first
    second = following(first)
    own = run_one(second, store)
    assert own.start["weights_sha256"] == result.weights_sha256
    assert own.weights_sha256 != result.weights_sha256
    assert own.counters["tokens_read_before"] == result.counters["tokens_read"]
    third = run_one(second.with_(start_from=StartFrom(run=second.run_id)), store)
    assert third.counters["tokens_read_before"] == result.counters["tokens_read"] + own.counters["tokens_read"]
    runs = [(arm, "base", spec, store.record(spec.run_id)) for arm, spec in (("new", first[0]), ("on", second))]
    findings = {one.check: one for one in audit_comparison(runs, equal="tokens_read", models_differ=False).findings}
    assert "tokens_read_before at base: 0 (new)" in findings["C5.differences"].message


def test_a_step_names_an_earlier_checkpoint(first, store):
    attempt = begun(following(first, step=10), store)
    assert attempt.start.step == 10
    assert attempt.start.tokens_read < first[1].counters["tokens_read"]


def test_the_source_is_part_of_the_id_and_its_absence_is_not(first):
    spec, _ = first
    assert following(first).run_id != spec.with_(seed=2).run_id
    assert spec.with_(start_from=None).run_id == spec.run_id


def test_a_missing_step_names_those_that_are_kept(first, store):
    with pytest.raises(BadInput, match="no checkpoint of step 5.*kept: 6, 10, 12"):
        begun(following(first, step=5), store)


def test_a_source_that_is_gone_is_one_line(first, tmp_path):
    spec = following(first)
    with pytest.raises(BadInput, match="start_from: no run"):
        run_one(spec, Store(tmp_path))


def test_another_shape_is_refused_with_both_shapes(first, store):
    spec = following(first)
    with pytest.raises(BadInput, match=r"embedding.weight is \d+ x 16 there, \d+ x 32 here"):
        begun(spec.with_(model=modern(layers=1, width=32, heads=2)), store)
    with pytest.raises(BadInput, match="blocks.1.* is missing there"):
        begun(spec.with_(model=modern(layers=2, width=16, heads=2, dropout=0.1)), store)


def test_more_rows_in_a_table_are_accepted_and_fewer_are_not(first):
    spec, _ = first
    model, _ = build_model(spec, prepare(spec.data), 1)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    rows, width = shapes["embedding.weight"]
    refuse_shapes(model, shapes | {"embedding.weight": (rows - 3, width)})
    with pytest.raises(BadInput, match="embedding.weight"):
        refuse_shapes(model, shapes | {"embedding.weight": (rows + 3, width)})


def test_damaged_weights_are_not_taken(first, store, tmp_path):
    spec, _ = first
    other = Store(tmp_path / "copy")
    directory = other.write_spec(spec.run_id, encode(spec))
    source = store.run_directory(spec.run_id)
    for name in ("result.json", "audit.json"):
        directory.joinpath(name).write_bytes(source.joinpath(name).read_bytes())
    with pytest.raises(Damaged, match="no checkpoint"):
        begun(following(first), other)


# --- in an experiment -----------------------------------------------------------------------------------------------


def experiment(corpus, *arms, **more):
    base = tiny_spec(corpus, steps=12, evaluate_every=None).settings
    every = (Arm(name="ltr"), Arm(name="on", change={"start_from": StartFrom(run="arm:ltr")}), *arms)
    return Experiment(name="x", question="?", base=base, arms=every, decision=Decision(baseline="ltr"), **more)


def test_an_arm_stands_for_its_run_at_the_same_scale_with_the_same_seed(corpus):
    resolved = pinned(experiment(corpus, seeds=(1, 2)).resolve())
    ids = {(run.arm, run.seed): run.spec.run_id for run in resolved.runs}
    starts = {run.seed: run.spec.start_from.run for run in resolved.runs if run.arm == "on"}
    assert starts == {1: ids["ltr", 1], 2: ids["ltr", 2]}


def test_a_later_seed_starts_from_the_run_of_its_own_seed(corpus):
    first = pinned(experiment(corpus, seeds=(1,)).resolve()).runs
    later = experiment(corpus, seeds=(2,)).resolve()
    again = pinned(later.with_(runs=tuple(with_seed(run, 2, first) for run in first)))
    assert [run.spec for run in again.runs] == [run.spec for run in pinned(later).runs]


def test_the_plan_counts_the_tokens_before(corpus, store):
    resolved = pinned(experiment(corpus, seeds=(1,)).resolve())
    cells = cells_of(resolved)
    first, second = plan(resolved, cells, store, workers=1, measure="never").cells
    assert (first.tokens_read_before, second.tokens_read_before) == (0, first.tokens_read)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("arm:lrt", "no arm is named 'lrt'.*ltr"),
        ("arm:more", "more starts from more, so none can begin"),
        ("54f7", "neither a run id"),
        ("arm:", "names no arm"),
    ],
)
def test_an_arm_that_cannot_be_followed_is_refused(corpus, run, message):
    with pytest.raises((BadInput, ValueError), match=message):
        experiment(corpus, Arm(name="more", change={"start_from": {"run": run}})).resolve()


def test_an_arm_that_follows_a_leaking_one_must_say_so(corpus):
    leaking = Arm(name="leak", expect_leak=True, change={"recipe.steps": 11})
    with pytest.raises(BadInput, match="marked expect_leak, so this arm must be marked too"):
        experiment(corpus, leaking, Arm(name="more", change={"start_from": {"run": "arm:leak"}})).resolve()


def test_a_source_that_failed_its_audit_is_refused_unless_the_arm_may_leak(first, corpus, store, tmp_path):
    spec, result = first
    change = {"start_from": StartFrom(run=spec.run_id)}
    cells = {
        leak: cells_of(pinned(experiment(corpus, Arm(name="more", change=change, expect_leak=leak)).resolve()))
        for leak in (False, True)
    }
    refuse_sources(cells[False], store)
    with pytest.raises(BadInput, match="arms.more.change.start_from: no run"):
        refuse_sources(cells[False], Store(tmp_path))
    with failing(store, spec):
        with pytest.raises(AuditFailed, match="failed its audit, C1.gradient: slot 3 sees slot 4"):
            refuse_sources(cells[False], store)
        refuse_sources(cells[True], store)


@contextmanager
def failing(store, spec, check="C1.gradient"):
    """The store while the audit of this run has failed."""
    failed = Finding(check=check, law="x", outcome="fail", message="slot 3 sees slot 4")
    report = store.record(spec.run_id).audit_report()
    store.write_run_audit(spec.run_id, AuditReport(subject=spec.run_id, findings=(failed,)))
    try:
        yield
    finally:
        store.write_run_audit(spec.run_id, report)


def test_a_source_of_the_same_experiment_is_judged_when_the_run_begins_and_leaves_its_stamp(first, store):
    source, _ = first
    spec = following(first).with_(seed=7)
    marks = {"none": {}, "collapse": {"expect_collapse": True}, "leak": {"expect_leak": True}}
    entries = {
        name: ExperimentEntry(
            name=f"of {name}",
            size="default",
            arms=(ArmEntry(name="on", **mark),),
            runs=(RunEntry(arm="on", scale="base", seed=7, run_id=spec.run_id),),
        )
        for name, mark in marks.items()
    }
    for name in ("none", "collapse"):
        store.write_experiment(entries[name])
    with failing(store, source, "C7.variance"):
        begun(spec, store)
    with failing(store, source):
        with pytest.raises(AuditFailed, match="start_from: run .* failed its audit, C1.gradient: slot 3 sees slot 4"):
            begun(spec, store)
        store.write_experiment(entries["leak"])
        assert run_one(spec, store).outcome == "done"
    [stamp] = failed_about_run(store, spec.run_id)
    assert stamp.shows_leak
    assert stamp.message == f"starts from run {source.run_id}: slot 3 sees slot 4"
