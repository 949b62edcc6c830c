"""Markov chains: languages with an exact entropy, in both reading directions and for any set of visible tokens.

A `symmetric_chain` has the same transition matrix in both reading directions (P = P^T, uniform tokens). An `asymmetric_chain` that
is read from the end has another transition matrix, but the same entropy. The probability of a token depends only on the nearest
visible token on each side, so one power of P for each side gives the true probability of a token, given *any* set of visible
tokens. The mean of the negative log of this probability is the lowest loss that a model can reach, with every objective and not
only with ltr. Shapes: V states, B sequences, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from palinode.base.seeds import generator

NO_NEIGHBOUR = -1
TOLERANCE = 1e-13  # the largest error of the row sums of a symmetric chain, and of a stationary distribution
MOST_ROUNDS = 10_000


@dataclass(frozen=True)
class MarkovChain:
    """A stationary chain: `transition[i, j]` = P(next j | now i), (V, V) float64; `stationary` (V,) holds P(token i)."""

    transition: Tensor
    stationary: Tensor

    @property
    def vocab_size(self) -> int:
        """V, the number of states."""
        return len(self.stationary)

    @cached_property
    def reverse(self) -> Tensor:
        """(V, V): P(previous j | now i) = pi_j P_ji / pi_i, the kernel of the chain when it is read right to left."""
        return self.transition.T * self.stationary[None, :] / self.stationary[:, None]

    def entropy_nats(self, steps: int = 1) -> float:
        """The entropy (nats) of a token given the token `steps` places before it; the token `steps` places after gives the same.

        The entropy at steps=2 is the lowest loss of a model whose targets are shifted by one token too many.
        """
        kernel = torch.linalg.matrix_power(self.transition, steps)
        return float(-(self.stationary[:, None] * torch.special.xlogy(kernel, kernel)).sum())

    def token_entropy_nats(self) -> float:
        """The entropy of a token in nats when no other token is visible."""
        return float(-torch.special.xlogy(self.stationary, self.stationary).sum())

    def sample(self, count: int, length_tokens: int, rng: Generator) -> Tensor:
        """(B, T) stationary sequences. One table lookup per position gives the tokens of all B rows."""
        noise = torch.rand(length_tokens, count, generator=rng, dtype=torch.float64)
        start, steps = self.stationary.cumsum(0), self.transition.cumsum(1)
        tokens = torch.empty(count, length_tokens, dtype=torch.long)
        for t in range(length_tokens):
            bounds = start.expand(count, -1) if t == 0 else steps[tokens[:, t - 1]]
            tokens[:, t] = (noise[t][:, None] >= bounds).sum(1).clamp_max(self.vocab_size - 1)
        return tokens

    def log_probability(self, tokens: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """(B, T) the exact ln P(token t | the nearest visible tokens), in nats; never above 0.

        Args:
            tokens: (B, T) sequences.
            left, right: (T,) or (B, T) the index of the nearest visible token before and after t; -1 if no such token exists.
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
    """A time-symmetric chain: W = exp(sharpness * symmetric Gaussian) is scaled, d_i W_ij d_j, until every row sums to 1.

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
    """A chain that is not time-symmetric: exp(sharpness * Gaussian) with rows scaled to sum 1; power iteration gives pi.

    Raises:
        ValueError: the power iteration did not converge.
    """
    transition = (sharpness * _gaussian(vocab_size, seed)).softmax(1)
    start = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    return MarkovChain(transition, stationary_law(start, lambda law: law @ transition, sharpness))


def stationary_law(law: Tensor, step: Callable[[Tensor], Tensor], sharpness: float) -> Tensor:
    """The stationary distribution, which one `step` of the chain does not change. Power iteration starts from `law`.

    Raises:
        ValueError: the power iteration did not converge.
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
