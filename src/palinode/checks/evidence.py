"""The exact test of canary training: bets that a model without a leak wins only with a small, known probability.

Let y be a scored token, p(y) its true probability given all tokens that the model may see, and q(y) the probability that the model
gives to y. Given the past, r = q(y) / p(y) has mean 1. So the product of (1 + lambda (r - 1)) over tokens is a non-negative
martingale that starts at 1. By Ville's inequality, P(the martingale ever exceeds 1 / delta) <= delta, at any stopping time, for any
model and any learning rate. The evidence E of a stream averages this product over lambda, once for all tokens together and once for
each target position, because a leak at one position is diluted in the product over all tokens. An average of non-negative
martingales that start at 1 has the same property. With lambda = 1 alone, ln E would be the sum of ln q(y) - ln p(y) over the
tokens; bets with a small lambda keep evidence even if the model loses hundreds of nats early.

If two tokens of a window may inform each other, the test cannot bet on one after the other. It then makes a single bet on the mean
of r over the tokens of the window, which is exact for any dependence between the tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LAMBDAS = (0.01, 0.05, 0.2, 0.5, 1.0)
FALSE_ALARM_PROBABILITY = 1e-9
ALARM_NATS = math.log(1 / FALSE_ALARM_PROBABILITY)  # 20.7


class Evidence:
    """The evidence ln E that one stream of bets has won. A stream is one pass of one objective over independent windows."""

    def __init__(self, positions: int):
        self.stakes = torch.tensor(LAMBDAS, dtype=torch.float64)
        self.total_nats = torch.zeros(len(LAMBDAS), dtype=torch.float64)
        self.position_nats = torch.zeros(positions, len(LAMBDAS), dtype=torch.float64)

    def bet(self, ratios: Tensor, positions: Tensor, windows: Tensor, in_sequence: Tensor) -> None:
        """Make one batch of bets. The bets must come before the update that learns from the batch.

        Args:
            ratios: (n,) q(y) / p(y) of the scored tokens.
            positions: (n,) the target positions of the scored tokens.
            windows: (n,) the window of each scored token.
            in_sequence: (n,) boolean: whether the tokens of this window may be bet on one after the other.
        """
        ratios = ratios.double()
        gains = torch.log1p(self.stakes * (ratios[:, None] - 1))
        self.position_nats.index_add_(0, positions, gains)
        self.total_nats += gains[in_sequence].sum(0)
        if not bool(in_sequence.all()):
            self.total_nats += self._mean_bets(ratios[~in_sequence], windows[~in_sequence])

    @property
    def nats(self) -> float:
        """ln E, the logarithm of the evidence."""
        together = torch.logsumexp(self.total_nats, 0) - math.log(len(LAMBDAS))
        apart = torch.logsumexp(self.position_nats.flatten(), 0) - math.log(self.position_nats.numel())
        return float(torch.logaddexp(together, apart)) - math.log(2)

    @property
    def richest_position(self) -> int:
        """The target position whose bets won the most evidence."""
        return int(torch.logsumexp(self.position_nats, 1).argmax())

    def _mean_bets(self, ratios: Tensor, windows: Tensor) -> Tensor:
        window = torch.unique(windows, return_inverse=True)[1]
        count = torch.bincount(window).double()
        mean = torch.zeros_like(count).index_add_(0, window, ratios) / count
        return torch.log1p(self.stakes * (mean[:, None] - 1)).sum(0)


def combined_nats(streams: list[Evidence]) -> float:
    """ln of the average E of several streams."""
    values = torch.tensor([stream.nats for stream in streams], dtype=torch.float64)
    return float(torch.logsumexp(values, 0)) - math.log(len(streams))
