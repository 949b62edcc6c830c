"""Markov chains: every number against brute force, and samples against the chain they come from."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from palinode.base.markov import NO_NEIGHBOUR, MarkovChain, asymmetric_chain, symmetric_chain
from palinode.base.seeds import generator

CHAINS = {"symmetric": symmetric_chain, "asymmetric": asymmetric_chain}
both_chains = pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)


def probability(chain: MarkovChain, tokens: tuple[int, ...]) -> float:
    """Of a whole sequence, multiplied out."""
    value = float(chain.stationary[tokens[0]])
    for before, after in itertools.pairwise(tokens):
        value *= float(chain.transition[before, after])
    return value


def entropy_of_sequences(chain: MarkovChain, length: int) -> float:
    chances = [probability(chain, tokens) for tokens in itertools.product(range(chain.vocab_size), repeat=length)]
    assert math.isclose(sum(chances), 1.0, rel_tol=1e-9)
    return -sum(chance * math.log(chance) for chance in chances)


@both_chains
def test_rows_are_distributions_and_pi_is_stationary(make):
    chain = make()
    assert torch.allclose(chain.transition.sum(1), torch.ones(16, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(chain.stationary @ chain.transition, chain.stationary, atol=1e-12)
    assert chain.transition.min() > 0


def test_the_symmetric_chain_is_its_own_mirror_image():
    chain = symmetric_chain()
    assert torch.allclose(chain.transition, chain.transition.T, atol=1e-12)
    assert torch.allclose(chain.reverse, chain.transition, atol=1e-12)
    assert chain.token_entropy_nats() == pytest.approx(math.log(16), abs=1e-12)


def test_the_asymmetric_chain_is_not():
    chain = asymmetric_chain()
    assert (chain.reverse - chain.transition).abs().max() > 0.1
    mirrored = MarkovChain(chain.reverse, chain.stationary)
    assert mirrored.entropy_nats() == pytest.approx(chain.entropy_nats(), abs=1e-12)  # the same both ways


@both_chains
def test_entropies_equal_those_of_enumerated_sequences(make):
    chain = make(vocab_size=4, seed=3)
    lengths = {length: entropy_of_sequences(chain, length) for length in (1, 2, 5)}
    assert chain.token_entropy_nats() == pytest.approx(lengths[1], abs=1e-12)
    assert chain.entropy_nats() == pytest.approx(lengths[2] - lengths[1], abs=1e-12)
    assert chain.token_entropy_nats() + 4 * chain.entropy_nats() == pytest.approx(lengths[5], abs=1e-12)


@both_chains
def test_two_step_entropy_is_that_of_the_token_after_next(make):
    chain = make(vocab_size=4, seed=1)
    joint: dict[tuple[int, int], float] = {}
    for tokens in itertools.product(range(4), repeat=3):
        joint[tokens[0], tokens[2]] = joint.get((tokens[0], tokens[2]), 0.0) + probability(chain, tokens)
    given_first = -sum(
        chance * math.log(chance / float(chain.stationary[first])) for (first, _), chance in joint.items()
    )
    assert chain.entropy_nats(2) == pytest.approx(given_first, abs=1e-12)
    assert chain.entropy_nats(2) > chain.entropy_nats()


def test_entropies_at_the_audit_size():
    """V 16, sharpness 1.5: ln V 2.773, about 2.0 one step ahead and 2.5 two steps ahead, over seeds."""
    one_step = [symmetric_chain(seed=seed).entropy_nats() for seed in range(8)]
    two_steps = [symmetric_chain(seed=seed).entropy_nats(2) for seed in range(8)]
    assert 1.8 < min(one_step) < max(one_step) < 2.3
    assert 2.4 < min(two_steps) < max(two_steps) < 2.75


@settings(max_examples=40)
@given(
    known=st.lists(st.booleans(), min_size=5, max_size=5),
    seed=st.integers(0, 5),
    tokens=st.tuples(*[st.integers(0, 2)] * 5),
)
def test_conditionals_equal_enumeration_for_any_known_tokens(known, seed, tokens):
    """P(token t | every known token), by summing over all sequences, is the chain's two nearest neighbours alone."""
    chain = asymmetric_chain(vocab_size=3, seed=seed)
    index = range(5)
    left = torch.tensor([max((s for s in index if known[s] and s < t), default=NO_NEIGHBOUR) for t in index])
    right = torch.tensor([min((s for s in index if known[s] and s > t), default=NO_NEIGHBOUR) for t in index])
    result = chain.log_probability(torch.tensor([tokens]), left, right)[0]
    for t in index:
        fits = [
            (other, probability(chain, other))
            for other in itertools.product(range(3), repeat=5)
            if all(other[s] == tokens[s] for s in index if known[s] and s != t)
        ]
        wanted = sum(chance for other, chance in fits if other[t] == tokens[t]) / sum(chance for _, chance in fits)
        assert float(result[t]) == pytest.approx(math.log(wanted), abs=1e-9)


@both_chains
def test_samples_follow_the_chain(make):
    """Chi-square of 40 000 tokens and of 39 000 pairs; a generator that ignores the kernel fails the second."""
    chain = make(vocab_size=5)
    tokens = chain.sample(1000, 40, generator(0, "test"))
    firsts = torch.bincount(tokens[:, 0], minlength=5)
    pairs = torch.bincount((tokens[:, :-1] * 5 + tokens[:, 1:]).flatten(), minlength=25)
    wanted = (chain.stationary[:, None] * chain.transition).flatten() * pairs.sum()
    assert chisquare(firsts, (chain.stationary * 1000).numpy()).pvalue > 1e-4
    rows = pairs.view(5, 5)
    given = rows.sum(1, keepdim=True) * chain.transition
    assert all(
        chisquare(row, expected).pvalue > 1e-4 for row, expected in zip(rows.numpy(), given.numpy(), strict=True)
    )
    shuffled = tokens[:, torch.randperm(40, generator=generator(1, "test"))]
    broken = torch.bincount((shuffled[:, :-1] * 5 + shuffled[:, 1:]).flatten(), minlength=25)
    assert chisquare(broken, wanted.numpy()).pvalue < 1e-9


def test_sampling_is_a_function_of_the_generator():
    chain = symmetric_chain()
    first, again = (chain.sample(3, 10, generator(7, "test")) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, chain.sample(3, 10, generator(8, "test")))


def test_an_impossible_sharpness_is_refused():
    with pytest.raises(ValueError, match="sharpness"):
        symmetric_chain(vocab_size=8, sharpness=400.0)
