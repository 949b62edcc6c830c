"""C1 and C6 on decoders of recurrent mixers and hybrids: clean in every direction and length, planted defects caught.

Defects of flow: a norm over time, a convolution that wraps, a scan from both ends, a norm that counts later slots. Defects of
state: each is a wrong update that one pass over the row does not have.
"""

from dataclasses import replace

import pytest
import torch
from test_mixer_arms import SHORT_WINDOWS

from palinode.audit import FlowSettings, StepwiseSettings, audit_subject, check_stepwise, subject_of_config
from palinode.models import DecoderConfig
from palinode.models.mixers.attention import AttentionConfig, LinearAttention, LinearAttentionConfig, weights
from palinode.models.mixers.recurrent import GatedRnn, GatedRnnConfig, SelectiveSsm, SelectiveSsmConfig
from palinode.models.mixers.state_space import H3, H3Config, S4d, S4dConfig
from palinode.objectives import BothObjective, LtrObjective, MaskedObjective

SMALL = {"layers": 2, "width": 32, "heads": 2, "position": "none"}
FLOW = FlowSettings(lengths=(1, 2, 3, 33, 64, 129), train_passes=2, draws=4)
QUICK = FlowSettings(lengths=(1, 3, 33, 65), train_passes=0, draws=1, gains=())
SHORT = StepwiseSettings(prompt_tokens=(1, 4), total_tokens=14)
MIXERS = {
    "linear attention": LinearAttentionConfig(),
    "linear attention in chunks": LinearAttentionConfig(features=2),
    "s4d": S4dConfig(),
    "h3": H3Config(),
    "h3 in groups": H3Config(head_width=2),
    "selective": SelectiveSsmConfig(),
    "gated": GatedRnnConfig(),
}
CONFIGS = {
    **{name: DecoderConfig(**SMALL, mixer=mixer) for name, mixer in MIXERS.items()},
    "hybrid": DecoderConfig(**SMALL, mixers=(H3Config(), AttentionConfig())),
}


# These mixers alone are measured by day in test_mixer_arms.py, in both directions and in the form that sees both sides.
BY_DAY = {"hybrid", "gated"}


def by_night(names):
    return [pytest.param(name, marks=[] if name in BY_DAY else pytest.mark.nightly) for name in names]


def arm(config, objective=None):
    return subject_of_config(config, objective or LtrObjective(), tokenizer_vocab=64, window_tokens=24)


def flows(subject, settings):
    report = audit_subject(subject, checks=("C1",), flow=settings).findings
    return {finding.message for finding in report if finding.outcome != "pass"}


@pytest.mark.parametrize("name", by_night(CONFIGS))
def test_nothing_flows_against_the_direction_and_everything_along_it(name):
    assert flows(arm(CONFIGS[name], BothObjective()), FLOW) == set()


@pytest.mark.parametrize("name", by_night(MIXERS))
def test_the_full_form_shows_a_masked_token_to_nobody(name):
    mixer = MIXERS[name]
    two_sided = mixer.with_(two_sided=True) if "two_sided" in type(mixer).model_fields else mixer
    assert flows(arm(DecoderConfig(**SMALL, mixer=two_sided), MaskedObjective()), QUICK) == set()


class NormsOverTime(S4d):
    """M15: what the convolution says is normalised over the row."""

    def forward(self, x, reading):
        y = super().forward(x, reading)
        return y / y.square().mean(1, keepdim=True).sqrt()


class Wraps(S4d):
    """M12: as many points as there are slots."""

    def forward(self, x, reading):
        kernel = self.modes(self.c).kernel(x.shape[1])
        spectrum = torch.fft.rfft(x.mT) * torch.fft.rfft(kernel)
        return self._read_out(torch.fft.irfft(spectrum, x.shape[1]).mT, x)


class ShiftsBothWays(H3):
    """The shift looks right as well as left."""

    def _shifted(self, k, reading):
        return super()._shifted(k, reading) + super()._shifted(k.flip(-1), reading).flip(-1)


class ScansFromBothEnds(SelectiveSsm):
    """The full form, whatever was asked for."""

    def forward(self, x, reading):
        value = self.value(x)
        return self._read_out(self.past(value) + self.past(value.flip(1)).flip(1), x)


class NormOfAllSlots(LinearAttention):
    """The norm, but not the values, sums over later slots too."""

    def forward(self, x, reading):
        q, k, v = self._by_head(x)
        scores = weights(q, k)
        return self._read_out(scores.tril() @ v[..., :-1] / scores.sum(-1, keepdim=True), x)


class GatesOfTheNextSlot(GatedRnn):
    """The output gate is one slot early."""

    def _read_out(self, h, x):
        return self.out(h * torch.nn.functional.silu(self.gate(x.roll(-1, 1))))


LEAKS = {
    "norms over time": ("s4d", NormsOverTime),
    "wraps": ("s4d", Wraps),
    "shifts both ways": ("h3", ShiftsBothWays),
    "scans from both ends": ("selective", ScansFromBothEnds),
    "norm of all slots": ("linear attention", NormOfAllSlots),
    "gates of the next slot": ("gated", GatesOfTheNextSlot),
}


LEAKS_BY_DAY = {"wraps", "gates of the next slot"}  # a convolution and a recurrence


def leaking(defect):
    name, broken = LEAKS[defect]
    honest = arm(CONFIGS[name], BothObjective())

    def planted(vocab_size, slots, seed):
        model = honest.rebuild_small(vocab_size, slots, seed)
        model.blocks[1].mixer.__class__ = broken
        return model

    return replace(honest, module=planted(honest.vocab_size, 65, 0), rebuild=planted, rebuild_small=planted)


@pytest.mark.parametrize(
    "defect", [pytest.param(one, marks=[] if one in LEAKS_BY_DAY else pytest.mark.nightly) for one in LEAKS]
)
def test_a_planted_leak_is_caught_in_both_directions(defect):
    leaks = audit_subject(leaking(defect), checks=("C1",), flow=QUICK).leaks
    assert {f.reproduce["pass"] for f in leaks if f.check == "C1.perturbation"} == {"ltr", "rtl"}


@pytest.mark.parametrize(
    "defect", [pytest.param(one, marks=[] if one == "wraps" else pytest.mark.nightly) for one in LEAKS]
)
def test_the_canary_catches_it_too(defect):
    alarms = audit_subject(leaking(defect), checks=("C2",), canary=SHORT_WINDOWS).leaks
    assert [(f.check, f.reproduce["pass"]) for f in alarms] == [("C2.canary", "ltr"), ("C2.canary", "rtl")]


class DecaysOnceForAChunk(S4d):
    """The state falls by one slot's decay, however many slots were read."""

    def extend(self, x, reading, state):
        before = state.state
        y, after = super().extend(x, reading, state)
        slots = x.shape[1]
        undone = before_over(after.modes, slots, before) - before_over(after.modes, 1, before)
        return y, replace(after, state=after.state - undone)


def before_over(modes, slots, state):
    over = torch.view_as_complex(modes.over(slots))[:, None]
    return torch.view_as_real(over * torch.view_as_complex(state))


class ForgetsKeys(H3):
    """Each chunk's shift begins with nothing before it."""

    def extend(self, x, reading, state):
        return super().extend(x, reading, replace(state, keys=torch.zeros_like(state.keys)))


class KeysOneLate(H3):
    """The delay line has moved on once too often."""

    def extend(self, x, reading, state):
        y, after = super().extend(x, reading, state)
        return y, replace(after, keys=after.keys.roll(1, -1))


class ForgetsSums(LinearAttention):
    """What a chunk adds takes the place of what was summed."""

    def extend(self, x, reading, state):
        y, after = super().extend(x, reading, state)
        return y, replace(after, sums=after.sums - state.sums)


class ForgetsTheConvolution(SelectiveSsm):
    """The short convolution of each chunk begins with zeros, the recurrence goes on."""

    def extend(self, x, reading, state):
        return super().extend(x, reading, replace(state, last=torch.zeros_like(state.last)))


class OtherRowsState(GatedRnn):
    """The state is handed to the next row of the batch."""

    def extend(self, x, reading, state):
        return super().extend(x, reading, replace(state, h=state.h.roll(1, 0)))


class UndecayedState(GatedRnn):
    """The first slot of a chunk takes the old state without forgetting any of it."""

    def extend(self, x, reading, state):
        y, after = super().extend(x, reading, state)
        return y, replace(after, h=after.h + 0.01 * state.h)


WRONG_STATES = {
    "decays once for a chunk": ("s4d", DecaysOnceForAChunk),
    "forgets keys": ("h3", ForgetsKeys),
    "keys one late": ("h3 in groups", KeysOneLate),
    "forgets sums": ("linear attention", ForgetsSums),
    "forgets the convolution": ("selective", ForgetsTheConvolution),
    "other rows": ("gated", OtherRowsState),
    "undecayed": ("gated", UndecayedState),
    "keys one late, in a hybrid": ("hybrid", KeysOneLate),
}


@pytest.mark.parametrize("defect", WRONG_STATES)
def test_a_wrong_state_is_caught(defect):
    name, broken = WRONG_STATES[defect]
    subject = arm(CONFIGS[name])
    subject.module.blocks[0].mixer.__class__ = broken
    assert subject.module.can_step()
    result = {finding.check: finding for finding in check_stepwise(subject, SHORT)}
    assert result["C6.state"].outcome == "fail"
    assert "differ at slot" in result["C6.state"].message


@pytest.mark.parametrize("name", CONFIGS)
def test_the_clean_twins_generate_what_one_pass_says(name):
    findings = check_stepwise(arm(CONFIGS[name], BothObjective()), SHORT)
    outcomes = {(finding.check, finding.reproduce["pass"]): finding.outcome for finding in findings}
    checks = ("C6.generation", "C6.state", "C6.nats")
    assert outcomes == {(check, group): "pass" for check in checks for group in ("ltr", "rtl")}
