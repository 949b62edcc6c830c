"""Markov chains: languages with an exact entropy, in both reading directions and for any set of visible tokens.

`symmetric_chain` is its own mirror image (P = P^T, uniform tokens). `asymmetric_chain` is not: read from the end it follows another
kernel, with the same entropy. Only the nearest visible token on each side matters, so two rows of powers of P give the true
probability of a token given *any* set of visible tokens. That is the floor of every objective, not only of ltr.
Shapes: V states, B sequences, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from palinode.base.seeds import generator

NO_NEIGHBOUR = -1
TOLERANCE = 1e-13  # of the row sums of the symmetric chain, and of a stationary law
MOST_ROUNDS = 10_000


@dataclass(frozen=True)
class MarkovChain:
    """A stationary chain: `transition[i, j]` = P(next j | now i), (V, V) float64; `stationary` (V,) is the law of one token."""

    transition: Tensor
    stationary: Tensor

    @property
    def vocab_size(self) -> int:
        """Number of states V."""
        return len(self.stationary)

    @cached_property
    def reverse(self) -> Tensor:
        """(V, V): P(previous j | now i) = pi_j P_ji / pi_i, the kernel of the chain read rtl."""
        return self.transition.T * self.stationary[None, :] / self.stationary[:, None]

    def entropy_nats(self, steps: int = 1) -> float:
        """Nats of a token given the one `steps` before it, or after it: both are equal. steps=2 is the floor of a wrong shift."""
        kernel = torch.linalg.matrix_power(self.transition, steps)
        return float(-(self.stationary[:, None] * torch.special.xlogy(kernel, kernel)).sum())

    def token_entropy_nats(self) -> float:
        """Nats of a token when no other token is visible."""
        return float(-torch.special.xlogy(self.stationary, self.stationary).sum())

    def sample(self, count: int, length_tokens: int, rng: Generator) -> Tensor:
        """(B, T) stationary sequences, with one table lookup for all rows at every token."""
        noise = torch.rand(length_tokens, count, generator=rng, dtype=torch.float64)
        start, steps = self.stationary.cumsum(0), self.transition.cumsum(1)
        tokens = torch.empty(count, length_tokens, dtype=torch.long)
        for t in range(length_tokens):
            bounds = start.expand(count, -1) if t == 0 else steps[tokens[:, t - 1]]
            tokens[:, t] = (noise[t][:, None] >= bounds).sum(1).clamp_max(self.vocab_size - 1)
        return tokens

    def log_probability(self, tokens: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """(B, T) nats (negative): ln P(token t | its nearest visible neighbours), exactly.

        Args:
            tokens: (B, T) sequences.
            left, right: (T,) or (B, T): index of the nearest visible token before and after t; -1 where there is none.
        """
        count, length = tokens.shape
        index = torch.arange(length)
        left, right = left.expand(count, length), right.expand(count, length)
        before = (index - left).masked_fill(left == NO_NEIGHBOUR, 0)
        after = (right - index).masked_fill(right == NO_NEIGHBOUR, 0)
        powers = self._powers(int(torch.maximum(before.max(), after.max())) if length else 0)
        left_token = tokens.gather(1, left.clamp_min(0))
        right_token = tokens.gather(1, right.clamp_min(0))
        prior = self.stationary.log().expand(count, length, -1)
        from_left = torch.where((left == NO_NEIGHBOUR)[..., None], prior, powers[before, left_token].log())
        to_right = powers[after, :, right_token].log().masked_fill((right == NO_NEIGHBOUR)[..., None], 0.0)
        joint = (from_left + to_right).log_softmax(-1)
        return joint.gather(-1, tokens[..., None])[..., 0]

    def _powers(self, highest: int) -> Tensor:
        """(highest + 1, V, V): P^0 .. P^highest."""
        powers = [torch.eye(self.vocab_size, dtype=torch.float64)]
        for _ in range(highest):
            powers.append(powers[-1] @ self.transition)
        return torch.stack(powers)


def symmetric_chain(vocab_size: int = 16, sharpness: float = 1.5, seed: int = 0) -> MarkovChain:
    """A time-symmetric chain: exp(sharpness * symmetric Gaussian), scaled d_i W_ij d_j until every row sums to 1.

    Raises:
        ValueError: the scaling did not converge (a sharpness of hundreds).
    """
    noise = _gaussian(vocab_size, seed)
    weights = (sharpness * (noise + noise.T) / 2**0.5).exp()
    scale = weights.sum(1).rsqrt()
    for _ in range(MOST_ROUNDS):
        sums = scale * (weights @ scale)
        if (sums - 1).abs().max() < TOLERANCE:
            transition = scale[:, None] * weights * scale[None, :]
            return MarkovChain(transition, torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64))
        scale = scale * sums.rsqrt()
    raise ValueError(f"sharpness {sharpness}: the transition matrix could not be balanced")


def asymmetric_chain(vocab_size: int = 16, sharpness: float = 1.5, seed: int = 0) -> MarkovChain:
    """A chain that differs from its mirror image: exp(sharpness * Gaussian) with rows scaled to 1; pi by power iteration.

    Raises:
        ValueError: see `stationary_law`.
    """
    transition = (sharpness * _gaussian(vocab_size, seed)).softmax(1)
    start = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    return MarkovChain(transition, stationary_law(start, lambda law: law @ transition, sharpness))


def stationary_law(law: Tensor, step: Callable[[Tensor], Tensor], sharpness: float) -> Tensor:
    """The law that a step of the chain leaves as it is, by power iteration from this one.

    Raises:
        ValueError: the iteration did not converge.
    """
    for _ in range(MOST_ROUNDS):
        following = step(law)
        converged = (following - law).abs().max() < TOLERANCE
        law = following / following.sum()
        if converged:
            return law
    raise ValueError(f"sharpness {sharpness}: the stationary law did not settle")


def _gaussian(vocab_size: int, seed: int) -> Tensor:
    return torch.randn(vocab_size, vocab_size, generator=generator(seed, "markov"), dtype=torch.float64)
