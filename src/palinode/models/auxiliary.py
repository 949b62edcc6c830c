"""Auxiliary terms: what a model adds to the loss in training, never in evaluation, and the measurements that show a collapse.

A term that compares two states can be made small by making both vanish, which says nothing about their agreement. So every term
comes with measurements: the same score with the pairs shuffled across the rows, the gains of the norms before it, and the variance
of both sides.
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
    """One term, from one reading or several.

    Attributes:
        value: scalar with gradient, the mean over all rows and slots read; training adds coefficient * value to the loss.
        coefficient: above 0.
        rows: how many rows the mean is over; its weight when means are averaged.
        measured: detached scalars for the record. Names in use: `value` (the score without a variance floor), `shuffled` (the same
            score with the pairs shuffled across rows), `gain` and `least_gain` (of |gain| of the norms before the term: the
            smallest mean, and the smallest entry; 1 without learned gains), `variance` (over rows and slots, mean over the
            features, of the side with the smaller one).
    """

    value: Tensor
    coefficient: float
    rows: int
    measured: Mapping[str, Tensor]


Terms = Mapping[str, AuxiliaryTerm]


class PairTerm(nn.Module):
    """Base of the terms that compare two states. The audit trains each of them on noise before a run.

    Attributes:
        width: D of both states.
    """

    width: int

    def forward(self, left: Tensor, right: Tensor, reading: Reading) -> AuxiliaryTerm:
        """The term of two (B, T, D) states of the same slots."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(left, right, reading)")

    def aggregated(self, left: Tensor, reading: Reading) -> Tensor:
        """(B, T, D) that `right` is compared with; slot i may depend only on the slots that the reading allows it."""
        raise NotImplementedError(f"{type(self).__name__} must define aggregated(left, reading)")


def together(readings: Sequence[Terms]) -> dict[str, AuxiliaryTerm]:
    """The terms of several readings, averaged by name with the rows as weights."""
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
    """The measurements of several terms of one name, averaged with the rows as weights."""
    rows = sum(term.rows for term in terms)
    weighted = [({"value": term.value.detach(), **term.measured}, term.rows / rows) for term in terms]
    names = dict.fromkeys(name for scalars, _ in weighted for name in scalars)
    return {
        name: torch.stack([scalars[name] * share for scalars, share in weighted if name in scalars]).sum()
        for name in names
    }
