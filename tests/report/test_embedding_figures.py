"""Charts of embedding tables and of auxiliary terms: there when their data are, with their numbers, drawn in every form."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
import vl_convert
from headless import CHROMIUM, Browser

from palinode.analysis.embeddings import embedding_means, embedding_numbers
from palinode.base.finding import AuditReport, Finding
from palinode.report.build import all_figures, build_report, write_figures
from palinode.report.charts import ROWS
from palinode.report.drawing import drawings
from palinode.report.study import Study
from synthetic_store import Synthetic, add_geometry, add_terms, make_store

SECTIONS = {"embeddings", "auxiliary"}
TERMS = {"both": "honest", "both-published-mask": "collapse"}


def figures_of(record):
    return {figure.name: figure for figure in all_figures(Study.of(record)) if figure.section in SECTIONS}


def store_with_tables(root, *, without=("ltr",), terms=TERMS, **changes):
    store = make_store(root, Synthetic(**changes))
    add_geometry(store, "demo", without_positions=without)
    add_terms(store, "demo", terms)
    return store


def drawn(figure):
    for name, specification in drawings(figure):
        rows = {**specification, "width": 600, "datasets": {ROWS: figure.rows}}
        yield name, vl_convert.vegalite_to_svg(json.dumps(rows, allow_nan=False))


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return store_with_tables(tmp_path_factory.mktemp("tables") / "runs").experiment("demo")


@pytest.fixture(scope="module")
def figures(record):
    return figures_of(record)


def test_nothing_is_drawn_of_what_was_not_measured(tmp_path):
    assert figures_of(make_store(tmp_path / "none").experiment("demo")) == {}
    no_positions = store_with_tables(tmp_path / "no", without=("ltr", "both", "both-published-mask"), terms={})
    assert set(figures_of(no_positions.experiment("demo"))) == {"embedding-lengths"}


def test_every_arm_stands_beside_chance_and_one_without_positions_is_named(record, figures):
    assert {name for name, figure in figures.items() if figure.section != "auxiliary"} == {
        "embedding-cosine",
        "embedding-share",
        "embedding-lengths",
        "embedding-distance",
    }
    means = embedding_means(record, embedding_numbers(record))
    for name, number, chance in (
        ("embedding-cosine", "token_position_absolute_cosine", 0.0997),
        ("embedding-share", "position_share", 0.25),
    ):
        rows = figures[name].rows
        assert {row["arm"] for row in rows} == {"both", "both-published-mask (LEAK)"}
        assert [row["value"] for row in rows if row["kind"] == "chance"] == [chance, chance]
        assert sum(row["kind"] == "seed" for row in rows) == 6
        [centre] = [row for row in rows if row["kind"] == "mean" and row["arm"] == "both"]
        expected = means.filter(arm="both", number=number).row(0, named=True)
        assert centre["value"] == pytest.approx(expected["mean"], rel=1e-5)
        assert (centre["low"], centre["high"]) == pytest.approx(
            (expected["interval_low"], expected["interval_high"]), rel=1e-5
        )
        assert "Without a table of positions: ltr." in figures[name].notes
    tables = {(row["arm"], row["table"]) for row in figures["embedding-lengths"].rows}
    assert ("ltr", "tokens") in tables
    assert ("ltr", "positions") not in tables
    assert ("both", "positions") in tables


def test_positions_far_apart_are_a_line_per_arm_over_powers_of_two(figures):
    rows = figures["embedding-distance"].rows
    assert {row["series"] for row in rows} == {"both", "both-published-mask (LEAK)"}
    mine = [row for row in rows if row["series"] == "both"]
    assert [row["distance"] for row in mine] == [1, 2, 4, 8, 16, 32]
    assert all(row["low"] < row["value"] < row["high"] and row["seeds"] == 3 for row in mine)


def test_an_interval_is_drawn_inside_what_its_number_can_be(figures, tmp_path):
    note_begin = "Intervals are cut at"
    assert not any(note_begin in note for figure in figures.values() for note in figure.notes)
    store = make_store(tmp_path, Synthetic(seeds=(0, 40)))
    add_geometry(store, "demo")
    wide = figures_of(store.experiment("demo"))
    for name, least in (("embedding-cosine", 0), ("embedding-distance", -1)):
        assert any(note_begin in note for note in wide[name].notes)
        ends = [row[side] for row in wide[name].rows for side in ("low", "high") if side in row]
        assert (min(ends), max(ends)) == (least, 1)


def test_scales_get_figures_of_their_own_or_lines_of_their_own(tmp_path):
    store = store_with_tables(tmp_path, scales=("a", "b"), models={"a": (2, 64), "b": (4, 64)}, without=())
    figures = figures_of(store.experiment("demo"))
    assert {"embedding-cosine--a", "embedding-cosine--b", "embedding-distance--both"} <= set(figures)
    assert len({row["series"] for row in figures["embedding-distance--both"].rows}) == 2
    assert figures["embedding-lengths--b"].title.endswith(", scale b")


def test_a_term_is_drawn_beside_its_shuffled_pairs_on_an_axis_that_shows_a_collapse(figures):
    [figure] = [figure for figure in figures.values() if figure.section == "auxiliary"]
    assert list(figure.variants) == ["score", "gain", "variance", "affinity"]
    score = [row for row in figure.rows if row["panel"] == "score"]
    assert {row["look"] for row in score} == {"pairs", "shuffled pairs"}
    assert {row["arm"] for row in score} == {"both", "both-published-mask (LEAK)"}
    last = [row for row in score if row["arm"] != "both" and row["line"] == "mean" and row["step"] == 600]
    assert all(0 < row["value"] < 1e-9 for row in last)
    for panel in ("score", "gain", "variance"):
        scales = [layer["encoding"]["y"]["scale"]["type"] for layer in figure.variants[panel]["layer"]]
        assert set(scales) == {"log"}, panel
    assert "type" not in figure.variants["affinity"]["layer"][0]["encoding"]["y"]["scale"]
    axes = [row["tokens_read"] for row in score if row["line"] == "mean" and row["arm"] == "both"]
    assert len(set(axes)) == 12


def test_a_collapse_is_stamped_in_the_names_of_the_charts(tmp_path):
    store = store_with_tables(tmp_path)
    finding = Finding(check="C7.collapse", outcome="fail", law="l", message="collapsed")
    store.write_run_audit(
        store.experiment("demo").runs_of("both", "base")[0].entry.run_id,
        AuditReport(subject="both", findings=(finding,)),
    )
    figures = figures_of(store.experiment("demo"))
    assert "both (COLLAPSE)" in {row["arm"] for row in figures["embedding-lengths"].rows}


def test_too_many_logged_steps_are_thinned_and_the_caption_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("palinode.report.study.MOST_CURVE_ROWS", 100)
    figures = figures_of(store_with_tables(tmp_path).experiment("demo"))
    [figure] = [figure for figure in figures.values() if figure.section == "auxiliary"]
    assert len(figure.rows) < 200
    assert any("the tables hold all of them" in note for note in figure.notes)
    assert max(row["step"] for row in figure.rows) == 600


@pytest.mark.parametrize("seeds", [pytest.param((1,), marks=pytest.mark.nightly), (1, 2, 3)])
def test_every_drawing_draws(tmp_path, seeds):
    count = 0
    for figure in figures_of(store_with_tables(tmp_path, seeds=seeds).experiment("demo")).values():
        for name, svg in drawn(figure):
            assert len(list(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"))) >= 4, name
            assert "NaN" not in svg, name
            assert "Infinity" not in svg, name
            count += 1
    assert count == 8


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_browser_draws_them_and_switches_to_the_gain(tmp_path, monkeypatch):
    monkeypatch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])
    page = build_report(store_with_tables(tmp_path, steps=100, seeds=(1, 2)), "demo")
    with Browser() as browser:
        browser.open(page)
        figure = "document.querySelector('[data-figure=auxiliary--embedding_loss]')"
        browser.run(f"{figure}.querySelector('input[value=gain]').click()")
        browser.wait(f"{figure}.dataset.drawn === 'gain'")
        assert "gain of the norms" in browser.run(f"{figure}.querySelector('.canvas').textContent")
        chance = browser.run("document.querySelectorAll('[data-figure=embedding-share] .chance_marks path').length")
        assert chance == 2
        assert browser.problems == []


def test_the_page_has_the_sections_only_where_they_have_charts(tmp_path, monkeypatch):
    def write_mine(figures, directory):
        return write_figures([figure for figure in figures if figure.section in SECTIONS], directory)

    monkeypatch.setattr("palinode.report.build.write_figures", write_mine)
    page = build_report(store_with_tables(tmp_path / "with", steps=100, seeds=(1, 2)), "demo")
    text = page.read_text(encoding="utf-8")
    assert '<section id="embeddings">' in text
    assert '<section id="auxiliary">' in text
    for name in ("figures/embedding-distance.svg", "figures/embedding-share.pdf", "tables/embedding_means.parquet"):
        assert (page.parent / name).is_file(), name
    assert (page.parent / "tables" / "auxiliary_terms.csv").is_file()
    plain = build_report(make_store(tmp_path / "without", Synthetic(steps=100, seeds=(1,))), "demo")
    assert "Embeddings" not in plain.read_text(encoding="utf-8").partition("<script")[0]
    assert 'id="auxiliary"' not in plain.read_text(encoding="utf-8")
