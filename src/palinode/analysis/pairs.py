"""Accuracies on minimal pairs, with intervals: Wilson's for one field or paradigm, and for all pairs a bootstrap.

The bootstrap draws paradigms, and then pairs of each drawn paradigm: the pairs of one paradigm are much alike, so that other
paradigms could give another accuracy, however many pairs there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palinode.analysis.intervals import Interval, share_interval
from palinode.base.derived_seed import derive

CONFIDENCE = 0.95
DRAWS = 2000


@dataclass(frozen=True)
class Share:
    """How many of some pairs were won.

    Attributes:
        field, paradigm: their names; `paradigm` is empty for all pairs of a field, both are empty for all pairs.
        won: the number of pairs that were won; a tie counts half.
        count: the number of pairs.
        interval: the interval of the accuracy.
    """

    field: str
    paradigm: str
    won: float
    count: int
    interval: Interval

    @property
    def accuracy(self) -> float:
        return self.won / self.count

    def as_row(self) -> dict[str, str | float | int]:
        """This share as a record stores it."""
        low, high = self.interval
        numbers = {"won": self.won, "count": self.count, "low": low, "high": high}
        return {"field": self.field, "paradigm": self.paradigm, **numbers}


def pair_shares(names: Sequence[tuple[str, str]], won: Sequence[float]) -> list[Share]:
    """The accuracy on all pairs, then of each field, then of each paradigm. A group that equals the one above it is left out.

    Args:
        names: (pairs) the field and the paradigm of each pair.
        won: (pairs,) 1, 0.5 or 0.
    """
    values = np.asarray(won, dtype=np.float64)
    of_paradigm: dict[tuple[str, str], list[int]] = {}
    for place, name in enumerate(names):
        of_paradigm.setdefault(name, []).append(place)
    of_field: dict[str, list[int]] = {}
    for (field, _), places in of_paradigm.items():
        of_field.setdefault(field, []).extend(places)
    groups = [values[places] for places in of_paradigm.values()]
    shares = [Share("", "", float(values.sum()), len(values), _bootstrap(groups))]
    shares += [_share(field, "", values[places]) for field, places in sorted(of_field.items()) if len(of_field) > 1]
    shares += [_share(*name, values[places]) for name, places in sorted(of_paradigm.items()) if len(of_paradigm) > 1]
    return shares


def _share(field: str, paradigm: str, won: NDArray[np.float64]) -> Share:
    total = float(won.sum())
    interval = share_interval(total, len(won), CONFIDENCE)
    assert interval is not None
    return Share(field, paradigm, total, len(won), interval)


def _bootstrap(groups: Sequence[NDArray[np.float64]]) -> Interval:
    """The interval of the accuracy over all pairs: paradigms are drawn, then pairs within each."""
    rng = np.random.default_rng(derive(0, "bootstrap of pairs"))
    sizes = np.array([len(group) for group in groups])
    shares = np.array([[(group == value).mean() for value in (1.0, 0.5, 0.0)] for group in groups])
    accuracies = np.empty(DRAWS)
    for draw in range(DRAWS):
        drawn = rng.integers(len(groups), size=len(groups))
        counts = rng.multinomial(sizes[drawn], shares[drawn])
        accuracies[draw] = (counts[:, 0].sum() + counts[:, 1].sum() / 2) / sizes[drawn].sum()
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(accuracies, (tail, 1 - tail)).tolist()
    return Interval(low, high)
