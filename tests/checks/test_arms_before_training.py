"""Palinode's own arms, audited from their configs as an experiment does before it trains them."""

import pytest

from palinode.audit import CanarySettings, FlowSettings, StepwiseSettings, audit_subject, subject_of_config
from palinode.audit.palinode_models import small_config
from palinode.base.visibility import FlippedLowerTriangle
from palinode.models.decoder import DecoderConfig, modern
from palinode.objectives.directional import BothObjective, ChooseObjective, LtrObjective, RtlObjective
from palinode.objectives.masked_input import MaskedInputObjective
from palinode.objectives.probability import Constant

MODELS = {
    "gpt2": DecoderConfig(layers=2, width=32, heads=2, dropout=0.1),
    "modern": modern(layers=2, width=32, heads=2),
    "no positions": DecoderConfig(layers=1, width=32, heads=2, position="none", tied_head=False, bias=True),
}
OBJECTIVES = {
    "ltr": LtrObjective(),
    "bare rtl": RtlObjective(direction_token=False),
    "both": BothObjective(p=Constant(p=0.05)),
    "choose": ChooseObjective(p=Constant(p=0.5)),
    "masked input": MaskedInputObjective(rate=0.3),
    "choose, hiding": ChooseObjective(p=Constant(p=0.5), hide=0.2),
}
PUBLISHED = BothObjective(rtl_sees=FlippedLowerTriangle())
FLOW = FlowSettings(lengths=(1, 2, 3, 33, 65), train_passes=4)
STEPWISE = StepwiseSettings(prompt_tokens=(1, 5), total_tokens=25)  # a window and one token more
CANARY = CanarySettings(steps=60, window_tokens=32, markov_steps=100)


def arm(model, objective, window_tokens=24, **options):
    return subject_of_config(model, objective, tokenizer_vocab=256, window_tokens=window_tokens, **options)


def by_day(models, whole=""):
    """Every pair of an objective and a model. By day: every objective with the whole model, and every model with one objective."""
    return [
        pytest.param(objective, model, marks=[] if model == whole or objective == "both" else pytest.mark.nightly)
        for model in models
        for objective in OBJECTIVES
    ]


@pytest.mark.parametrize(("objective", "model"), by_day(MODELS, "modern"))
def test_honest_arms_pass(model, objective):
    audited = arm(MODELS[model], OBJECTIVES[objective])
    report = audit_subject(audited, checks=("C1", "C6"), flow=FLOW, stepwise=STEPWISE)
    assert {f.check: f.message for f in report.findings if f.outcome != "pass"} == {}
    pictured = {name.split()[0] for finding in report.findings for name in finding.pictures}
    assert pictured == set(OBJECTIVES[objective].groups())


# By day the canary trains on the honest arms of the demo (tests/audit/test_auditing.py).
@pytest.mark.nightly
@pytest.mark.parametrize("model", ["gpt2", "modern"])
def test_honest_arms_pass_the_canary(model):
    report = audit_subject(arm(MODELS[model].with_(dropout=0.0), OBJECTIVES["both"]), checks=("C2",), canary=CANARY)
    assert {f.check: f.message for f in report.findings if f.outcome != "pass"} == {}
    assert {"C2.canary", "C2.frozen", "C2.neighbours", "C2.markov", "C2.markov-excess"} == {
        f.check for f in report.findings
    }


@pytest.mark.parametrize(
    "window_tokens", [24, *(pytest.param(tokens, marks=pytest.mark.nightly) for tokens in (8, 100))]
)
def test_the_published_mask_is_caught_at_every_length(window_tokens):
    report = audit_subject(arm(MODELS["gpt2"], PUBLISHED, window_tokens), checks=("C1",), flow=FLOW)
    [leak] = [finding for finding in report.leaks if finding.check == "C1.perturbation"]
    assert leak.reproduce["pass"] == "rtl"
    assert leak.reproduce["source"] == leak.reproduce["target"]
    assert "15 of 16 targets see themselves" in leak.message
    assert str(window_tokens) in leak.message.partition("leaks at length ")[2].split(", ")
    seen, allowed = leak.pictures["rtl influence"], leak.pictures["rtl allowed"]
    assert all(seen[t][t] > 0 and not allowed[t][t] for t in range(1, 16))
    honest = [f for f in report.findings if f.check == "C1.perturbation" and f.reproduce["pass"] == "ltr"]
    assert [finding.outcome for finding in honest] == ["pass"]


def test_the_published_mask_is_caught_by_the_canary():
    report = audit_subject(arm(MODELS["modern"], PUBLISHED), checks=("C2",), canary=CANARY.with_(markov_steps=0))
    assert {(f.check, f.reproduce["pass"]) for f in report.leaks} == {("C2.canary", "rtl")}


def test_an_arm_without_rtl_says_so_and_passes():
    report = audit_subject(arm(MODELS["gpt2"], BothObjective(p=Constant(p=0.0))), checks=("C1",), flow=FLOW)
    assert report.outcome == "pass"
    assert all(f.numbers.get("passes_never_drawn") == "rtl" for f in report.findings if f.check == "C1.perturbation")


def test_own_weights_are_measured_when_asked():
    subject = arm(MODELS["gpt2"], PUBLISHED)
    report = audit_subject(
        subject, checks=("C1",), flow=FLOW.with_(own_weights=True, lengths=(), gains=(), train_passes=0, ids_tokens=0)
    )
    leak = next(finding for finding in report.leaks if finding.check == "C1.perturbation")
    clean = audit_subject(
        arm(MODELS["gpt2"], OBJECTIVES["both"]), checks=("C1",), flow=FLOW.with_(own_weights=True, lengths=())
    )
    assert leak.numbers["leaking_runs"] == leak.numbers["runs"]
    assert clean.outcome == "pass"


def test_small_configs_keep_what_is_small_and_cut_what_is_large():
    large = modern(layers=12, width=768, heads=6)
    small = small_config(large, 2, 32)
    assert (small.layers, small.width, small.heads) == (2, 32, 2)
    assert small.with_(layers=12, width=768, heads=6) == large
    assert small_config(MODELS["gpt2"], 4, 128) == MODELS["gpt2"]
