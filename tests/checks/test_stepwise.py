"""C6: generation against one pass, with a cache handed in, in low precision, and for models that cannot be grown."""

import itertools
from dataclasses import replace

import pytest
import torch
from small_stacks import Attention, SmallStack
from test_planted_defects import SPECIALS, stack, subject

from palinode.audit import StepwiseSettings, check_stepwise
from palinode.objectives.directional import BothObjective, LtrObjective, RtlObjective
from palinode.objectives.probability import Constant

SHORT = StepwiseSettings(prompt_tokens=(1, 4), total_tokens=14)


class Memory:
    """A cached step: keeps the ids it was given and feeds them again, `wrong_from` tokens on with a hole in its memory."""

    def __init__(self, wrong_from: int | None = None):
        self.wrong_from = wrong_from
        self.held = torch.empty(0, 0, dtype=torch.long)
        self.calls = self.restarts = 0

    def __call__(self, module, known, group):
        self.calls += 1
        count = self.held.shape[1]
        if (
            known.shape[0] != self.held.shape[0]
            or known.shape[1] != count + 1
            or not torch.equal(known[:, :count], self.held)
        ):
            self.restarts += 1
        self.held = known
        ids = known.clone()
        if self.wrong_from is not None and known.shape[1] > self.wrong_from:
            ids[:, 0] = ids[:, 1]
        start = torch.full((len(ids), 1), SPECIALS["[L]"])
        return module(torch.cat([start, ids], 1))[:, -1]


def outcomes(findings):
    return {(finding.check, finding.message.partition(":")[0]): finding.outcome for finding in findings}


def test_both_passes_are_stepped_in_their_own_direction():
    outcome_of = outcomes(check_stepwise(subject(stack(), BothObjective(p=Constant(p=0.3))), SHORT))
    assert outcome_of == {(check, group): "pass" for check in ("C6.generation", "C6.nats") for group in ("ltr", "rtl")}


def test_rtl_grows_to_the_left():
    seen = []

    def step(module, known, group):
        seen.append(known.clone())
        start = torch.full((len(known), 1), SPECIALS["[R]"])
        return module(torch.cat([start, known.flip(1)], 1))[:, -1]

    assert set(outcomes(check_stepwise(subject(stack(), RtlObjective()), SHORT, step)).values()) == {"pass"}
    grown = [(before, after) for before, after in itertools.pairwise(seen) if after.shape[1] == before.shape[1] + 1]
    assert len(grown) >= 30
    assert all(torch.equal(after[:, 1:], before) for before, after in grown)


def test_a_right_cache_passes_and_is_fed_one_token_more_each_time():
    memory = Memory()
    assert set(outcomes(check_stepwise(subject(stack()), SHORT, memory)).values()) == {"pass"}
    assert memory.restarts == 3  # two prompts and the fixed windows
    assert memory.calls == 13 + 10 + 13


def test_a_cache_that_forgets_is_found_where_it_begins():
    findings = check_stepwise(subject(stack()), SHORT, Memory(wrong_from=9))
    assert {finding.outcome for finding in findings} == {"fail"}
    place = int(findings[0].message.partition("at target ")[2].partition(",")[0])
    assert place >= 10


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_own_weights_are_tried_in_their_own_dtype(dtype, bound):
    findings = check_stepwise(subject(stack().to(dtype)), SHORT)
    assert set(outcomes(findings).values()) == {"pass"}
    assert str(dtype).removeprefix("torch.") in findings[1].message
    assert f"allowed {bound:.0e}" in findings[1].message


def test_objectives_that_read_both_ways_have_nothing_to_step():
    from planted_objectives import MaskedLm

    assert check_stepwise(subject(stack(), MaskedLm()), SHORT) == ()


class Fixed(SmallStack):
    """Takes windows of one length only."""

    def forward(self, tokens, mask=None):
        if tokens.shape[1] != 24:
            raise ValueError("24 slots")
        return super().forward(tokens, mask)


def test_a_model_of_one_length_could_not_tell():
    findings = check_stepwise(subject(Fixed(SPECIALS.vocab_size, [Attention])), SHORT)
    assert [finding.outcome for finding in findings] == ["could_not_tell"]


def test_windows_shorter_than_the_settings_are_enough():
    short = replace(subject(stack(), LtrObjective(direction_token=False)), max_window_tokens=6, window_tokens=6)
    assert set(outcomes(check_stepwise(replace(short, evaluation_tokens=6))).values()) == {"pass"}
