"""The interval over seeds and text against least squares, against limits that are known, and by simulation."""

import math

import numpy as np
import pytest
from scipy import special

from palinode.analysis.intervals import t_interval
from palinode.analysis.sources import text_and_seeds


def drawn(rng, seeds=4, documents=30, sd_seeds=0.1, sd_text=0.1, sd_rest=0.1, effect=0.0, spread_of_sizes=0.8):
    """Sums of an arm and a baseline whose improvement per token is effect + seed + document + rest."""
    tokens = np.maximum(1, np.round(500 * rng.lognormal(0, spread_of_sizes, documents)))
    noise = sd_seeds * rng.normal(size=(seeds, 1)) + sd_text * rng.normal(size=documents)
    improvement = effect + noise + sd_rest * rng.normal(size=(seeds, documents))
    baseline = tokens * rng.uniform(2, 4, (seeds, documents))
    return baseline - tokens * improvement, baseline, tokens


def by_least_squares(table):
    """Mean squares of seeds, documents and the rest, each from the residuals of two nested regressions."""
    seeds, documents = table.shape
    row = np.repeat(np.eye(seeds), documents, 0)
    column = np.tile(np.eye(documents), (seeds, 1))
    one = np.ones((table.size, 1))

    def left(*parts):
        x = np.hstack(parts)
        return ((table.ravel() - x @ np.linalg.lstsq(x, table.ravel(), rcond=None)[0]) ** 2).sum()

    whole, rest = left(one), left(row, column)
    a, b, e = whole - left(row), whole - left(column), rest
    return a / (seeds - 1), b / (documents - 1), e / ((seeds - 1) * (documents - 1))


@pytest.mark.parametrize("seed", range(4))
def test_mean_and_variance_are_those_of_least_squares(seed):
    arm, baseline, tokens = drawn(np.random.default_rng(seed), seeds=3, documents=7)
    found = text_and_seeds(arm, baseline, tokens, 0.9)
    difference = baseline - arm
    mean = difference.sum() / (3 * tokens.sum())
    a, b, e = by_least_squares((difference - mean * tokens) / tokens.mean())
    variance = (a + b - e) / 21
    degrees = max(2, (variance * 21) ** 2 / (a**2 / 2 + b**2 / 6 + e**2 / 12))
    half = special.stdtrit(degrees, 0.95) * math.sqrt(variance)
    seeds_only = t_interval((difference.sum(1) / tokens.sum()).tolist(), 0.9)
    assert found.mean == pytest.approx(mean)
    assert found.degrees == pytest.approx(degrees)
    assert found.over_seeds == pytest.approx(seeds_only)
    widest = max(half, seeds_only.high - mean)
    assert tuple(found.interval) == pytest.approx((mean - widest, mean + widest))
    assert found.floor == pytest.approx(special.stdtrit(6, 0.95) * math.sqrt(max(b - e, 0) / 21))
    assert found.design_effect == pytest.approx(max(1, (a + b - e) / a))
    parts = [max(a - e, 0), max(b - e, 0), e]
    assert list(found.shares.values()) == pytest.approx([part / sum(parts) for part in parts])


def test_text_that_varies_widens_the_interval_and_leaves_a_floor():
    rng = np.random.default_rng(1)
    arm, baseline, tokens = drawn(rng, seeds=6, sd_seeds=0.01, sd_text=0.5, sd_rest=0.01)
    found = text_and_seeds(arm, baseline, tokens, 0.95)
    seeds_only = found.over_seeds.high - found.over_seeds.low
    assert found.interval.high - found.interval.low > 5 * seeds_only
    assert found.shares["text"] > 0.9
    assert 0 < found.floor <= (found.interval.high - found.interval.low) / 2 * 1.1
    assert found.design_effect > 10


@pytest.mark.parametrize("sd_seeds", [0.0, 0.1])
@pytest.mark.parametrize(("seeds", "documents"), [(3, 13), (5, 13), (3, 60), (8, 60), (3, 300)])
def test_text_that_does_not_matter_gives_no_absurd_interval(seeds, documents, sd_seeds):
    """The variance over both is then often just above 0; once such an interval was 1e150 wide. It still covers the truth."""
    rng = np.random.default_rng(4)
    covered, widest, at_least = 0, 0.0, 0
    for _ in range(1000):
        found = text_and_seeds(*drawn(rng, seeds, documents, sd_seeds=sd_seeds, sd_text=0.0, spread_of_sizes=0.0), 0.95)
        low, high = found.interval
        covered += low <= 0 <= high
        widest = max(widest, (high - low) / (found.over_seeds.high - found.over_seeds.low))
        assert found.degrees is None or found.degrees >= min(seeds, documents) - 1
        at_least += found.degrees == min(seeds, documents) - 1
    assert 930 <= covered < 990
    assert widest < 100
    assert at_least > 250, "the case that the least number is for"


def test_text_without_variance_gives_the_interval_over_seeds():
    tokens = np.full(25, 100.0)
    improvement = np.array([[0.125], [0.25], [0.5]])
    found = text_and_seeds(-tokens * improvement, np.zeros((3, 25)), tokens, 0.95)
    assert found.interval == pytest.approx(t_interval([0.125, 0.25, 0.5], 0.95))
    assert (found.floor, found.design_effect) == (0, 1)


def test_a_variance_that_is_not_above_zero_gives_the_interval_over_seeds():
    """Deviations that cancel in every seed and in every document leave nothing but the rest, so V is below 0."""
    tokens = np.full(25, 100.0)
    cancelling = np.resize([1, -1, 0, 0, 0], 25) * np.array([[1], [-1], [0]])
    found = text_and_seeds(-tokens * (0.25 + cancelling), np.zeros((3, 25)), tokens, 0.95)
    assert found.degrees is None
    assert found.interval == found.over_seeds == (0.25, 0.25)
    assert found.design_effect is None
    assert found.shares["both"] == 1


def test_signs_hits_and_documents_without_tokens():
    arm, baseline, tokens = drawn(np.random.default_rng(2))
    found = text_and_seeds(arm, baseline, tokens, 0.95)
    swapped = text_and_seeds(baseline, arm, tokens, 0.95)
    hits = text_and_seeds(arm, baseline, tokens, 0.95, better="higher")
    assert (swapped.mean, swapped.interval) == (-found.mean, pytest.approx((-found.interval.high, -found.interval.low)))
    assert hits.interval == swapped.interval
    more = [np.insert(one, 3, 0, axis=1) for one in (arm, baseline)]
    assert text_and_seeds(*more, np.insert(tokens, 3, 0), 0.95) == found


def test_few_documents_and_few_seeds_are_said():
    arm, baseline, tokens = drawn(np.random.default_rng(3), documents=19)
    assert text_and_seeds(arm, baseline, tokens, 0.95, unit="blocks").caution.startswith("only 19 blocks")
    arm, baseline, tokens = drawn(np.random.default_rng(3), documents=20)
    assert text_and_seeds(arm, baseline, tokens, 0.95).caution == ""
    assert text_and_seeds(arm[:1], baseline[:1], tokens, 0.95).interval is None
    single = text_and_seeds(arm[:, :1], baseline[:, :1], tokens[:1], 0.95)
    assert single.interval == single.over_seeds
    assert "nothing is known about other text" in single.caution


@pytest.mark.parametrize(
    ("arm", "baseline", "tokens"),
    [([[1.0]], [[1.0, 2.0]], [1]), ([[1.0]], [[1.0]], [0]), ([[math.nan]], [[1.0]], [1]), ([1.0], [1.0], [1])],
)
def test_what_does_not_fit_is_refused(arm, baseline, tokens):
    with pytest.raises(ValueError, match=r"do not fit|no token|not finite"):
        text_and_seeds(arm, baseline, tokens, 0.95)


@pytest.mark.nightly
@pytest.mark.parametrize(("documents", "least"), [(60, 0.935), (8, 0.89)])
def test_the_interval_covers_what_other_text_gives(documents, least):
    """Text dominates: the interval over seeds alone covers the true difference in few cases, the wider one as it says."""
    rng, repeats, covered, seeds_only = np.random.default_rng(4), 4000, 0, 0
    for _ in range(repeats):
        arm, baseline, tokens = drawn(
            rng, 5, documents, sd_seeds=0.02, sd_text=0.3, sd_rest=0.05, effect=0.1, spread_of_sizes=0.3
        )
        found = text_and_seeds(arm, baseline, tokens, 0.95)
        covered += found.interval.low <= 0.1 <= found.interval.high
        seeds_only += found.over_seeds.low <= 0.1 <= found.over_seeds.high
    assert seeds_only / repeats < 0.85
    assert least <= covered / repeats <= 0.965
