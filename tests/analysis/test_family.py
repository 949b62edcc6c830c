"""Families of comparisons: by hand, against linear models of others, and what must hold for any scores."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from statsmodels.regression.linear_model import OLS

from palinode.analysis.family import (
    family_intervals,
    inverse_trigamma,
    residual_variance,
    squeeze,
    t_quantile,
    trend_points,
)
from palinode.analysis.intervals import t_interval

PARAMETERS = {f"s{place}": 10 ** (3 + place) for place in range(6)}


def grid(arms, scales, seeds, draw=0):
    """Scores of a grid without any true difference; arm 0 is the baseline."""
    generator = np.random.default_rng(draw)
    return {
        f"s{scale}": {f"a{arm}": dict(enumerate(generator.standard_normal(seeds).tolist())) for arm in range(arms + 1)}
        for scale in range(scales)
    }


def differences(values, arm, scale):
    return [values[scale][arm][seed] - values[scale]["a0"][seed] for seed in values[scale][arm]]


def test_one_comparison_is_the_plain_t_interval():
    values = grid(1, 1, 4)
    [found] = family_intervals(values, "a0", 0.95, PARAMETERS).values()
    assert found.interval == pytest.approx(t_interval(differences(values, "a1", "s0"), 0.95), rel=1e-12)
    assert found.single == found.interval
    assert (found.comparisons, found.shared, found.degrees) == (1, False, 3)


@pytest.mark.parametrize(("arms", "scales"), [(3, 1), (1, 5)])
def test_one_scale_or_one_arm_at_few_scales_has_plain_intervals_at_alpha_over_c(arms, scales):
    values = grid(arms, scales, 5)
    for (arm, scale), found in family_intervals(values, "a0", 0.95, PARAMETERS).items():
        plain = t_interval(differences(values, arm, scale), 1 - 0.05 / (arms * scales))
        assert found.interval == pytest.approx(plain, rel=1e-9)
        assert not found.shared


def test_the_alpha_of_one_comparison_can_be_given():
    values = grid(3, 1, 5)
    found = family_intervals(values, "a0", 0.95, PARAMETERS, alpha_of_each=0.002)["a2", "s0"]
    assert found.interval == pytest.approx(t_interval(differences(values, "a2", "s0"), 0.998), rel=1e-9)


def test_the_steps_of_a_grid_by_hand():
    """Each number of the page's four rules, computed another way than the code does."""
    values = grid(3, 4, 5)
    scales = sorted(values)
    cube = np.array([[list(values[scale][f"a{arm}"].values()) for arm in range(4)] for scale in scales])
    residuals = cube - cube.mean(1, keepdims=True) - cube.mean(2, keepdims=True) + cube.mean((1, 2), keepdims=True)
    freedom = 3 * 4
    own = 2 * (residuals**2).sum((1, 2)) / freedom
    e = np.log(own) - special.psi(freedom / 2) + math.log(freedom / 2)
    line = np.poly1d(np.polyfit([3, 4, 5, 6], e, 1))([3, 4, 5, 6])
    excess = ((e - line) ** 2).sum() / 2 - special.polygamma(1, freedom / 2)
    if excess > 0:
        prior = 2 * scipy.optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-6, 1e9, xtol=1e-12)
        centre = np.exp(line + special.psi(prior / 2) - math.log(prior / 2))
        squeezed, of_scale = (prior * centre + freedom * own) / (prior + freedom), min(prior + freedom, 48)
    else:
        squeezed, of_scale = np.exp(line), 48
    factor = ((cube[:, 2] - cube[:, 0]).var(axis=1, ddof=1) / squeezed).mean()
    degrees = 1 / (1 / of_scale + 1 / 16)
    error = math.sqrt(squeezed[1] * factor / 5)
    found = family_intervals(values, "a0", 0.95, PARAMETERS)["a2", "s1"]
    middle = (cube[1, 2] - cube[1, 0]).mean()
    assert found.shared
    assert (found.mean, found.degrees, found.comparisons, found.pairs) == pytest.approx((middle, degrees, 12, 5))
    assert found.standard_error == pytest.approx(error)
    for interval, alpha in ((found.single, 0.05), (found.interval, 0.05 / 12)):
        half = scipy.stats.t.isf(alpha / 2, degrees) * error
        assert tuple(interval) == pytest.approx((middle - half, middle + half))


@pytest.mark.parametrize("missing", [(), (7,), (0, 6, 13), (5, 6, 7, 8), (5, 6, 7, 8, 9)])
def test_the_residual_variance_is_that_of_a_linear_model_with_missing_scores_too(missing):
    generator = np.random.default_rng(3)
    present = [(arm, seed) for arm in range(3) for seed in range(5) if 5 * arm + seed not in missing]
    scores = {f"a{arm}": {} for arm in range(3)}
    for arm, seed in present:
        scores[f"a{arm}"][seed] = float(generator.standard_normal())
    design = np.zeros((len(present), 8))
    for row, (arm, seed) in enumerate(present):
        design[row, [arm, 3 + seed]] = 1
    design = design[:, design.any(axis=0)][
        :, :-1
    ]  # an arm may have no score; the last seed is what the arms' columns leave
    ours = residual_variance(scores)
    model = OLS([scores[f"a{arm}"][seed] for arm, seed in present], design).fit()
    assert ours.degrees == model.df_resid
    assert ours.variance == pytest.approx(2 * model.mse_resid, rel=1e-8)


def test_seeds_of_an_arm_that_no_other_arm_has_tell_nothing():
    values = {"a0": {1: 0.3, 2: 0.9, 3: 0.2}, "a1": {1: 0.1, 2: 0.2, 3: 0.7}}
    assert residual_variance({**values, "a2": {8: 0.5, 9: 0.9}}) == pytest.approx(residual_variance(values))


def test_scores_that_the_arms_and_seeds_explain_have_no_residual_variance():
    assert residual_variance({"a0": {1: 0.5, 2: 0.7}, "a1": {3: 0.1}}) is None
    assert residual_variance({"a0": {}, "a1": {}}) is None


def test_the_squeeze_of_equal_variances_is_complete():
    squeezed, degrees = squeeze(np.full(5, 0.3), np.full(5, 8.0), None)
    assert np.ptp(squeezed) == 0
    assert degrees.tolist() == [40.0] * 5


def test_the_squeeze_of_very_different_variances_hardly_changes_them():
    variances = np.array([0.1, 3.0, 1.0, 10.0, 0.3])
    squeezed, degrees = squeeze(variances, np.full(5, 1e5), None)
    assert squeezed == pytest.approx(variances, rel=1e-3)
    assert degrees == pytest.approx(1e5, rel=1e-3)


def test_the_squeeze_recovers_the_prior_it_was_drawn_from():
    """Smyth's model: 1/sigma^2 is drawn from chi^2(d0) / (d0 v0). With 20,000 variances, d0 and v0 are found."""
    generator = np.random.default_rng(1)
    sigma = 2.0 * 6 / generator.chisquare(6, 20_000)
    variances = sigma * generator.chisquare(4, 20_000) / 4
    squeezed, degrees = squeeze(variances, np.full(20_000, 4.0), None)
    assert degrees[0] - 4 == pytest.approx(6, rel=0.1)
    centre = ((squeezed * degrees - 4 * variances) / (degrees - 4))[0]
    assert centre == pytest.approx(2.0, rel=0.05)


def test_several_squeezes_at_once_are_the_squeezes_one_by_one():
    generator = np.random.default_rng(2)
    many, freedom, points = generator.chisquare(3, (50, 6)), np.full(6, 3.0), np.arange(6.0)
    together = squeeze(many, freedom, points)
    for place, one in enumerate(many):
        alone = squeeze(one, freedom, points)
        assert np.allclose(together[0][place], alone[0], rtol=1e-9)
        assert np.allclose(together[1][place], alone[1], rtol=1e-9)


@settings(max_examples=30)
@given(st.floats(1e-8, 1e8))
def test_the_inverse_of_trigamma(value):
    [x] = inverse_trigamma(np.array([value]))
    assert special.polygamma(1, x) == pytest.approx(value, rel=1e-8)


def test_a_line_needs_four_scales_with_known_and_different_parameters():
    assert trend_points([10, 100, 1000]) is None
    assert trend_points([10, 100, None, 1000]) is None
    assert trend_points([10] * 4) is None
    assert trend_points([10, 100, 1000, 1000]).tolist() == pytest.approx([1, 2, 3, 3])


def test_quantiles_of_t_at_small_alpha():
    assert t_quantile(7.5, 1e-9) == pytest.approx(scipy.stats.t.isf(5e-10, 7.5), rel=1e-8)


@settings(max_examples=25)
@given(
    st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 7), st.integers(2, 4), st.randoms(use_true_random=False)
)
def test_order_changes_no_bit_and_a_unit_scales_everything(draw, arms, scales, seeds, random):
    values = grid(arms, scales, seeds, draw)
    if random.random() < 0.5:  # a run is missing
        values["s0"]["a1"].pop(0)
    parameters = {scale: 10 ** (3 + place) for place, scale in enumerate(sorted(values))}

    def shuffled(mapping):
        return dict(random.sample(list(mapping.items()), len(mapping)))

    found = family_intervals(values, "a0", 0.95, parameters)
    other = {
        scale: shuffled({arm: shuffled(of_arm) for arm, of_arm in scores.items()}) for scale, scores in values.items()
    }
    assert family_intervals(shuffled(other), "a0", 0.95, shuffled(parameters)) == found
    scaled = {s: {a: {k: 8 * v for k, v in of.items()} for a, of in scores.items()} for s, scores in values.items()}
    for cell, interval in family_intervals(scaled, "a0", 0.95, parameters).items():
        assert interval.shared == found[cell].shared
        if interval.interval is not None:
            assert interval.interval == pytest.approx([8 * end for end in found[cell].interval], rel=1e-9, abs=1e-12)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 7), st.integers(2, 4))
def test_the_family_interval_contains_the_single_one(draw, arms, scales, seeds):
    for found in family_intervals(grid(arms, scales, seeds, draw), "a0", 0.95, {}).values():
        assert found.interval.low <= found.single.low <= found.mean <= found.single.high <= found.interval.high


def test_an_arm_without_scores_counts_as_a_comparison():
    values = grid(2, 3, 4)
    for scores in values.values():
        scores["a9"] = {}
    found = family_intervals(values, "a0", 0.95, PARAMETERS)
    assert {each.comparisons for each in found.values()} == {9}
    lost = found["a9", "s1"]
    assert (lost.mean, lost.single, lost.interval, lost.pairs) == (None, None, None, 0)


def test_a_scale_that_lacks_an_arm_counts_it_too():
    values = grid(2, 3, 4)
    del values["s2"]["a1"]
    found = family_intervals(values, "a0", 0.95, PARAMETERS)
    assert len(found) == 6
    assert found["a1", "s2"].interval is None


def test_a_missing_seed_leaves_the_other_pairs():
    values = grid(3, 4, 5)
    del values["s1"]["a2"][3]
    found = family_intervals(values, "a0", 0.95, PARAMETERS)
    assert (found["a2", "s1"].pairs, found["a1", "s1"].pairs) == (4, 5)
    assert found["a2", "s1"].shared
    whole = [values["s1"]["a2"][seed] - values["s1"]["a0"][seed] for seed in (0, 1, 2, 4)]
    assert found["a2", "s1"].mean == pytest.approx(np.mean(whole))


def test_a_single_pair_has_a_mean_and_no_interval():
    values = grid(2, 3, 4)
    values["s0"]["a1"] = {0: 1.0}
    found = family_intervals(values, "a0", 0.95, PARAMETERS)["a1", "s0"]
    assert found.mean == 1.0 - values["s0"]["a0"][0]
    assert found.interval is None


def test_an_arm_that_equals_the_baseline_has_intervals_of_width_zero():
    values = grid(2, 3, 4)
    for scores in values.values():
        scores["a1"] = dict(scores["a0"])
    found = family_intervals(values, "a0", 0.95, PARAMETERS)
    assert tuple(found["a1", "s1"].interval) == (0.0, 0.0)
    assert found["a2", "s1"].interval.low < found["a2", "s1"].interval.high


@pytest.mark.parametrize("constant", [{}, {"s1"}, set(PARAMETERS)])
def test_scales_without_any_noise_share_nothing(constant):
    values = grid(2, 6, 4)
    for scale in constant:
        values[scale] = {arm: dict.fromkeys(of_arm, 0.1 + len(arm)) for arm, of_arm in values[scale].items()}
    for (_, scale), found in family_intervals(values, "a0", 0.95, PARAMETERS).items():
        assert found.shared == (scale not in constant and len(constant) < 5)
        if scale in constant:
            assert tuple(found.interval) == (0.0, 0.0)


def test_a_cell_that_is_much_noisier_than_the_others_gets_the_caution():
    values = grid(4, 6, 5)
    assert not any(found.noisy for found in family_intervals(values, "a0", 0.95, PARAMETERS).values())
    values["s3"]["a2"] = {seed: 12 * score for seed, score in values["s3"]["a2"].items()}
    noisy = [cell for cell, found in family_intervals(values, "a0", 0.95, PARAMETERS).items() if found.noisy]
    assert noisy == [("a2", "s3")]
    cell = family_intervals(values, "a0", 0.95, PARAMETERS)["a2", "s3"]
    differences = [values["s3"]["a2"][seed] - values["s3"]["a0"][seed] for seed in values["s3"]["a2"]]
    alone = t_interval(differences, 1 - 0.05 / 24)
    assert tuple(cell.interval) == pytest.approx(tuple(alone)), "its own pairs have the wider interval"
    assert not cell.shared


def test_a_confidence_is_a_probability():
    with pytest.raises(ValueError, match="95"):
        family_intervals(grid(1, 1, 3), "a0", 95, {})
