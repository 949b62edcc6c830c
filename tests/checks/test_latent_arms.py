"""The latent model under audit, before any training: whole arms pass, and the published mask is caught at every length."""

from dataclasses import replace

import pytest
from planted_objectives import TokenAtWrongEnd
from test_arms_before_training import CANARY, FLOW, OBJECTIVES, PUBLISHED, STEPWISE, arm, by_day

from palinode.audit import FlowSettings, StepwiseSettings, audit_subject, check_flow, check_stepwise
from palinode.audit.palinode_models import small_config
from palinode.base.visibility import FlippedLowerTriangle, Ltr
from palinode.models import LatentConfig, hlb
from palinode.objectives.directional import ChooseObjective, RtlObjective
from palinode.objectives.probability import Constant

LATENTS = {
    "latent": LatentConfig(layers=2, width=32),
    "heads": LatentConfig(layers=2, width=32, heads=2),
    "linear value": LatentConfig(layers=2, width=32, linear_value=True),
}
ONE_LENGTH = FlowSettings(lengths=(), gains=(), draws=1, train_passes=0)
LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
BY_NIGHT = [pytest.param(n, marks=[] if n == 32 else pytest.mark.nightly) for n in LENGTHS]


@pytest.mark.parametrize(("objective", "model"), by_day(LATENTS))
def test_honest_arms_pass(model, objective):
    audited = arm(LATENTS[model], OBJECTIVES[objective])
    report = audit_subject(audited, checks=("C1", "C6"), flow=FLOW, stepwise=STEPWISE)
    assert {f.check: f.message for f in report.findings if f.outcome != "pass"} == {}


@pytest.mark.nightly
@pytest.mark.parametrize("objective", ["ltr", "both"])
def test_an_honest_arm_passes_the_canary(objective):
    report = audit_subject(arm(LATENTS["latent"], OBJECTIVES[objective]), checks=("C2",), canary=CANARY)
    assert {f.check: f.message for f in report.findings if f.outcome != "pass"} == {}


def test_the_published_mask_is_caught_by_the_canary():
    report = audit_subject(arm(LATENTS["latent"], PUBLISHED), checks=("C2",), canary=CANARY.with_(markov_steps=0))
    assert {(f.check, f.reproduce["pass"]) for f in report.leaks} == {("C2.canary", "rtl")}


@pytest.mark.parametrize("window_tokens", BY_NIGHT)
def test_the_published_mask_is_caught_at_every_length(window_tokens):
    """Through two layers a slot reaches its target at every length up to that of the published mask, and the audit names it."""
    findings = check_flow(arm(LATENTS["latent"], PUBLISHED, window_tokens), ONE_LENGTH)
    laws = {f.reproduce["pass"]: f for f in findings if f.check == "C1.perturbation"}
    assert laws["ltr"].outcome == "pass"
    assert laws["rtl"].outcome == "fail"
    assert "targets see themselves" in laws["rtl"].message
    assert str(window_tokens) in laws["rtl"].message.partition("leaks at length ")[2].split(", ")


def not_flipped_back(module, example):
    return module.logits(module.hidden(example.inputs.flip(1), Ltr()))


PLANTED = {
    "M01 published mask": {"objective": ChooseObjective(p=Constant(p=1.0), rtl_sees=FlippedLowerTriangle())},
    "M02 of the window's size": {
        "objective": ChooseObjective(p=Constant(p=1.0), rtl_sees=FlippedLowerTriangle(size=24))
    },
    "M03 rtl not flipped back": {"objective": RtlObjective(), "forward": not_flipped_back},
    "M04 token at the wrong end": {"objective": TokenAtWrongEnd()},
}


@pytest.mark.parametrize("defect", PLANTED)
def test_planted_defects_of_the_mask_are_caught_in_this_model(defect):
    subject = replace(arm(LATENTS["latent"], RtlObjective()), **PLANTED[defect])
    flow = FLOW.with_(lengths=(1, 2, 3), picture_tokens=24)
    [law] = [finding for finding in check_flow(subject, flow) if finding.check == "C1.perturbation"]
    assert law.outcome == "fail"
    assert "targets see themselves" in law.message


@pytest.mark.parametrize("window_tokens", BY_NIGHT)
def test_the_honest_arm_passes_at_every_length(window_tokens):
    """Blocks of slots begin at 128: their seams are among these lengths and their neighbours."""
    flow = ONE_LENGTH.with_(lengths=(window_tokens - 1, window_tokens + 1))
    findings = check_flow(arm(LATENTS["latent"], OBJECTIVES["both"], window_tokens), flow)
    assert {f.check: f.message for f in findings if f.outcome != "pass"} == {}


def test_generation_past_the_first_block_equals_one_pass():
    settings = StepwiseSettings(prompt_tokens=(126, 129), total_tokens=132)
    findings = check_stepwise(arm(LATENTS["latent"], OBJECTIVES["both"], 132), settings=settings)
    assert {f.check: f.message for f in findings if f.outcome != "pass"} == {}


def test_far_leaks_show_in_the_copies_that_are_audited():
    """At the first slope, 1.31, a token 200 slots away has the weight e^-262; the audit opens the slope."""
    [control] = [
        finding
        for finding in check_flow(arm(LATENTS["latent"], OBJECTIVES["ltr"], 256), ONE_LENGTH)
        if finding.check == "C1.two-sided"
    ]
    assert control.outcome == "pass"


def test_the_published_sizes_are_cut_for_the_audit():
    small = small_config(hlb(1.0).with_(heads=2), 2, 32)
    assert (small.layers, small.width, small.heads) == (2, 32, 2)
    assert small_config(hlb(4.0), 4, 128) == LatentConfig(layers=4, width=128)
