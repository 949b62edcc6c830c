"""A longer run that begins with the checkpoint of a shorter one has the bits of a run that was longer from the start."""

import pytest
from tiny_run import tiny_spec

from palinode import BothObjective, Store, p, rate
from palinode.base import fsio
from palinode.base.errors import BadInput
from palinode.run.longer import begin_with
from palinode.run.one import Attempt, run_one
from palinode.spec.longer import refuse_other_length, shared_steps, stable_step

SHORT, LONG = 16, 24
UNSTABLE = ("attempt", "seconds")
SCHEDULES = {
    "warm-down": (rate.WarmDown(share=0.5), 8),
    "constant": (rate.Constant(warmup_steps=2), 16),
    "power-decay": (rate.PowerDecay(warmup_steps=3), 16),
    "exponential-decay": (rate.ExponentialDecay(base=0.9), 16),
}


@pytest.fixture(autouse=True)
def no_audit(monkeypatch):
    monkeypatch.setattr(Attempt, "audit", lambda self: None)


def spec_of(corpus, steps, schedule, evaluate_every=None):
    spec = tiny_spec(corpus, 20, None)
    changes = {"steps": steps, "schedule": schedule, "log_every_steps": 5, "evaluate_every_steps": evaluate_every}
    return spec.with_(recipe=spec.recipe.with_(**changes, checkpoint_every_steps=6, keep_checkpoints=1))


def stop_before(step):
    """What stops a run before its step of this number, counted from where the run goes on."""
    seen = []
    return lambda: seen.append(0) or len(seen) > step


def record_of(spec, store):
    """All that a clock and an interruption do not change."""
    record = store.record(spec.run_id)
    rows = [{key: value for key, value in row.items() if key not in UNSTABLE} for row in record.metrics]
    return record.result.weights_sha256, record.result.scores, record.result.counters, rows


@pytest.mark.parametrize(
    "kind", ["warm-down", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in list(SCHEDULES)[1:])]
)
def test_it_has_equal_bits_also_when_everything_is_interrupted(kind, corpus, tmp_path, monkeypatch):
    schedule, shared = SCHEDULES[kind]
    short, longer = (spec_of(corpus, steps, schedule) for steps in (SHORT, LONG))
    assert shared_steps(short, LONG) == stable_step(short) == shared
    scratch, store = Store(tmp_path / "scratch"), Store(tmp_path / "runs")
    run_one(longer, scratch)
    run_one(short, store, should_stop=stop_before(7))
    assert run_one(short, store).outcome == "done"

    def killed(label, act=None):
        if label == "extend.tensors_written":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fsio, "crash_point", killed)
        with pytest.raises(KeyboardInterrupt):
            begin_with(short, longer, store)
    assert begin_with(short, longer, store) == shared
    notes = []
    first = run_one(longer, store, on_event=notes.append, should_stop=stop_before(3))
    assert (first.outcome, first.counters["optimizer_steps"]) == ("stopped", shared + 3)
    assert {"event": "note", "message": f"going on from step {shared}"} in notes
    assert run_one(longer, store).outcome == "done"
    assert record_of(longer, store) == record_of(longer, scratch)


@pytest.mark.nightly
def test_an_evaluation_that_the_shorter_run_did_not_make_is_made(corpus, tmp_path):
    """The shorter run makes no curve evaluation after its last step, where the longer one makes one."""
    short, longer = (spec_of(corpus, steps, rate.Constant(), evaluate_every=8) for steps in (SHORT, LONG))
    assert stable_step(short) == 12
    scratch, store = Store(tmp_path / "scratch"), Store(tmp_path / "runs")
    run_one(longer, scratch)
    run_one(short, store)
    assert begin_with(short, longer, store) == 12
    run_one(longer, store)
    assert record_of(longer, store) == record_of(longer, scratch)


def test_without_a_checkpoint_it_begins_at_its_start(corpus, tmp_path):
    short, longer = (spec_of(corpus, steps, rate.Constant()) for steps in (SHORT, LONG))
    assert begin_with(short, longer, Store(tmp_path / "runs")) == 0
    assert not (tmp_path / "runs" / longer.run_id).exists()


def test_runs_that_depend_on_the_length_are_refused(corpus):
    cosine = spec_of(corpus, SHORT, rate.Cosine(warmup_steps=2))
    moving = spec_of(corpus, SHORT, rate.Constant()).with_(objective=BothObjective(p=p.Linear(p_start=0.0, p_end=1.0)))
    limited = spec_of(corpus, SHORT, rate.Constant())
    limited = limited.with_(recipe=limited.recipe.with_(max_tokens_read=10**6))
    for spec, words in (
        (cosine, r"cosine depends on the length \(start_from begins a second phase\)"),
        (moving, "p of both depends on the length"),
        (limited, "a token limit depends on the length"),
    ):
        assert stable_step(spec) == 0
        with pytest.raises(BadInput, match=words):
            refuse_other_length(spec, LONG)
    with pytest.raises(BadInput, match="16 is not more than the 16 steps"):
        refuse_other_length(spec_of(corpus, SHORT, rate.Constant()), SHORT)
