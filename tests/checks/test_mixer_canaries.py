"""C2 on every mixer in every direction: honest arms pass, and what a batch or a row tells about itself is planted and caught.

Read ltr or rtl every outcome is a pass. Without a direction the canary on uniform tokens passes too, but that on a Markov chain
cannot tell: to find the neighbours of a `[MASK]` is learned late and all at once, and a short training says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from small_stacks import BatchNorm, TimeNorm
from test_mixer_arms import two_sided

from palinode.audit import CanarySettings, FlowSettings, Subject, audit_subject, subject_of_config
from palinode.base.finding import AuditReport
from palinode.models import DecoderConfig
from palinode.models.decoder import Decoder
from palinode.models.mixers import MIXERS
from palinode.models.mixers.attention import AttentionConfig, SlidingWindowConfig
from palinode.models.mixers.base import Mixer, MixerConfig
from palinode.models.mixers.state_space import H3Config
from palinode.objectives import BothObjective, LtrObjective, MaskedObjective, Objective, RtlObjective

MIXED: dict[str, tuple[MixerConfig, ...]] = {
    **{kind: (made(),) for kind, made in MIXERS.items()},
    "sliding_window": (SlidingWindowConfig(window=5),),
    "hybrid": (H3Config(), AttentionConfig()),
}
OBJECTIVES: dict[str, Objective] = {
    "ltr": LtrObjective(),
    "rtl": RtlObjective(),
    "masked": MaskedObjective(hide_answers=False, rate=0.3),
}
QUICKLY_PLANTED = ("linear_attention", "base_conv")
HONEST = CanarySettings(window_tokens=32, rows=8, steps=100, neighbour_steps=30, markov_steps=100, frozen_tokens=4096)
FLOW = FlowSettings(lengths=(2, 3, 17), train_passes=2, draws=2)
# a norm over time tells each slot one part in N of every other: short windows make it large
SHORT_WINDOWS = CanarySettings(
    window_tokens=4, rows=64, steps=120, neighbour_steps=0, markov_steps=0, frozen_tokens=1024
)
NEIGHBOURS = HONEST.with_(steps=40, neighbour_steps=200, markov_steps=0, frozen_tokens=1024)
ROOM = 80  # slots for mixers with a longest row: where batch and time are swapped, the batch is the row


def arm(name: str, objective: Objective) -> Subject:
    mixers = MIXED[name] if objective.reads_in_a_direction else tuple(two_sided(mixer) for mixer in MIXED[name])
    config = DecoderConfig(layers=2, width=16, heads=2, position="none", mixers=mixers)
    return subject_of_config(config, objective, tokenizer_vocab=64, window_tokens=16)


def outcomes(report: AuditReport) -> dict[str, str]:
    return {finding.check: finding.outcome for finding in report.findings}


@pytest.mark.nightly
@pytest.mark.parametrize("direction", OBJECTIVES)
@pytest.mark.parametrize("name", MIXED)
def test_honest_mixers_pass_the_canary(name, direction):
    report = audit_subject(arm(name, OBJECTIVES[direction]), checks=("C2",), canary=HONEST)
    markov = "could_not_tell" if direction == "masked" else "pass"
    expected = dict.fromkeys(["C2.canary", "C2.frozen", "C2.neighbours"], "pass")
    assert outcomes(report) == expected | {"C2.markov": markov, "C2.markov-excess": markov}
    [excess] = [finding for finding in report.findings if finding.check == "C2.markov-excess"]
    assert ("training may be too short" in excess.message) == (direction == "masked")


def batch_norm(model: Decoder) -> None:
    """M14."""
    model.blocks[0].mixer_norm = BatchNorm(model.config.width)


def time_norm(model: Decoder) -> None:
    """M15."""
    model.blocks[0].mixer_norm = TimeNorm(model.config.width)


def batch_as_time(model: Decoder) -> None:
    """M21 in the last block."""
    mixer: Mixer = model.blocks[-1].mixer
    made = type(mixer)

    class Swapped(made):
        def forward(self, x, reading):
            return super().forward(x.transpose(0, 1).contiguous(), reading).transpose(0, 1)

    mixer.__class__ = Swapped


def daily(*names: str) -> list[pytest.param]:
    """Every mixer; those that are not named at night."""
    return [pytest.param(name, marks=[] if name in names else pytest.mark.nightly) for name in MIXED]


def planted(name: str, plant: Callable[[Decoder], None], objective: Objective | None = None) -> Subject:
    honest = arm(name, objective or LtrObjective())

    def broken(vocab_size: int, slots: int, seed: int) -> Decoder:
        model = honest.rebuild_small(vocab_size, max(slots, ROOM), seed)
        plant(model)
        return model

    return replace(honest, module=broken(honest.vocab_size, ROOM, 0), rebuild=broken, rebuild_small=broken)


def failed(subject: Subject, check: str, canary: CanarySettings | None = None) -> dict[str, str]:
    report = audit_subject(subject, checks=(check,), flow=FLOW, canary=canary)
    return {finding.check: finding.message for finding in report.findings if finding.outcome == "fail"}


@pytest.mark.parametrize("name", daily(*QUICKLY_PLANTED))
def test_m14_statistics_of_the_batch_are_seen_by_flow(name):
    failures = failed(planted(name, batch_norm), "C1")
    assert "train mode" in failures["C1.neighbours"]
    assert set(failures) <= {"C1.neighbours", "C1.gradient"}


@pytest.mark.parametrize("name", daily())
def test_m14_is_below_what_a_canary_can_see(name):
    """Statistics over 8 rows of 32 tokens tell too little of one token: C1 is the only check that has it."""
    report = audit_subject(planted(name, batch_norm), checks=("C2",), canary=NEIGHBOURS.with_(neighbour_steps=60))
    assert set(outcomes(report)) == {"C2.canary", "C2.frozen", "C2.neighbours"}
    assert "fail" not in outcomes(report).values()


@pytest.mark.parametrize("name", daily(*QUICKLY_PLANTED))
def test_m15_a_norm_over_time_is_caught_by_both(name):
    flow = audit_subject(planted(name, time_norm, BothObjective()), checks=("C1",), flow=FLOW)
    leaks = [finding for finding in flow.leaks if finding.check == "C1.perturbation"]
    assert {finding.reproduce["pass"] for finding in leaks} == {"ltr", "rtl"}
    assert all("targets see themselves" in finding.message for finding in leaks)
    failures = failed(planted(name, time_norm), "C2", SHORT_WINDOWS)
    assert set(failures) == {"C2.canary"}
    assert "ltr: predicts" in failures["C2.canary"]


@pytest.mark.parametrize("name", daily(*QUICKLY_PLANTED))
def test_m21_rows_that_read_each_other_are_seen_by_flow(name):
    failures = failed(planted(name, batch_as_time), "C1")
    assert "influence each other" in failures["C1.neighbours"]
    assert set(failures) <= {"C1.neighbours", "C1.gradient"}


@pytest.mark.parametrize("name", daily("linear_attention"))
def test_m21_is_caught_by_the_canary_among_shifted_copies_alone(name):
    failures = failed(planted(name, batch_as_time), "C2", NEIGHBOURS)
    assert set(failures) == {"C2.neighbours"}
    assert "ltr: predicts" in failures["C2.neighbours"]
