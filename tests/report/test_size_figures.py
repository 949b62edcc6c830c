"""Charts over sizes and over blocks left: there when their data are, with their numbers, labelled for what they are."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
import vl_convert

from palinode.analysis.curves import evaluation_curves, layer_cuts
from palinode.analysis.ratios import RATIO_1, best_scores, final_ratios, final_scores, layer_cut_ratios
from palinode.report import theme
from palinode.report.build import all_figures, build_report
from palinode.report.charts import ROWS, with_log_axes
from palinode.report.drawing import drawings
from palinode.report.study import Study, millions
from synthetic_store import Synthetic, grid, make_store


def figures_of(record):
    return {figure.name: figure for figure in all_figures(Study.of(record))}


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("sizes") / "runs", grid((2, 4), (64, 128), refitted=True)).experiment(
        "grid"
    )


@pytest.fixture(scope="module")
def figures(record):
    return figures_of(record)


def kinds(figures):
    """Sections that have figures; those of the sizes that are maps of depth and width count as `grids`."""
    return {"grids" if name.startswith("grid") else figure.section for name, figure in figures.items()}


def test_a_chart_appears_only_where_its_data_are(tmp_path, record, figures):
    def of(**changes):
        name = f"{len(list(tmp_path.iterdir()))}"
        return figures_of(make_store(tmp_path / name, Synthetic(**changes)).experiment("demo"))

    assert {"sizes", "grids", "cuts"} <= kinds(figures)
    single = of()
    assert {name for name, figure in single.items() if figure.section == "sizes"} == {
        "ratio-1--over-training",
        "ratio-2--over-training",
    }
    assert not {"grids", "cuts"} & kinds(single)
    deep = of(scales=("2", "4"), models={"2": (2, 64), "4": (4, 64)}, layer_cuts=True)
    assert "grids" not in kinds(deep)  # one width
    assert set(deep["ratio-1-by-size--both"].variants) == {"depth", "parameters"}
    assert "layer-cut-loss--both" in deep
    assert set(deep["layer-cut-loss--both"].labels) == set()  # no refitted head to choose
    no_baseline = of(outcomes={("ltr", "base", seed): "missing" for seed in (0, 1, 2)})
    assert [name for name in no_baseline if name.startswith("ratio")] == ["ratio-2--over-training"]
    assert "ltr" not in {row["series"] for row in single["ratio-2--over-training"].rows}  # never trained on rtl


def test_the_squares_of_a_map_are_the_final_ratios(record, figures):
    ratios = final_ratios(record, "validation", "nats_per_token")
    rows = figures["grid-ratio-1--both"].rows
    assert len(rows) == 4
    for row in rows:
        scale = f"{row['depth']}x{row['width']}"
        expected = ratios[RATIO_1, "both", scale].ratio_then_mean
        assert row["value"] == pytest.approx(expected, rel=1e-5)
        assert row["label"] == f"{expected:.3f}"
        assert "over 3 seeds" in row["text"]


def test_the_squares_of_a_score_map_are_the_final_and_the_best_scores(record, figures):
    figure = figures["grid-rtl--both"]
    split, score = "validation", "nats_per_token"
    expected = {
        "final": final_scores(record, split, score),
        "best": best_scores(record, split, score, evaluation_curves(record)),
    }
    assert set(figure.variants) == set(figure.labels) == set(expected)
    assert len(figure.rows) == 8
    for row in figure.rows:
        seeds = expected[row["when"]]["both", f"{row['depth']}x{row['width']}", "rtl"]
        assert row["value"] == pytest.approx(sum(seeds.values()) / len(seeds), rel=1e-5)


def test_an_arm_that_never_read_left_to_right_has_no_ratio(tmp_path):
    """Its ltr loss is that of a model that was never asked for it."""
    store = make_store(tmp_path / "runs", grid((2, 4), (64, 128), refitted=True))
    for run in store.experiment("grid").runs:
        if run.entry.arm == "both":
            store.write_result(run.result.with_(counters={**run.result.counters, "tokens_scored_ltr": 0}))
    result = figures_of(store.experiment("grid"))
    arms = {figure.arm for name, figure in result.items() if "ratio" in name}
    assert arms == {"both-published-mask"}
    assert any(figure.arm == "both" for figure in result.values())


def test_the_squares_of_a_strip_are_the_ratios_of_the_blocks_left(record, figures):
    for ratio, score in (("ratio-1", "perplexity"), ("ratio-2", "nats_per_token")):
        figure = figures[f"layer-cut-strip-{ratio}--both"]
        expected = {
            (f"{way}-{row['head']}", row["scale"], str(row["blocks"])): row[way]
            for row in layer_cut_ratios(record, score, layer_cuts(record, "validation")).iter_rows(named=True)
            for way in ("ratio_then_mean", "mean_then_ratio")
            if (row["ratio"], row["arm"]) == (ratio.replace("-", "_"), "both")
        }
        drawn = {(row["choice"], row["series"].partition(",")[0], row["blocks"]): row["value"] for row in figure.rows}
        assert drawn == {place: pytest.approx(value, rel=1e-4) for place, value in expected.items()}
        assert set(figure.variants) == {choice for choice, _, _ in expected}
        assert all("over 3 seeds" in row["text"] for row in figure.rows)
        for row in figure.rows:  # the interval is that of averaged ratios
            assert (" to " in row["text"]) == row["choice"].startswith("ratio_then_mean")


def test_a_leak_does_not_wash_out_the_colours_of_the_honest_arms(figures):
    charts = [figures[f"layer-cut-strip-ratio-2--{arm}"].variants for arm in ("both", "both-published-mask")]
    domains = [
        chart["layer"][0]["encoding"]["color"]["scale"]["domain"] for result in charts for chart in result.values()
    ]
    assert all(domain == domains[0] for domain in domains)
    assert (
        max(domains[0]) < 2 < max(row["value"] for row in figures["layer-cut-strip-ratio-2--both-published-mask"].rows)
    )


def test_pooled_points_are_labelled_as_published_and_the_window_is_said(figures):
    figure = figures["ratio-1-by-size--both"]
    assert "as published" in figure.title
    text = " ".join(figure.notes)
    for words in ("interpolated points of 12 runs", "between step 300 and 600", "not independent", "median"):
        assert words in text, text
    runs = [row for row in figure.rows if row["kind"] == "run"]
    assert len(runs) == 12
    assert {(row["depth"], row["width"]) for row in runs} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_the_window_of_the_violins_can_be_chosen(record, figures):
    late = all_figures(Study.of(record, window=(0.8, 1.0)))
    [figure] = [figure for figure in late if figure.name == "ratio-1-by-size--both"]
    assert "between step 480 and 600 (80% to 100% of training)" in " ".join(figure.notes)
    points = [row for row in figure.rows if row["kind"] == "point"]
    assert 0 < len(points) < len([r for r in figures[figure.name].rows if r["kind"] == "point"])


def test_captions_say_how_many_seeds_and_what_was_interpolated(tmp_path, figures):
    text = " ".join(figures["ratio-1--over-training--both"].notes)
    assert "over 3 seeds" in text
    assert "On tokens read, FLOPs, seconds the runs were not all evaluated at the same places" in text
    store = make_store(tmp_path / "runs", Synthetic(outcomes={("both", "base", 1): "failed"}))
    assert "over 2 to 3 seeds" in " ".join(figures_of(store.experiment("demo"))["ratio-1--over-training"].notes)


def test_a_leaking_arm_is_stamped_and_red(figures):
    mine = [figure for figure in figures.values() if figure.arm == "both-published-mask" and figure.section != "audit"]
    assert len(mine) >= 8
    assert all("(LEAK)" in figure.title for figure in mine)
    assert set(theme.size_colours(["a", "b"], leaking=True).values()) == {
        theme.LEAKING_SIZES[0],
        theme.LEAKING_SIZES[-1],
    }


def test_the_whole_model_ends_every_line_of_the_cut(record, figures):
    finals = final_ratios(record, "validation", "perplexity")
    rows = figures["layer-cut-ratio-1--both"].rows
    last = [r for r in rows if r["score"] == "perplexity" and r["look"] == "head as trained"]
    assert max(r["blocks"] for r in last) == 4
    [deepest] = [r for r in last if r["blocks"] == 4 and r["series"].startswith("4x64,")]
    assert deepest["ratio_then_mean"] == pytest.approx(finals[RATIO_1, "both", "4x64"].ratio_then_mean, rel=1e-4)
    assert deepest["low"] < deepest["ratio_then_mean"] < deepest["high"]


def test_every_drawing_draws(record, figures):
    drawn = 0
    for figure in figures.values():
        if figure.section in ("sizes", "cuts") and figure.arm == "both":
            for name, specification in drawings(figure):
                rows = {**specification, "width": 600, "datasets": {ROWS: figure.rows}}
                svg = ElementTree.fromstring(vl_convert.vegalite_to_svg(json.dumps(rows, allow_nan=False)))
                assert len(list(svg.iter("{http://www.w3.org/2000/svg}path"))) >= 4, name
                drawn += 1
    assert drawn > 20


def test_log_axes_leave_out_what_lies_at_zero(figures):
    figure = next(figure for figure in figures.values() if figure.log_axes)
    specification = with_log_axes(figure.variants["step"], "step")
    assert all(layer["encoding"][way]["scale"]["type"] == "log" for layer in specification["layer"] for way in "xy")
    zero = {**figure.rows[0], "step": 0}
    rows = {**specification, "width": 600, "datasets": {ROWS: [*figure.rows, zero]}}
    svg = vl_convert.vegalite_to_svg(json.dumps(rows))
    assert "NaN" not in svg
    assert "Infinity" not in svg


@pytest.mark.nightly
def test_four_depths_by_four_widths_fit_two_megabytes(tmp_path, monkeypatch):
    monkeypatch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])
    wanted = grid((4, 8, 16, 32), (64, 128, 256, 512), refitted=True, seeds=(0, 1))
    page = build_report(make_store(tmp_path / "runs", wanted), "grid")
    assert page.stat().st_size <= 2 * 2**20


@pytest.mark.parametrize(("count", "text"), [(136_265_488, "136 M"), (1_250_000, "1.25 M"), (427_520, "428 k")])
def test_sizes_in_three_digits(count, text):
    assert millions(count) == text
