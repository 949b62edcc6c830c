"""One arm over several scales: the mean effect, how much the effect varies between scales, and its slope over the parameters.

The effect at each scale is known up to a standard error. The true effects vary between scales with the standard deviation tau.
tau^2 is estimated by the method of Paule and Mandel: it is the value at which sum w r^2, with the weights
w = 1 / (standard error^2 + tau^2) and the residuals r, equals the degrees of freedom. With this estimate, the correction of Hartung
and Knapp, cut off below 1, is always 1, so it is left out.

Sources: Paule and Mandel 1982, "Consensus values and weighting factors"; Higgins and Thompson 2002 (I^2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from palinode.analysis.intervals import Interval

LEAST_FOR_A_SLOPE = 4  # scales
# An exact effect would have an infinite weight. A standard error counts as at least this share of the spread of the effects.
LEAST_ERROR = 1e-9
MOST_STEPS = 100  # of Newton's method; about ten are needed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class OverScales:
    """The effect of one arm over the scales of an experiment.

    Attributes:
        mean: the weighted mean of the effects, in the metric's unit.
        interval: the interval of the mean.
        tau: the standard deviation of the true effects between scales. 0 means that the effects differ by no more than their
            standard errors explain; it does not mean that the true effects are equal.
        share_between: I^2, the share of the variation between the observed effects that the standard errors do not explain.
        slope: the change of the effect when the parameters grow tenfold; None with fewer than four scales, or where the parameters
            are unknown or all equal.
        slope_interval: the interval of the slope.
        scales: the number of scales that have an effect.
    """

    mean: float
    interval: Interval
    tau: float
    share_between: float
    slope: float | None
    slope_interval: Interval | None
    scales: int


class Fit(NamedTuple):
    """Weighted least squares with the tau^2 of Paule and Mandel.

    Attributes:
        coefficients: (p,), the fitted coefficients.
        errors: (p,), their standard errors.
        tau_squared: the variance of the true effects about the fit.
    """

    coefficients: Array
    errors: Array
    tau_squared: float


def over_scales(
    effects: Sequence[float], errors: Sequence[float], confidence: float, parameters: Sequence[int | None]
) -> OverScales | None:
    """Combine the effects of one arm at m scales. All intervals use t with m - p degrees of freedom, for p coefficients.

    Args:
        effects: the effect at each scale (`FamilyInterval.mean`).
        errors: the standard error of each effect (`FamilyInterval.standard_error`).
        confidence: such as 0.95, for the mean alone and for the slope alone.
        parameters: the number of parameters at each scale, or None where it is not known.

    Returns:
        The combined effect; None with fewer than two scales.
    """
    count = len(effects)
    if count < 2:
        return None
    y, u = np.array(effects, dtype=np.float64), _squared_errors(effects, errors)
    constant = np.ones((count, 1))
    fit = paule_mandel(y, u, constant)
    slope, slope_interval = None, None
    points = _decades(parameters)
    if count >= LEAST_FOR_A_SLOPE and points is not None:
        line = paule_mandel(y, u, np.stack([np.ones(count), points - points.mean()], axis=1))
        slope = float(line.coefficients[1])
        slope_interval = _interval(slope, float(line.errors[1]), count - 2, confidence)
    centre = float(fit.coefficients[0])
    return OverScales(
        mean=centre,
        interval=_interval(centre, float(fit.errors[0]), count - 1, confidence),
        tau=math.sqrt(fit.tau_squared),
        share_between=_share_between(y, u, constant),
        slope=slope,
        slope_interval=slope_interval,
        scales=count,
    )


def paule_mandel(effects: Array, squared_errors: Array, design: Array) -> Fit:
    """Fit effects = design @ coefficients, with weights 1 / (squared error + tau^2) and the tau^2 of Paule and Mandel.

    The weighted sum of squared residuals falls with tau^2 and is convex, and its derivative is -sum w^2 r^2. So Newton's method
    from 0 grows to the solution and never passes it.

    Args:
        effects: (m,).
        squared_errors: (m,), positive.
        design: (m, p) with p < m.
    """
    tau_squared, target = 0.0, design.shape[0] - design.shape[1]
    for _ in range(MOST_STEPS):
        weights = 1 / (squared_errors + tau_squared)
        residuals = effects - design @ _coefficients(effects, weights, design)
        excess = float((weights * residuals**2).sum()) - target
        step = excess / float((weights**2 * residuals**2).sum()) if excess > 0 else 0.0
        tau_squared += step
        if step <= 1e-14 * tau_squared:
            break
    weights = 1 / (squared_errors + tau_squared)
    covariance = np.linalg.inv(design.T @ (weights[:, None] * design))
    return Fit(_coefficients(effects, weights, design), np.sqrt(np.diag(covariance)), tau_squared)


def _coefficients(effects: Array, weights: Array, design: Array) -> Array:
    weighted = weights[:, None] * design
    return np.asarray(np.linalg.solve(design.T @ weighted, weighted.T @ effects), dtype=np.float64)


def _squared_errors(effects: Sequence[float], errors: Sequence[float]) -> Array:
    """The squares of the standard errors; an error of 0 becomes a small one, as its weight would be infinite."""
    least = LEAST_ERROR * (max(effects) - min(effects) or max(*errors) or 1.0)
    return np.maximum(np.array(errors, dtype=np.float64), least) ** 2


def _share_between(effects: Array, squared_errors: Array, design: Array) -> float:
    weights = 1 / squared_errors
    residuals = effects - design @ _coefficients(effects, weights, design)
    total = float((weights * residuals**2).sum())
    return max(0.0, 1 - (len(effects) - 1) / total) if total > 0 else 0.0


def _decades(parameters: Sequence[int | None]) -> Array | None:
    known = [count for count in parameters if count]
    if len(known) < len(parameters) or len(set(known)) < 2:
        return None
    return np.log10(np.array(known, dtype=np.float64))


def _interval(centre: float, error: float, degrees: int, confidence: float) -> Interval:
    half = float(special.stdtrit(degrees, (1 + confidence) / 2)) * error
    return Interval(centre - half, centre + half)
