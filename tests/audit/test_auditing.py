"""The arms of the demo through their own trainer and evaluator: honest arms pass, the published mask fails, caches hold."""

import json
from pathlib import Path

import pytest
import torch

from palinode import Store
from palinode.audit import arms, audit_arm, audit_comparison, audit_trained, cache, runs, text_floor
from palinode.audit.trainer_bench import TrainerBench
from palinode.base.config import content_hash, encode
from palinode.base.finding import seconds_together
from palinode.checks.canary import CanarySettings, PassCheck, check_canary
from palinode.data.store import prepare
from palinode.experiment.audits import audit_ahead
from palinode.models.decoder import Decoder
from palinode.objectives.directional import BothObjective
from palinode.objectives.probability import Constant
from palinode.run.one import run_one
from palinode.run.trained import load_trained
from palinode.spec.load import load
from palinode.spec.run_spec import RunSpec

DEMO = Path(__file__).parents[2] / "experiments" / "demo.py"
SMALL = {
    "data.window_tokens": 32,
    "model.width": 32,
    "model.layers": 1,
    "recipe.steps": 20,
    "recipe.evaluate_every_steps": 10,
}


@pytest.fixture(scope="module")
def demo():
    return load(DEMO).experiment.resolve(None, SMALL, (1, 2))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def measured_ahead(demo, store) -> None:
    """Both cores at work; what the tests below look at was measured by other processes."""
    specs = [RunSpec.of(demo.settings(arm.name, "base"), seed=1) for arm in demo.arms]
    audit_ahead(specs, store, None, workers=2)
    assert not any(arms.missing_parts(spec.settings, store) for spec in specs)


@pytest.fixture(scope="module")
def audited(demo, store, measured_ahead):
    return {arm.name: audit_arm(demo.settings(arm.name, "base"), name=arm.name, store=store) for arm in demo.arms}


@pytest.mark.parametrize("arm", ["ltr", "both"])
def test_every_check_passes_on_an_honest_arm(audited, arm):
    findings = audited[arm].report.findings
    assert [(f.check, f.message) for f in findings if f.outcome != "pass"] == []
    assert {f.check.partition(".")[0] for f in findings} == {"C1", "C2", "C3", "C4", "C6", "C9"}


def test_the_published_mask_is_caught_by_flow_and_canary_with_the_positions_named(audited):
    report = audited["both-published-mask"].report
    failed = {f.check for f in report.leaks}
    assert {"C1.perturbation", "C2.canary"} <= failed
    named = next(f for f in report.leaks if f.check == "C1.perturbation")
    assert "15 of 16 targets see themselves" in named.message
    assert all("rtl" in f.message for f in report.leaks if f.check in ("C1.perturbation", "C2.canary"))


def test_the_seconds_of_audits_together_count_a_shared_part_once(audited):
    reports = [one.report for one in audited.values()]
    assert all(report.seconds == pytest.approx(sum(report.parts.values())) for report in reports)
    shared = set.intersection(*(set(report.parts) for report in reports))
    assert len(shared) == 1, "the arms have one data set"
    [data] = shared
    more_than_once = sum(report.parts[data] for report in reports[1:])
    assert seconds_together(reports) == pytest.approx(sum(report.seconds for report in reports) - more_than_once)


def test_a_stored_audit_is_not_measured_again(demo, store, audited, monkeypatch):
    for name in ("_model_findings", "_canary_findings", "_evaluation_findings", "_data_findings"):
        monkeypatch.setattr(arms, name, lambda *arguments: pytest.fail("measured again"))
    again = audit_arm(demo.settings("ltr", "base"), name="ltr", store=store)
    assert again == audited["ltr"]


def test_the_cache_key_follows_what_an_audit_depends_on(demo):
    settings = demo.settings("ltr", "base")
    data = prepare(settings.data)
    wider = settings.with_(model=settings.model.with_(width=64))
    longer = settings.with_(data=settings.data.with_(window_tokens=96))
    assert arms._model_key(settings, data) != arms._model_key(wider, data)
    assert arms._model_key(settings, data) != arms._model_key(longer, data)
    assert arms._data_key(settings, data) == arms._data_key(wider, data)
    assert arms._canary_key(settings) == arms._canary_key(wider) == arms._canary_key(longer), "all train one canary"
    assert arms._canary_key(settings) != arms._canary_key(demo.settings("both", "base"))
    larger = wider.with_(model=wider.model.with_(width=512))
    assert arms._evaluation_key(wider, data) == arms._evaluation_key(larger, data), "both are checked on a small one"
    other = settings.with_(recipe=settings.recipe.with_(micro_batches=2))
    assert arms._evaluation_key(settings, data) != arms._evaluation_key(other, data)
    assert arms._data_key(settings, data) != arms._data_key(longer, data)


def passes_of(settings) -> dict[str, str]:
    """Pass -> the hash of all that its canaries depend on, without their training."""
    subject = arms._subject_of_arm(settings, prepare(settings.data), "arm")
    passes: list[PassCheck] = []

    def keep(checks):
        passes.extend(checks)
        return []

    check_canary(subject, CanarySettings(markov_steps=0), keep)
    described = [one.depends_on() for one in passes]
    return {one["pass"]: content_hash(one) for one in described}


def test_arms_share_the_canaries_of_the_passes_that_they_read_in_the_same_way(demo):
    """The ltr pass of all three arms is one training; the rtl pass through the published mask is another one than the honest."""
    ltr, both, masked = (passes_of(demo.settings(arm.name, "base")) for arm in demo.arms)
    assert set(both) == set(masked) == {"ltr", "rtl"}
    assert ltr["ltr"] == both["ltr"] == masked["ltr"]
    assert len({ltr["ltr"], both["rtl"], masked["rtl"]}) == 3


def test_new_code_of_models_leaves_the_audit_of_the_data(demo, monkeypatch):
    """A part is measured again when the code of a room that it runs is new. The data of a large corpus take minutes."""
    settings, store = demo.settings("ltr", "base"), Store("nowhere")
    before, code = arms.missing_parts(settings, store), cache.source_of_rooms

    def kept_when_new(room: str) -> int:
        monkeypatch.setattr(cache, "source_of_rooms", lambda rooms: code(rooms) + ("new" if room in rooms else ""))
        return len(before & arms.missing_parts(settings, store))

    assert (len(before), kept_when_new("models"), kept_when_new("checks")) == (4, 1, 0)


def test_a_pass_with_another_shift_or_without_a_direction_token_is_another_training(demo):
    settings = demo.settings("ltr", "base")
    without = settings.with_(objective=settings.objective.with_(direction_token=False))
    assert passes_of(settings)["ltr"] != passes_of(without)["ltr"]


def test_the_findings_of_a_shared_pass_name_the_arm_that_measured_it(audited):
    shared = [
        one for one in audited["both"].report.findings if one.check == "C2.canary" and one.message.startswith("ltr")
    ]
    others = [one for one in audited["ltr"].report.findings if one.check == "C2.canary"]
    assert shared == others
    assert shared[0].reproduce["measured_for"]


def test_an_evaluation_that_draws_from_the_global_generator_is_caught(demo, monkeypatch):
    """M35 through the real wiring: the real evaluator, made to draw a number."""
    settings = demo.settings("ltr", "base")
    honest = TrainerBench.evaluate

    def draws(bench, model, passes, batch, order):
        torch.rand(1)
        return honest(bench, model, passes, batch, order)

    monkeypatch.setattr(TrainerBench, "evaluate", draws)
    findings = arms._evaluation_findings(settings, prepare(settings.data))
    failed = {f.check for f in findings if f.outcome == "fail"}
    assert "C3.leaves_no_trace" in failed


def test_trained_runs_and_their_comparison_are_audited(demo, store):
    records = []
    for run in demo.runs:
        if run.arm in ("ltr", "both"):
            run_one(run.spec, store)
            records.append((run.arm, run.scale, run.spec, store.record(run.spec.run_id)))
    report = store.record(records[0][2].run_id).audit_report()
    assert report.outcome == "pass"
    assert {f.check.partition(".")[0] for f in report.findings} == {"C1", "C6", "C8"}
    compared = audit_comparison(records, equal="window_tokens", models_differ=False)
    assert [(f.check, f.message) for f in compared.findings if f.outcome != "pass"] == []
    missing = [*records[:-1], (*records[-1][:3], None)]
    unequal = audit_comparison(records, equal="tokens_read", models_differ=False)
    assert {
        f.check
        for f in audit_comparison(missing, equal="window_tokens", models_differ=False).findings
        if f.outcome == "fail"
    }
    assert {f.check for f in unequal.findings if f.outcome == "fail"}


def test_trained_weights_that_peek_are_caught(demo, store, monkeypatch):
    """The real wiring of the audit after training, on a stack that adds the mean over time to every state."""
    spec = next(run.spec for run in demo.runs if run.arm == "ltr")
    trained = load_trained(spec, store)
    honest = Decoder.hidden

    def peeks(model, tokens, sees):
        states = honest(model, tokens, sees)
        return states + states.mean(dim=1, keepdim=True)

    monkeypatch.setattr(Decoder, "hidden", peeks)
    rows = store.record(spec.run_id).metrics
    report = audit_trained(trained, rows)
    assert any(f.check == "C1.perturbation" for f in report.leaks)
    assert any(f.check.startswith("C8") for f in report.findings), "the text of a loaded run is prepared for the audit"


def test_the_floor_of_a_text_is_counted_once_for_all_runs_on_it(demo, tmp_path, monkeypatch):
    """The second run takes the same numbers, to the last bit; another split or another share of it is counted anew."""
    whole, counted = demo.settings("ltr", "base"), []
    settings = whole.with_(data=whole.data.with_(max_train_tokens=20_000))
    data, honest, store = prepare(settings.data), text_floor.witten_bell, Store(tmp_path)
    monkeypatch.setattr(text_floor, "witten_bell", lambda *args: counted.append(len(args[1])) or honest(*args))
    first = text_floor.floor_of(settings, data, store)
    assert first == honest(data.tokens("train"), data.tokens("validation")[: counted[0]], data.vocab_size)
    wider = settings.with_(model=settings.model.with_(width=64))
    assert text_floor.floor_of(wider, data, store) == first
    assert len(counted) == 1
    shorter = settings.with_(evaluation=settings.evaluation.with_(max_tokens=500, curve_tokens=None))
    assert text_floor.floor_of(shorter, data, store) != first
    other = settings.with_(data=settings.data.with_(max_train_tokens=2_000))
    assert text_floor.floor_of(other, prepare(other.data), store) != first
    assert len(counted) == 3
    [kept] = [key for key in store.audits() if key == text_floor._key(settings, data)]
    (tmp_path / "audits" / f"{kept}.json").write_text("{")
    assert text_floor.floor_of(settings, data, store) == first, "a damaged part is measured again"
    text_floor.floor_of(settings, data, None)
    assert len(counted) == 5, "without a store nothing is kept"


def test_a_run_keeps_the_floor_of_its_text(demo, store):
    spec = next(run.spec for run in demo.runs if run.arm == "ltr")
    run_one(spec, store)
    held = store.audit(text_floor._key(spec, prepare(spec.data)))
    assert held is not None
    assert held.findings[0].numbers["nats_per_token_order_1"] > 1


def test_reports_are_plain_json(audited):
    for arm in audited.values():
        assert json.loads(json.dumps(encode(arm.report), allow_nan=False))


class Tabled(BothObjective):
    """An objective of a user. Python cannot hash its table."""

    table: dict[str, float] = {}


def test_decisions_are_drawn_once_for_an_objective_and_a_seed(demo):
    both = RunSpec.of(demo.settings("both", "base"), seed=1)
    other = both.with_(objective=Tabled(p=Constant(p=0.25), table={"a": 1.0}))
    counted: runs.Counted = {}
    expected = [
        runs._expected(spec, counted)["tokens_scored_rtl"]
        for spec in (both, both.with_(model=both.model.with_(layers=2)), both.with_(seed=2), other)
    ]
    assert expected[0] == expected[1]
    assert len(counted) == 3
    assert len({one.mean for one in expected}) == 3
