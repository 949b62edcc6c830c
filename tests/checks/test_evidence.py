"""The betting test: exact under honesty (by enumeration and by simulation), quick under a leak, wherever the leak is."""

import itertools
import math

import pytest
import torch

from palinode.base.seeds import generator
from palinode.checks.evidence import ALARM_NATS, LAMBDAS, Evidence, combined_nats

VOCABULARY = 4


def one_window(ratios: list[float], *, in_sequence: bool = True) -> Evidence:
    evidence = Evidence(len(ratios))
    count = len(ratios)
    evidence.bet(
        torch.tensor(ratios, dtype=torch.float64),
        torch.arange(count),
        torch.zeros(count, dtype=torch.long),
        torch.full((count,), in_sequence),
    )
    return evidence


def test_expected_evidence_is_one_for_any_honest_model():
    """All 16 pairs of tokens; the second prediction depends on the first token in any way it likes."""
    first = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    second = (3 * torch.randn(4, 4, generator=generator(0, "test"), dtype=torch.float64)).softmax(1)
    total = 0.0
    for a, b in itertools.product(range(4), repeat=2):
        total += math.exp(one_window([4 * float(first[a]), 4 * float(second[a, b])]).nats) / 16
    assert total == pytest.approx(1.0, abs=1e-9)


def test_tokens_that_inform_each_other_may_not_be_bet_on_in_sequence():
    """Two equal tokens, each predicted from the other: as a sequence the bets win without a leak, as one bet they are fair."""
    sequence = separate = 0.0
    for a, b in itertools.product(range(4), repeat=2):
        ratios = [4.0 if a == b else 0.0] * 2  # q(a | b) = 1 when equal: honest about P(a), given nothing
        sequence += math.exp(float(one_window(ratios).total_nats[-2])) / 16
        separate += math.exp(float(one_window(ratios, in_sequence=False).total_nats[-2])) / 16
    assert sequence > 1.2
    assert separate == pytest.approx(1.0, abs=1e-9)


@pytest.mark.nightly
def test_luck_stays_within_its_bound():
    """Ville: the evidence of honest bets ever exceeds 20 in at most 5 % of runs (here with the worst kind of guesser, one that
    is sure of itself)."""
    runs, steps = 300, 40
    alarms = 0
    for run in range(runs):
        rng = generator(run, "test")
        evidence, ever = Evidence(8), False
        for _ in range(steps):
            tokens = torch.randint(VOCABULARY, (8,), generator=rng)
            guesses = (2 * torch.randn(8, VOCABULARY, generator=rng)).softmax(-1)
            ratios = VOCABULARY * guesses[torch.arange(8), tokens]
            evidence.bet(ratios, torch.arange(8), torch.zeros(8, dtype=torch.long), torch.ones(8, dtype=torch.bool))
            ever = ever or evidence.nats > math.log(20)
        alarms += ever
    assert alarms / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_leak_at_one_position_is_found_by_its_own_bets():
    """One of 256 positions is known; the other bets lose: together they would never tell."""
    rng = generator(0, "test")
    evidence = Evidence(256)
    for _ in range(12):
        ratios = VOCABULARY * (0.5 * torch.randn(256, VOCABULARY, generator=rng)).softmax(-1)[:, 0]
        ratios[17] = VOCABULARY
        evidence.bet(ratios, torch.arange(256), torch.zeros(256, dtype=torch.long), torch.ones(256, dtype=torch.bool))
    assert evidence.richest_position == 17
    together = float(torch.logsumexp(evidence.total_nats, 0)) - math.log(len(LAMBDAS))
    assert evidence.nats > together + 2


def test_small_stakes_survive_an_early_loss():
    """A model that is badly wrong for a while and then leaks: lambda = 1 is hundreds of nats down, the evidence still alarms."""
    evidence = Evidence(1)
    places = torch.zeros(1, dtype=torch.long)
    for ratio, times in ((0.02, 120), (3.0, 900)):
        for _ in range(times):
            evidence.bet(torch.tensor([ratio]), places, places, torch.ones(1, dtype=torch.bool))
    lost_by_then = 120 * math.log(0.02)
    assert lost_by_then < -400
    assert evidence.nats > ALARM_NATS


def test_a_certain_wrong_answer_bankrupts_only_the_largest_stake():
    evidence = one_window([0.0, 4.0])
    assert math.isfinite(evidence.nats)
    assert float(evidence.total_nats[-1]) == -math.inf


def test_streams_are_averaged():
    rich, poor = one_window([4.0] * 30), one_window([0.5] * 30)
    assert combined_nats([rich, poor]) == pytest.approx(rich.nats - math.log(2), abs=1e-6)
