"""Auxiliary terms: what a model adds to the loss while it trains, never while it is evaluated, and what shows that one collapsed.

A term that compares two states can be made small by making both vanish, which says nothing about them. So every term is measured
beside itself: the same score with the pairs shuffled across the rows, the gains of the norms that feed it, and the variance of
both sides.
Legend: B rows, T slots, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palinode.models.mixers.base import Reading


@dataclass(frozen=True)
class AuxiliaryTerm:
    """One term of one or several readings.

    Attributes:
        value: scalar with gradient, the mean over what was read; training adds coefficient * value to the loss.
        coefficient: above 0.
        rows: how many rows the mean is over: its weight beside the means of other rows.
        measured: detached scalars for the record. Known names: `value` (the score alone), `shuffled` (the same score with the
            pairs shuffled across rows), `gain` and `least_gain` (the smallest mean, and the smallest, of |gain| of the norms that
            feed it; 1 without learned gains), `variance` (over rows and slots, mean over the features, of the side that has less).
    """

    value: Tensor
    coefficient: float
    rows: int
    measured: Mapping[str, Tensor]


Terms = Mapping[str, AuxiliaryTerm]


class PairTerm(nn.Module):
    """Base of the terms that compare two states, so that the audit can train one on noise before anything else is trained.

    Attributes:
        width: D of both states.
    """

    width: int

    def forward(self, left: Tensor, right: Tensor, reading: Reading) -> AuxiliaryTerm:
        """The term of two (B, T, D) states of the same slots."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(left, right, reading)")

    def aggregated(self, left: Tensor, reading: Reading) -> Tensor:
        """(B, T, D) of what `right` is compared with; slot t may depend on the slots that the reading allows it only."""
        raise NotImplementedError(f"{type(self).__name__} must define aggregated(left, reading)")


def together(readings: Sequence[Terms]) -> dict[str, AuxiliaryTerm]:
    """The terms of several readings as one: means weighted by rows."""
    names = dict.fromkeys(name for terms in readings for name in terms)
    return {name: _mean([terms[name] for terms in readings if name in terms]) for name in names}


def _mean(terms: Sequence[AuxiliaryTerm]) -> AuxiliaryTerm:
    if len(terms) == 1:
        return terms[0]
    rows = sum(term.rows for term in terms)
    return AuxiliaryTerm(
        value=torch.stack([term.value * (term.rows / rows) for term in terms]).sum(),
        coefficient=terms[0].coefficient,
        rows=rows,
        measured=mean_measured(terms),
    )


def mean_measured(terms: Sequence[AuxiliaryTerm]) -> dict[str, Tensor]:
    """What was measured of several terms of one name, weighted by rows."""
    rows = sum(term.rows for term in terms)
    found = [{"value": term.value.detach(), **term.measured} for term in terms]
    shares = [term.rows / rows for term in terms]
    names = dict.fromkeys(name for measured in found for name in measured)
    return {
        name: torch.stack([one[name] * share for one, share in zip(found, shares, strict=True) if name in one]).sum()
        for name in names
    }
