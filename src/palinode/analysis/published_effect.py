"""The comparison of an effect with one that others published: whether the two agree, and whether the published effect was seen.

Two effects agree if they differ by at most the root of the sum of the squares of both half-widths. A published number without an
interval has the half-width 0.
"""

from __future__ import annotations

import math
from typing import Literal

PublishedWords = Literal[
    "confirmed", "real but smaller", "real but larger", "not found here", "the opposite", "cannot tell"
]


def agrees(
    mean: float,
    low: float,
    high: float,
    published: float,
    published_low: float | None = None,
    published_high: float | None = None,
) -> bool:
    """Whether an effect with the interval `low` to `high` agrees with a published effect.

    Args:
        published_low: the lower end of the published interval; None where no interval was published. Then `published_high` is
            None as well.
    """
    half = (high - low) / 2
    published_half = 0.0 if published_low is None or published_high is None else (published_high - published_low) / 2
    return abs(mean - published) <= math.hypot(half, published_half)


def published_words(
    mean: float,
    low: float,
    high: float,
    published: float,
    published_low: float | None = None,
    published_high: float | None = None,
) -> PublishedWords:
    """What an experiment says about a published effect.

    The signs are turned so that the published effect is positive. So an improvement may be positive or negative, as long as both
    effects use the same sign.

        confirmed                  the effects agree, and the interval lies above 0
        real but smaller, larger   the effects disagree, and the interval lies above 0
        the opposite               the interval lies below 0
        not found here             the effects disagree, and the interval contains 0
        cannot tell                the effects agree, and the interval contains 0
    """
    same = agrees(mean, low, high, published, published_low, published_high)
    if published < 0:
        mean, low, high, published = -mean, -high, -low, -published
    if high < 0:
        return "the opposite"
    if low <= 0:
        return "cannot tell" if same else "not found here"
    if same:
        return "confirmed"
    return "real but smaller" if mean < published else "real but larger"
