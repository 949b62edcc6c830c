"""The two ratios against closed forms: what seeds, curves and cuts make of them, and what they must never do."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.analysis import intervals
from palinode.analysis.curves import evaluation_curves, layer_cuts
from palinode.analysis.ratios import (
    PUBLISHED_POINTS,
    RATIO_1,
    RATIO_2,
    Curve,
    as_published,
    best_scores,
    common_positions,
    common_range,
    estimate,
    final_ratios,
    final_scores,
    layer_cut_ratios,
    published_summary,
    ratio_curves,
    ratio_table,
)
from palinode.analysis.sizes import scale_sizes, varying
from palinode.base import fsio
from palinode.base.measures import CURVE_AXES
from palinode.results.record import RESULT_FILE
from palinode.results.rows import METRICS_FILE
from synthetic_store import DEMO_ARMS, Synthetic, grid, make_store

LTR, BOTH, MASK = DEMO_ARMS
positive = st.floats(0.01, 100)
pairs = st.lists(st.tuples(positive, positive), min_size=1, max_size=6)


# --- over seeds -----------------------------------------------------------------------------------------------------


def mean_then_ratio(above, below):
    return estimate(dict(enumerate(above)), dict(enumerate(below)), 0.95).mean_then_ratio


def ratio_then_mean(above, below):
    return estimate(dict(enumerate(above)), dict(enumerate(below)), 0.95).ratio_then_mean


@given(pairs)
def test_both_means_lie_between_the_smallest_and_the_largest_ratio(values):
    above, below = [list(side) for side in zip(*values, strict=True)]
    single = [a / b for a, b in values]
    for result in (mean_then_ratio(above, below), ratio_then_mean(above, below)):
        assert min(single) * (1 - 1e-9) <= result <= max(single) * (1 + 1e-9)


@given(pairs, positive, positive)
def test_a_change_of_unit_passes_through(values, of_above, of_below):
    above, below = [list(side) for side in zip(*values, strict=True)]
    for way in (mean_then_ratio, ratio_then_mean):
        scaled = way([a * of_above for a in above], [b * of_below for b in below])
        assert scaled == pytest.approx(way(above, below) * of_above / of_below)


@given(st.lists(positive, min_size=1, max_size=6), positive)
def test_both_agree_where_the_denominators_do(above, denominator):
    below = [denominator] * len(above)
    assert mean_then_ratio(above, below) == pytest.approx(ratio_then_mean(above, below))


@given(st.lists(positive, min_size=1, max_size=6), positive)
def test_for_equal_numerators_averaging_ratios_gives_more(below, numerator):
    """Jensen: the mean of 1 / x is at least 1 over the mean of x."""
    above = [numerator] * len(below)
    assert ratio_then_mean(above, below) >= mean_then_ratio(above, below) * (1 - 1e-12)


def test_by_hand():
    ratio = estimate({1: 2.0, 2: 6.0, 3: 9.0}, {1: 4.0, 2: 4.0, 9: 1.0}, 0.95)
    assert (ratio.mean_then_ratio, ratio.ratio_then_mean, ratio.seeds) == (1.0, 1.0, 2)
    half = 12.7062047 * math.sqrt(0.5) / math.sqrt(2)  # t of one degree of freedom, deviation of (0.5, 1.5)
    assert (ratio.low, ratio.high) == pytest.approx((1 - half, 1 + half))
    assert estimate({1: 2.0}, {1: 4.0}, 0.95).low is None
    assert estimate({1: 2.0}, {1: 0.0}, 0.95).seeds == 0  # an accuracy of 0 divides nothing
    assert estimate({}, {}, 0.95).mean_then_ratio is None


# --- along a curve --------------------------------------------------------------------------------------------------

curves = st.lists(st.tuples(st.floats(0.001, 50), positive), min_size=1, max_size=12).map(
    lambda steps: Curve(np.cumsum([step for step, _ in steps]), np.array([value for _, value in steps]))
)


@given(st.lists(curves, min_size=1, max_size=4))
def test_positions_are_never_outside_what_was_measured(several):
    positions, interpolated = common_positions(several)
    assert len(positions) <= max(2, min(len(curve.x) for curve in several))
    span = common_range(several)
    assert (len(positions) > 0) or span is None or not interpolated
    for curve in several:
        curve.at(positions)  # would refuse to leave the range
        assert (positions >= curve.x[0]).all()
        assert (positions <= curve.x[-1]).all()


@given(curves)
def test_a_curve_with_itself_is_read_where_it_was_measured(curve):
    positions, interpolated = common_positions([curve, curve])
    assert not interpolated
    assert np.array_equal(positions, curve.x)
    assert np.array_equal(curve.at(positions), curve.y)


@given(curves, st.floats(0, 1), st.floats(-3, 3), st.floats(-3, 3))
def test_a_straight_line_is_read_without_error(curve, share, slope, start):
    line = Curve(curve.x, start + slope * curve.x)
    x = np.array([curve.x[0] + share * (curve.x[-1] - curve.x[0])]).clip(curve.x[0], curve.x[-1])
    assert line.at(x) == pytest.approx(start + slope * x, rel=1e-9, abs=1e-9)


def test_a_curve_is_never_continued():
    curve = Curve(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    for outside in (0.99, 2.01):
        with pytest.raises(ValueError, match="outside"):
            curve.at(np.array([outside]))
    assert common_range([curve, Curve(np.array([3.0, 4.0]), np.array([1.0, 1.0]))]) is None


# --- on a store -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("grid") / "runs", grid(refitted=True, smallest_effect=0.0)).experiment(
        "grid"
    )


def value(run, direction="ltr", score="nats_per_token"):
    return run.result.score(f"validation.{direction}.{score}")


def test_a_scale_knows_its_size(record):
    sizes = scale_sizes(record)
    assert (sizes["4x128"].depth, sizes["4x128"].width) == (4, 128)
    assert sizes["4x128"].parameters == 33_280 + 4 * 12 * 128**2
    assert varying(sizes) == ("depth", "width", "parameters")
    assert varying({"4x128": sizes["4x128"], "8x128": sizes["8x128"]}) == ("depth", "parameters")


@pytest.mark.parametrize("score", ["nats_per_token", "accuracy", "perplexity"])
def test_final_ratios_are_the_scores_divided_seed_by_seed(record, score):
    ratios = final_ratios(record, "validation", score)
    ours = [value(run, score=score) for run in record.runs_of("both", "8x64")]
    theirs = [value(run, score=score) for run in record.runs_of("ltr", "8x64")]
    rtl = [value(run, "rtl", score) for run in record.runs_of("both", "8x64")]
    first, second = ratios[RATIO_1, "both", "8x64"], ratios[RATIO_2, "both", "8x64"]
    assert first.mean_then_ratio == pytest.approx(sum(theirs) / sum(ours))
    assert first.ratio_then_mean == pytest.approx(np.mean(np.divide(theirs, ours)))
    assert second.ratio_then_mean == pytest.approx(np.mean(np.divide(ours, rtl)))
    interval = intervals.t_interval(list(np.divide(theirs, ours)), 0.95)
    assert (first.low, first.high) == pytest.approx((interval.low, interval.high))
    assert first.seeds == 3


@pytest.mark.parametrize("score", ["nats_per_token", "accuracy"])
def test_the_best_score_is_the_best_evaluation_of_each_finished_run(record, score):
    measurements = evaluation_curves(record)
    # One early evaluation of every run is the best by far, one says nothing, one is of no finished run.
    lucky = 1e-6 if score == "nats_per_token" else 0.99
    first = pl.col("step") == measurements["step"].min()
    bent = measurements.with_columns(pl.when(first).then(lucky).otherwise(pl.col(score)).alias(score))
    broken = measurements.head(1).with_columns(pl.lit(math.nan).alias(score))
    stranger = measurements.head(1).with_columns(pl.lit(99, pl.Int64).alias("seed"))
    finals = final_scores(record, "validation", score)
    best = best_scores(record, "validation", score, pl.concat([bent, broken, stranger]))
    assert {place: set(seeds) for place, seeds in best.items()} == {
        place: set(seeds) for place, seeds in finals.items()
    }
    assert all(value == lucky for seeds in best.values() for value in seeds.values())
    better = min if score == "nats_per_token" else max
    for (arm, scale, direction), seeds in best_scores(record, "validation", score, measurements).items():
        for seed, value in seeds.items():
            mine = measurements.filter(arm=arm, scale=scale, direction=direction, seed=seed, split="validation")
            assert value == better(mine[score].drop_nulls())


def test_the_table_has_a_row_per_arm_and_scale(record):
    table = ratio_table(record, "validation").filter(score="perplexity")
    assert table.height == 3 * 9
    row = table.row(by_predicate=(pl.col("arm") == "both") & (pl.col("scale") == "8x64"), named=True)
    assert (row["depth"], row["width"], row["leak"]) == (8, 64, "none")
    assert (
        row["ratio_1_ratio_then_mean"]
        == final_ratios(record, "validation", "perplexity")[RATIO_1, "both", "8x64"].ratio_then_mean
    )
    assert table.filter(arm="ltr")["ratio_1_seeds"].null_count() == 9  # the baseline against itself is no finding
    assert table.filter(arm="both-published-mask")["leak"].unique().to_list() == ["expected"]


def test_curves_on_the_step_axis_are_measured_points(record):
    result = ratio_curves(record, "validation", "nats_per_token", evaluation_curves(record)).filter(axis="step")
    line = result.filter(ratio=RATIO_1, arm="both", scale="4x64").sort("x")
    assert line["x"].to_list() == [float(step) for step in range(50, 601, 50)]
    assert not result["interpolated"].any()
    last = final_ratios(record, "validation", "nats_per_token")[RATIO_1, "both", "4x64"]
    assert line["ratio_then_mean"][-1] == pytest.approx(last.ratio_then_mean)
    assert line["interval_low"][-1] == pytest.approx(last.low)


def test_other_axes_interpolate_inside_the_common_range_and_say_so(record):
    """The arm reads half as much again as the baseline: on tokens read their curves share only a part."""
    result = ratio_curves(record, "validation", "nats_per_token", evaluation_curves(record))
    assert set(result["axis"]) == set(CURVE_AXES)
    line = result.filter(ratio=RATIO_1, arm="both", scale="4x64", axis="tokens_read").sort("x")
    assert line["interpolated"].all()
    last_baseline = 600 * 16 * 128
    assert line["x"].max() == last_baseline
    assert line["x"].min() > 50 * 16 * 128
    assert result.filter(axis="tokens_scored_ltr", ratio=RATIO_1)["interpolated"].any() is False


def test_a_ratio_of_straight_lines_has_a_closed_form(tmp_path):
    """Baseline 4 - x, arm 2 (4 - x) measured elsewhere: ratio 1 is one half everywhere."""
    store = make_store(tmp_path / "runs", Synthetic(arms=(LTR, BOTH), seeds=(0, 1)))
    for run in store.experiment("demo").runs:
        places, factor = ([0.0, 1.0, 3.0], 1) if run.entry.arm == "ltr" else ([0.5, 2.0, 2.5], 2)
        rows = [
            {
                "event": "eval",
                "split": "validation",
                "step": index + 1,
                "seconds": x,
                "scores": {"ltr": {"nats_per_token": factor * (4 - x)}},
            }
            for index, x in enumerate(places)
        ]
        fsio.rewrite_lines(store.run_directory(run.entry.run_id) / METRICS_FILE, rows)
    record = store.experiment("demo")
    result = ratio_curves(record, "validation", "nats_per_token", evaluation_curves(record))
    result = result.filter(ratio=RATIO_1, axis="seconds")
    assert result["x"].to_list() == [0.5, 2.5]  # the baseline was measured once in their common range: only its ends
    assert result["mean_then_ratio"].to_list() == pytest.approx([0.5, 0.5])
    pooled = as_published(record, "validation", "nats_per_token", "seconds", evaluation_curves(record))
    assert pooled["ratio_1"].to_list() == pytest.approx([0.5] * 2 * PUBLISHED_POINTS)
    assert pooled["x"].to_list() == pytest.approx([*np.linspace(0.5, 2.5, PUBLISHED_POINTS)] * 2)


def test_pooling_as_published_counts_points_and_runs(record):
    pooled = as_published(record, "validation", "nats_per_token", "step", evaluation_curves(record))
    assert pooled.filter(arm="both", scale="4x64").height == 3 * PUBLISHED_POINTS
    late = as_published(record, "validation", "nats_per_token", "step", evaluation_curves(record), window=(300, 600))
    assert (late["x"].min() >= 300, late["x"].max()) == (True, 600)
    assert 0 < late.height < pooled.height
    summary = published_summary(late)
    row = summary.row(by_predicate=(pl.col("arm") == "both") & (pl.col("scale") == "4x64"), named=True)
    assert (row["runs"], row["depth"]) == (3, 4)
    values = late.filter(arm="both", scale="4x64")["ratio_1"]
    assert row["median_as_published"] == values.median()
    assert row["lower_quartile"] <= row["median_as_published"] <= row["upper_quartile"]


def test_layer_cuts_are_paired_by_seed_and_blocks(record):
    cuts = layer_cuts(record, "validation")
    assert cuts.filter(arm="both", scale="8x64", seed=0, direction="rtl", head="trained")["blocks"].to_list() == [
        *range(1, 9)
    ]
    result = layer_cut_ratios(record, "perplexity", cuts)
    one = result.filter(ratio=RATIO_2, arm="both", scale="8x64", head="refitted", blocks=3)
    rows = cuts.filter(arm="both", scale="8x64", head="refitted", blocks=3)
    ltr, rtl = (rows.filter(direction=way).sort("seed")["perplexity"] for way in ("ltr", "rtl"))
    assert one["ratio_then_mean"].item() == pytest.approx((ltr / rtl).mean())
    assert one["mean_then_ratio"].item() == pytest.approx(ltr.mean() / rtl.mean())
    whole = result.filter(ratio=RATIO_1, arm="both", scale="8x64", head="trained", blocks=8)["ratio_then_mean"].item()
    assert whole == pytest.approx(
        final_ratios(record, "validation", "perplexity")[RATIO_1, "both", "8x64"].ratio_then_mean
    )


def test_runs_without_a_partner_are_left_out(tmp_path):
    outcomes = {("ltr", "base", 0): "missing", ("both", "base", 1): "diverged"}
    store = make_store(tmp_path / "runs", Synthetic(outcomes=outcomes))
    record = store.experiment("demo")
    assert final_ratios(record, "validation", "nats_per_token")[RATIO_1, "both", "base"].seeds == 1
    result = ratio_curves(record, "validation", "nats_per_token", evaluation_curves(record)).filter(axis="step")
    assert result.filter(ratio=RATIO_1, arm="both")["seeds"].unique().to_list() == [1]
    assert result.filter(ratio=RATIO_1, arm="both")["interval_low"].null_count() == 12
    for run in record.runs_of("ltr", "base")[1:]:
        (store.run_directory(run.entry.run_id) / RESULT_FILE).unlink()
    record = store.experiment("demo")
    assert (RATIO_1, "both", "base") not in final_ratios(record, "validation", "nats_per_token")
    assert as_published(record, "validation", "nats_per_token", "step", evaluation_curves(record)).height == 0
    assert layer_cuts(record, "validation").height == 0
