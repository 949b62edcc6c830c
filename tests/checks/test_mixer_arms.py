"""Every mixer under the flow audit, causal both ways and non-causal; and the defects that convolutions have been published with."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from palinode.audit import CanarySettings, FlowSettings, StepwiseSettings, Subject, audit_subject, subject_of_config
from palinode.base.errors import BadInput
from palinode.base.example import Group
from palinode.base.finding import AuditReport
from palinode.base.visibility import Full, Ltr
from palinode.models import DecoderConfig
from palinode.models.decoder import Decoder
from palinode.models.mixers import MIXERS
from palinode.models.mixers.attention import AttentionConfig, SlidingWindowConfig
from palinode.models.mixers.base import MixerConfig, Reading, TwoSidedConfig
from palinode.models.mixers.convolutional import (
    BaseConv,
    BaseConvConfig,
    Hyena,
    HyenaConfig,
    LongConv,
    LongConvConfig,
    MonarchConfig,
)
from palinode.models.mixers.state_space import H3Config, S4dConfig
from palinode.models.parts import fft_conv
from palinode.objectives import BothObjective, LtrObjective, MaskedObjective

LTR, FULL = Group("ltr", Ltr(), 1), Group("masked", Full(), 1)
QUICK = FlowSettings(lengths=(2, 3, 17), train_passes=2, draws=2)
STEPWISE = StepwiseSettings(prompt_tokens=(1, 5), total_tokens=17)  # a window and one token more
# what a leak tells one slot is shared by fewer tokens where windows are short
SHORT_WINDOWS = CanarySettings(
    window_tokens=8, rows=32, steps=160, neighbour_steps=0, markov_steps=0, frozen_tokens=512
)
ARMS: dict[str, MixerConfig] = {
    **{kind: made() for kind, made in MIXERS.items()},
    "sliding_window": SlidingWindowConfig(window=5),
    "hyena, order 3": HyenaConfig(order=3),
    "base_conv, implicit": BaseConvConfig(conv="implicit"),
    "base_conv, explicit": BaseConvConfig(conv="explicit"),
    "monarch, residual": MonarchConfig(residual_conv=True),
}
# Another option of a mixer that is measured by day, and mixers whose way of reading has another one by day: a convolution (hyena),
# a recurrence (gated_rnn, selective_ssm), attention. The contracts look at the visibility of all by day.
VARIANTS = {"hyena, order 3", "base_conv, implicit", "base_conv, explicit", "monarch, residual", "h3", "monarch", "s4d"}


def by_night(names: Iterable[str]) -> list[Any]:
    return [pytest.param(ARMS[name], id=name, marks=pytest.mark.nightly if name in VARIANTS else []) for name in names]


def subject(mixer: MixerConfig, objective=None, position: str = "none", **options) -> Subject:
    config = DecoderConfig(layers=2, width=16, heads=2, position=position, mixer=mixer, **options)
    return subject_of_config(config, objective or BothObjective(), tokenizer_vocab=64, window_tokens=16)


def flow(audited: Subject, checks: tuple[str, ...] = ("C1",)) -> AuditReport:
    return audit_subject(audited, checks=checks, flow=QUICK, stepwise=STEPWISE)


def not_passed(report: AuditReport) -> dict[str, str]:
    return {finding.check: finding.message for finding in report.findings if finding.outcome != "pass"}


def two_sided(mixer: MixerConfig) -> MixerConfig:
    alone = isinstance(mixer, BaseConvConfig) and mixer.conv == "short"
    return mixer.with_(two_sided=True) if isinstance(mixer, TwoSidedConfig) and not alone else mixer


@pytest.mark.parametrize("mixer", by_night(ARMS))
def test_nothing_flows_where_it_must_not_and_all_that_may_be_seen_is(mixer):
    report = flow(subject(mixer), ("C1", "C6"))
    assert not_passed(report) == {}
    assert {"C1.perturbation", "C1.two-sided", "C1.gradient", "C1.prefix"} <= {f.check for f in report.findings}


@pytest.mark.parametrize(
    "mixer",  # by day those whose state is read backwards as well; the contracts of mixers look at all
    [
        pytest.param(mixer, id=name, marks=[] if name in ("h3", "gated_rnn") else pytest.mark.nightly)
        for name, mixer in ARMS.items()
        if "full" in type(mixer).visibilities
    ],
)
def test_non_causal_arms_see_both_sides_and_not_what_is_hidden(mixer):
    report = flow(subject(two_sided(mixer), MaskedObjective(hide_answers=False, rate=0.3)))
    assert not_passed(report) == {}


@pytest.mark.nightly
def test_alibi_and_blocks_without_an_mlp_pass():
    assert not_passed(flow(subject(AttentionConfig(), position="alibi"))) == {}
    assert not_passed(flow(subject(HyenaConfig(), mlp="none"))) == {}
    assert not_passed(flow(subject(MonarchConfig(), mlp="block_diagonal"))) == {}


def test_a_model_says_how_far_it_sees_and_without_that_the_audit_cannot_tell(monkeypatch):
    declared_reach = subject(SlidingWindowConfig(window=3))
    assert declared_reach.reach_in(LTR) == 4
    assert replace(declared_reach, reach_tokens=2).reach_in(LTR) == 2
    assert subject(BaseConvConfig(taps=5)).reach_in(FULL) == 4
    assert subject(HyenaConfig()).reach_in(LTR) is None
    assert "C1.two-sided" not in not_passed(flow(declared_reach))
    monkeypatch.setattr(Decoder, "reach_slots", lambda model, sees: None)
    assert "declare reach_tokens" in not_passed(flow(declared_reach))["C1.two-sided"]


def test_an_arm_whose_mixer_has_no_such_form_is_refused_before_it_is_measured():
    with pytest.raises(BadInput, match="the mixer hyena cannot read full: .*set two_sided = true"):
        flow(subject(HyenaConfig(), MaskedObjective(hide_answers=False, rate=0.3)))


def leaks(report: AuditReport) -> set[str]:
    return {finding.check for finding in report.leaks}


def canary_leaks(audited: Subject) -> set[str]:
    return leaks(audit_subject(audited, checks=("C2",), canary=SHORT_WINDOWS))


LONG = [HyenaConfig(), MonarchConfig(), LongConvConfig(), BaseConvConfig(conv="explicit"), S4dConfig(), H3Config()]
SHORT = [HyenaConfig(), BaseConvConfig(), MonarchConfig()]


# Each mixer by day with one of the two numbers, both by night.
@pytest.mark.parametrize(
    ("points", "mixer"),
    [
        pytest.param(
            points, mixer, id=f"{points}-{mixer.kind}", marks=[] if (place + later) % 2 else pytest.mark.nightly
        )
        for later, points in enumerate(("M12", "M13"))
        for place, mixer in enumerate(LONG)
    ],
)
def test_too_few_points_leak_at_the_lengths_where_they_are_too_few(points, mixer, monkeypatch):
    """T points wrap at every length, the next power of two of T only where T is near it: 17 slots and 32 points are enough."""
    wrong = {"M12": lambda least: least // 2, "M13": lambda least: 1 << (least // 2 - 1).bit_length()}
    monkeypatch.setattr(fft_conv, "fast_length", wrong[points])
    report = flow(subject(mixer, LtrObjective()))
    assert "C1.perturbation" in leaks(report)
    assert any("targets see themselves" in finding.message for finding in report.leaks)


@pytest.mark.parametrize("mixer", LONG[2:], ids=lambda mixer: mixer.kind)
def test_the_canary_catches_lags_that_wrap(mixer, monkeypatch):
    """M12, where a filter has each lag as a number or as a few modes.

    A network that makes all lags learns one of them too late: Hyena after 231 updates on windows of 4 tokens, Monarch Mixer not
    in 600. There C1 stands alone.
    """
    monkeypatch.setattr(fft_conv, "fast_length", lambda least: least // 2)
    assert canary_leaks(subject(mixer, LtrObjective())) == {"C2.canary"}


@pytest.mark.parametrize("mixer", SHORT, ids=lambda mixer: mixer.kind)
def test_taps_padded_on_both_sides_leak(mixer, monkeypatch):
    """M11."""
    whole = fft_conv.ShortConv.forward
    monkeypatch.setattr(fft_conv.ShortConv, "forward", lambda self, x, native="causal": whole(self, x, "full"))
    report = flow(subject(mixer, LtrObjective()))
    assert "C1.perturbation" in leaks(report)
    assert any("targets see themselves" in finding.message for finding in report.leaks)
    assert canary_leaks(subject(mixer, LtrObjective())) == {"C2.canary"}


@pytest.mark.parametrize(
    ("mixer", "made"), [(HyenaConfig(), Hyena), (LongConvConfig(), LongConv), (BaseConvConfig(), BaseConv)], ids=repr
)
def test_a_mean_over_all_slots_leaks_and_over_those_read_does_not(mixer, made, monkeypatch):
    """M16 and its clean twin, one argument apart."""
    whole = made.forward

    def with_mean(over: str):
        def forward(self, x, reading: Reading):
            count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
            mean = x.mean(1, keepdim=True) if over == "all" else x.cumsum(1) / count
            return whole(self, x, reading) + mean

        return forward

    audited = subject(mixer, LtrObjective())
    monkeypatch.setattr(made, "forward", with_mean("those read"))
    assert leaks(flow(audited)) == set()
    monkeypatch.setattr(made, "forward", with_mean("all"))
    assert "C1.perturbation" in leaks(flow(audited))
    assert canary_leaks(audited) == {"C2.canary"}
