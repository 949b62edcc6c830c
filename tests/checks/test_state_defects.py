"""C6 on what Palinode's own models keep while they generate: every planted defect of a state is caught, its clean twin passes."""

from dataclasses import replace

import pytest
import torch

from palinode.audit import StepwiseSettings, check_stepwise, subject_of_config
from palinode.base.visibility import Ltr
from palinode.models import DecoderConfig, EncoderDecoderConfig, LatentConfig, gpt2, modern
from palinode.models.block import CrossAttention
from palinode.models.decoder import Decoder
from palinode.models.latent import Latent
from palinode.models.mixers.attention import Attention
from palinode.objectives import BothObjective, LtrObjective, RtlObjective

SMALL = {"layers": 2, "width": 32, "heads": 2}
SHORT = StepwiseSettings(prompt_tokens=(1, 4), total_tokens=14)
CONFIGS = {
    "gpt2": gpt2(**SMALL),
    "modern": modern(**SMALL),
    "latent": LatentConfig(layers=2, width=32),
    "subtracting": DecoderConfig(**SMALL, subtract_position="plain"),
    "encoder-decoder": EncoderDecoderConfig(encoder_layers=2, decoder_layers=2, width=32, heads=2),
}


class PositionsOffByOne(Decoder):
    """The first new slot is given the position of the last old one."""

    def extend(self, tokens, state):
        states, after = super().extend(tokens, replace(state, read=max(0, state.read - 1)))
        return states, replace(after, read=state.read + tokens.shape[1])


class RotaryWithoutOffset(Decoder):
    """Each chunk is turned as if the row began with it."""

    def _reading_on(self, tokens, state):
        return self._reading(tokens, Ltr())


class SubtractedWithoutOffset(Decoder):
    """Positional subtraction of each chunk begins at position 1."""

    def finished(self, residual, positions=None):
        return super().finished(residual)


class DistanceWithoutOffset(Latent):
    """Distances are measured from the slot's place in its chunk. (One added to all distances of a slot would change nothing.)"""

    def extend(self, tokens, state):
        reading = self._reading(tokens, Ltr(), state.read)
        table = reading.distance
        slots = torch.arange(table.minus_distance.shape[1], dtype=table.minus_distance.dtype)
        chunk = torch.arange(tokens.shape[1], dtype=slots.dtype)
        wrong = replace(table, minus_distance=-(chunk[:, None] - slots).abs())
        x, after = state.through(self.blocks, self.embedding(tokens), replace(reading, distance=wrong))
        return self.finished(x), after


class OtherRows(Attention):
    """What is kept is handed to the next row of the batch."""

    def extend(self, x, reading, state):
        rolled = replace(state, keys=state.keys.roll(1, 0), values=state.values.roll(1, 0))
        return super().extend(x, reading, rolled)


class Forgetful(Attention):
    """Only the newest chunk is seen."""

    def extend(self, x, reading, state):
        fresh = replace(state, filled=0)
        return super().extend(x, reading, fresh)


class LooksAhead(Attention):
    """Within a chunk every slot sees all of it."""

    def extend(self, x, reading, state):
        q, k, v = self._by_head(x, reading, state.weight, state.bias)
        after = state.with_next(k, v)
        return self._mixed(q, *after.seen(), None, is_causal=False), after


class Wrapping(Decoder):
    """When the state is full the oldest slot is written over, and nobody is told."""

    def extend(self, tokens, state):
        if state.read + tokens.shape[1] <= state.slots:
            return super().extend(tokens, state)
        shorter = replace(state, read=state.slots - tokens.shape[1], layers=tuple(map(self._back, state.layers)))
        states, after = super().extend(tokens, shorter)
        return states, replace(after, read=state.slots)

    def _back(self, layer):
        return replace(layer, filled=layer.filled - 1)


class StaleMemory(CrossAttention):
    """The encoder's slots are kept once and never added to."""

    def extend(self, x, memory, reading, state):
        mixed, after = super().extend(x, memory, reading, state)
        return mixed, after if state.filled == 0 else state


def model(cls):
    return lambda module: setattr(module, "__class__", cls)


def part(cls, name):
    return lambda module: setattr(getattr(module.blocks[0], name), "__class__", cls)


DEFECTS = {
    "positions off by one": ("gpt2", model(PositionsOffByOne)),
    "rotary without offset": ("modern", model(RotaryWithoutOffset)),
    "subtraction without offset": ("subtracting", model(SubtractedWithoutOffset)),
    "distance without offset": ("latent", model(DistanceWithoutOffset)),
    "other rows": ("gpt2", part(OtherRows, "mixer")),
    "forgetful": ("modern", part(Forgetful, "mixer")),
    "looks ahead in a chunk": ("gpt2", part(LooksAhead, "mixer")),
    "wraps around": ("gpt2", model(Wrapping)),
    "stale memory": ("encoder-decoder", part(StaleMemory, "cross")),
    "other rows, encoder-decoder": ("encoder-decoder", part(OtherRows, "mixer")),
}
ONLY_IN_CHUNKS_OR_AT_THE_END = {"looks ahead in a chunk", "wraps around"}


def arm(name, objective=None):
    return subject_of_config(CONFIGS[name], objective or LtrObjective(), tokenizer_vocab=64, window_tokens=16)


def outcomes(findings):
    return {(finding.check, finding.reproduce["pass"]): finding.outcome for finding in findings}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_wrong_state_is_caught(defect):
    name, plant = DEFECTS[defect]
    subject = arm(name)
    plant(subject.module)
    assert subject.module.can_step()
    result = {finding.check: finding for finding in check_stepwise(subject, SHORT)}
    assert result["C6.state"].outcome == "fail"
    assert "differ at slot" in result["C6.state"].message
    if defect not in ONLY_IN_CHUNKS_OR_AT_THE_END:
        assert "fail" in {result["C6.generation"].outcome, result["C6.nats"].outcome}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "objective",
    [
        BothObjective(),
        *(
            pytest.param(one, marks=pytest.mark.nightly)  # `both` reads in each direction
            for one in (LtrObjective(direction_token=False), RtlObjective())
        ),
    ],
)
def test_the_clean_twins_pass_in_both_directions(name, objective):
    findings = check_stepwise(arm(name, objective), SHORT)
    checks = ("C6.generation", "C6.state", "C6.nats")
    assert outcomes(findings) == {(check, group): "pass" for check in checks for group in objective.groups()}


def test_generation_is_read_from_the_state(monkeypatch):
    """A model that keeps a state is not passed over again for every token."""
    passes, inner = [], Decoder.hidden
    subject = arm("gpt2")

    def counted(self, tokens, sees):
        passes.append(tokens.shape[1])
        return inner(self, tokens, sees)

    monkeypatch.setattr(Decoder, "hidden", counted)
    monkeypatch.setattr(Decoder, "can_step", lambda self: True)  # `hidden` was replaced alone, but only to count
    assert {finding.outcome for finding in check_stepwise(subject, SHORT)} == {"pass"}
    assert len(passes) <= 20  # of which some only ask which lengths are taken; 34 tokens are written or fed


def test_a_model_without_a_state_is_read_anew_and_has_no_finding_about_one():
    subject = arm("gpt2")
    subject.module.blocks[0].register_forward_hook(lambda block, inputs, output: output)
    assert outcomes(check_stepwise(subject, SHORT)) == {("C6.generation", "ltr"): "pass", ("C6.nats", "ltr"): "pass"}


def test_a_step_that_is_handed_in_is_tried_instead():
    calls = []

    def step(module, known, group):
        calls.append(known.shape)
        return torch.zeros(len(known), module.vocab_size)

    result = {finding.check: finding.outcome for finding in check_stepwise(arm("gpt2"), SHORT, step)}
    assert result == {"C6.generation": "fail", "C6.nats": "fail"}
    assert calls
