"""Charts of synthetic tasks: there when a run is on one, chance on every chart of an accuracy, drawn in every form."""

import json
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import altair as alt
import pytest
import vl_convert
from headless import CHROMIUM, Browser

from palinode.analysis.tasks import Levels, task_accuracy, task_means
from palinode.report import charts, theme
from palinode.report.build import all_figures, build_report
from palinode.report.charts import ROWS, Axis, columns_that_fit
from palinode.report.drawing import drawings
from palinode.report.levels import Mark, every_mark, with_levels
from palinode.report.study import Study
from synthetic_store import Synthetic, make_store
from synthetic_tasks import LEVELS, RECENT, SyntheticTask, TaskArm, make_task_store

NAME = "recall--laptop"
SHORT = {"vocabularies": (10, 30), "seeds": (1, 2)}


def every_figure(record):
    return {figure.name: figure for figure in all_figures(Study.of(record))}


def figures_of(record):
    return {name: figure for name, figure in every_figure(record).items() if figure.section == "task"}


def made(root, **changes):
    return make_task_store(root / "runs", SyntheticTask(**changes)).experiment(NAME)


def levels_in(specification):
    """Kind of level -> its value, of the rules of a chart."""
    rules = [
        layer
        for layer in specification["layer"]
        if layer["name"].startswith("level_") and layer["mark"]["type"] == "rule"
    ]
    return {layer["name"].removeprefix("level_"): layer["data"]["values"][0]["level"] for layer in rules}


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return made(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def figures(record):
    return every_figure(record)


def test_a_text_has_no_figure_of_a_task(tmp_path):
    record = make_store(tmp_path, Synthetic(seeds=(1,), steps=100)).experiment("demo")
    assert figures_of(record) == {}
    assert all(not levels_in(chart) for figure in every_figure(record).values() for chart in figure.variants.values())


def test_one_scale_has_no_difficulty_and_no_lengths_where_none_were_scored(tmp_path):
    record = made(tmp_path, vocabularies=(10,), lengths=False)
    assert set(figures_of(record)) == {
        "effect-of-labels",
        "effect-of-causality",
        "jump-loss",
        "jump-accuracy",
        "accuracy-by-slice",
    }


def test_chance_and_the_best_trivial_level_are_on_every_chart_of_an_accuracy(figures):
    for vocabulary, (chance, trivial) in LEVELS.items():
        expected = {"chance": chance, "trivial": trivial, "best": 1.0, "simple": RECENT * trivial}
        for name in ("learning-curves", "final--ltr", "final--masked", "jump-accuracy", "accuracy-by-slice"):
            for chart in figures[f"{name}--v{vocabulary}"].variants.values():
                assert levels_in(chart) == expected, name
        [lengths] = figures[f"accuracy-by-length--v{vocabulary}"].variants.values()
        [stops] = [layer for layer in lengths["layer"] if layer["name"] == "level_chance"]
        assert [row["level"] for row in stops["data"]["values"]] == [chance] * 4
        [loss, _] = figures[f"jump-loss--v{vocabulary}"].variants.values()
        assert levels_in(loss) == {"best": 0.9}, "the floor on all tokens"


def names_of(marks):
    return [(mark.kind, mark.text) for mark in marks]


def test_levels_that_are_about_equal_share_a_rule_and_its_name():
    trivial = {
        "unigram": 0.107,
        "bigram": 0.111,
        "copy_last": 0.001,
        "most_recent_value": 0.214,
        "in_context_mode": 0.29,
    }
    levels = Levels(chance=1 / 9, best=1.0, trivial=trivial | {"cache_1": 1.0}, solved_by=frozenset({"cache_1"}))
    assert names_of(every_mark(levels)) == [
        ("chance", "chance, unigram, bigram 0.111"),
        ("trivial", "the most frequent value in context 0.29"),
        ("best", "best possible 1"),
        ("simple", "most recent value 0.214"),
    ]
    # of memorisation the bigram is the answer; the best of the others is drawn once, under its own name
    learned = Levels(chance=0.01, trivial={"bigram": 1.0, "most_recent_value": 0.06}, solved_by=frozenset({"bigram"}))
    assert names_of(every_mark(learned)) == [("chance", "chance 0.01"), ("trivial", "the most recent value 0.06")]


@pytest.mark.parametrize("values", [(0.1, 0.12, 0.14, 0.16, 0.18, 0.2), (0.05, 0.3, 0.36, 0.4, 0.9, 1.0), (0.5,)])
def test_no_name_of_a_lying_rule_lies_on_another(values):
    kinds = ("chance", *["simple"] * 4, "best")
    chart = with_levels(
        charts.learning_curves(Axis("step", "s"), Axis("value", "v"), {"a": "#000"}, {"ltr": [1, 0]}),
        [Mark(kind, value, f"level {place}") for place, (kind, value) in enumerate(zip(kinds, values, strict=False))],
    )
    labels = [layer for layer in chart["layer"] if layer["name"].endswith("_label")]
    label_text = " ".join(layer["data"]["values"][0]["text"] for layer in labels)
    assert all(f"level {place} {value:g}" in label_text for place, value in enumerate(values)), (
        "each is named somewhere"
    )
    assert len({layer["name"] for layer in chart["layer"]}) == len(chart["layer"])
    for end in ("left", "right"):
        heights = sorted(
            layer["data"]["values"][0]["level"] - 0.03 * (1 if layer["mark"]["dy"] > 0 else -1)
            for layer in labels
            if layer["mark"]["align"] == end
        )
        assert all(higher - lower >= 0.05 - 1e-9 for lower, higher in pairwise(heights))


def test_a_level_that_solves_the_task_is_said_to_be_no_level_to_beat(figures):
    [note] = [note for note in figures["learning-curves--v10"].notes if note.startswith("No level to beat")]
    assert note == "No level to beat, for it is what the task asks for: looking up what followed the same token (1)."


def test_what_is_scored_on_all_tokens_has_no_levels_and_the_caption_says_why(tmp_path):
    figures = every_figure(made(tmp_path, scored="all", arms=(TaskArm("all"), TaskArm("answer", "answer")), **SHORT))
    assert levels_in(figures["learning-curves--v10"].variants["step"]) == {}
    assert any("known of answers alone" in note for note in figures["learning-curves--v10"].notes)


def test_a_loss_on_answers_stands_beside_that_of_a_guess(tmp_path):
    figures = every_figure(made(tmp_path, metric="validation.own.nats_per_token", **SHORT))
    assert levels_in(figures["learning-curves--v10"].variants["step"]) == {"guess": pytest.approx(1.386, abs=1e-3)}
    assert levels_in(figures["jump-accuracy--v10"].variants["step"])["chance"] == 0.25


def test_the_floor_is_that_of_a_causal_arm_on_all_tokens(tmp_path):
    figures = figures_of(
        made(tmp_path, arms=(TaskArm("answer", "answer"), TaskArm("masked", "all", "masked", 0.1)), **SHORT)
    )
    assert levels_in(figures["jump-loss--v10"].variants["step"]) == {}


def test_difficulty_is_the_number_that_varies_with_every_seed_and_the_levels(record, figures):
    figure = figures["accuracy-by-difficulty"]
    assert figure.title == "Accuracy by vocabulary"
    means = task_means(record, task_accuracy(record, "validation")).filter(arm="answer").sort("difficulty")
    mine = [row for row in figure.rows if row["kind"] == "arm" and row["series"] == "answer"]
    assert [row["value"] for row in mine] == pytest.approx(means["accuracy"].to_list(), rel=1e-5)
    assert [row["x"] for row in mine] == pytest.approx([10, 20, 30], abs=0.5)
    assert sum(row["kind"] == "seed" for row in figure.rows) == 36
    for kind, place in (("chance", 0), ("trivial", 1)):
        drawn = {row["x"]: row["value"] for row in figure.rows if row["kind"] == kind}
        assert drawn == pytest.approx({vocabulary: levels[place] for vocabulary, levels in LEVELS.items()}, rel=1e-5)
    assert any("answer at v30 (1 of 3)" in note for note in figure.notes)
    assert all(0 <= row["low"] <= row["high"] <= 1 for row in figure.rows if "low" in row)


def test_effects_have_a_row_for_each_pair_and_scale(figures):
    rows = figures["effect-of-labels"].rows
    assert list(dict.fromkeys(row["arm"] for row in rows)) == [
        f"v{v}: {pair}" for pair in ("all\n− answer", "masked\n− classifier") for v in (10, 20, 30)
    ]
    assert sum(row["kind"] == "seed" for row in rows) == 18
    assert {row["arm"] for row in figures["effect-of-causality"].rows} == {
        f"v{v}: {pair}" for v in (10, 20, 30) for pair in ("classifier\n− answer", "masked\n− all")
    }


def test_an_effect_between_arms_that_learned_nothing_is_said_to_say_nothing(tmp_path):
    arms = (TaskArm("answer", "answer"), TaskArm("classifier", "answer", "masked"))
    figure = figures_of(made(tmp_path, arms=arms, vocabularies=(30,), seeds=(1, 3)))["effect-of-causality"]
    assert any("Neither arm is above the trivial levels" in note for note in figure.notes)


def test_a_slice_of_one_value_is_not_drawn_and_counts_are_said(figures):
    figure = figures["accuracy-by-slice--v20"]
    assert list(figure.variants) == ["gap"]
    assert {row["slice_value"] for row in figure.rows} == {3, 7, 11, 15}
    row = figure.rows[0]
    assert row["low"] < row["value"] < row["high"]
    assert row["tokens_scored"] == 750
    [points] = [layer for layer in figure.variants["gap"]["layer"] if layer["name"] == "points"]
    assert {"hits", "tokens_scored"} <= {entry["field"] for entry in points["encoding"]["tooltip"]}


@pytest.mark.parametrize("seeds", [pytest.param((1,), marks=pytest.mark.nightly), (1, 2, 3)])
def test_every_drawing_draws(tmp_path, seeds):
    count = 0
    for figure in figures_of(made(tmp_path, vocabularies=(10, 30), seeds=seeds)).values():
        for name, specification in drawings(figure):
            rows = {**specification, "width": 600, "datasets": {ROWS: figure.rows}}
            svg = vl_convert.vegalite_to_svg(json.dumps(rows, allow_nan=False))
            assert len(list(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"))) >= 4, name
            assert "NaN" not in svg, name
            assert "Infinity" not in svg, name
            assert "undefined" not in svg, name
            count += 1
    assert count == 1 + 2 + 2 * (2 * 2 + 2)


def test_the_page_has_the_section_and_its_cards_say_chance(tmp_path, monkeypatch):
    monkeypatch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])
    page = build_report(make_task_store(tmp_path / "task", SyntheticTask(**SHORT)), "recall")
    text = page.read_text(encoding="utf-8")
    assert '<section id="task">' in text
    cards = text[text.index('<section id="verdict"') : text.index('<section id="curves"')]
    assert "chance 0.25, the most frequent value in context 0.505." in cards
    assert (page.parent / "tables" / "task_effects.parquet").is_file()
    plain = build_report(make_store(tmp_path / "text", Synthetic(steps=100, seeds=(1,))), "demo").read_text(
        encoding="utf-8"
    )
    assert 'id="task"' not in plain
    assert "chance" not in plain[plain.index('<section id="verdict"') : plain.index('<section id="curves"')]


def test_a_card_says_where_neither_arm_learned_anything(tmp_path, monkeypatch):
    monkeypatch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])
    arms = (TaskArm("answer", "answer"), TaskArm("classifier", "answer", "masked"))
    store = make_task_store(tmp_path, SyntheticTask(arms=arms, vocabularies=(30,), seeds=(1, 3)))
    assert "Neither is above what needs no learning." in build_report(store, "recall").read_text(encoding="utf-8")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_browser_draws_them_with_their_levels_on_either_axis(tmp_path, monkeypatch):
    monkeypatch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])
    with Browser() as browser:
        browser.open(build_report(make_task_store(tmp_path, SyntheticTask(**SHORT)), "recall"))
        curves = "document.querySelector(\"[data-figure='learning-curves--v10']\")"
        browser.run(f"{curves}.querySelector('input[value=log]').click()")
        browser.wait(f"{curves}.dataset.axes === 'log'")
        for figure in ("learning-curves--v10", "jump-accuracy--v30", "final--ltr--v10", "accuracy-by-length--v10"):
            assert "chance" in browser.run(
                f"document.querySelector(\"[data-figure='{figure}'] .canvas\").textContent"
            ), figure
        assert "− answer" in browser.run("document.querySelector('[data-figure=effect-of-labels] .canvas').textContent")
        assert browser.problems == []


def test_many_arms_are_shades_by_family_and_have_no_names_in_narrow_charts(tmp_path):
    arms = tuple(TaskArm(f"{mixer}-{labels}", labels) for mixer in "abcdef" for labels in ("all", "answer"))
    record = made(tmp_path, arms=arms, vocabularies=(10,), seeds=(1, 2))
    figures = every_figure(record)
    assert not [name for name in figures if name.startswith("ratio")], "accuracies that jump have figures of their own"
    wide = json.dumps(figures["learning-curves"].variants["step"])
    assert all(f'"{arm.name}"' in wide for arm in arms)
    for name in ("jump-accuracy", "jump-loss", "accuracy-by-slice", "accuracy-by-length"):
        figure = figures[name]
        for chart in figure.variants.values():
            colour = next(
                layer["encoding"]["color"] for layer in chart["layer"] if "color" in layer.get("encoding", {})
            )
            assert colour["legend"] is None, name
            assert not [layer for layer in chart["layer"] if layer.get("name") == "bands"], name
        assert any("Colours as in the learning curves" in note for note in figure.notes), name
    [few, *_] = figures_of(made(tmp_path / "few", vocabularies=(10,), seeds=(1, 2)))["jump-accuracy"].variants.values()
    colour = next(layer["encoding"]["color"] for layer in few["layer"] if "color" in layer.get("encoding", {}))
    assert colour["legend"]["columns"] >= 1


def test_colours_of_more_arms_than_there_are_colours():
    arms = [f"{mixer}-{way}" for mixer in ("attention", "h3", "hyena") for way in "abcd"]
    colours = theme.arm_colours(arms, "attention-a", [])
    assert len(set(colours.values())) == len(arms)
    leaking = theme.arm_colours(arms, "attention-a", ["h3-b"])
    assert leaking["h3-b"] == theme.LEAKS[0]
    few = theme.arm_colours(arms[:5], "attention-a", [])
    assert [few[arm] for arm in arms[:3]] == [theme.BASELINE, *theme.ARMS[:2]]


@pytest.mark.parametrize(
    ("names", "pixels", "columns"), [(["all", "b"], 640, 3), (["x" * 24] * 9, 640, 3), (["x" * 40], 300, 1)]
)
def test_a_legend_has_as_many_columns_as_fit(names, pixels, columns):
    assert columns_that_fit(names, pixels) == columns


def test_a_legend_of_many_arms_names_them_all():
    arms = [f"arm{number:02}" for number in range(40)]
    colour = alt.Color("arm:N", legend=charts.line_legend(columns=3))
    rows = [{"x": x, "y": x, "arm": arm} for arm in arms for x in (0, 1)]
    drawn = alt.Chart(alt.Data(values=rows)).mark_line().encode(x="x:Q", y="y:Q", color=colour)
    svg = vl_convert.vegalite_to_svg(drawn.to_dict(), allowed_base_urls=[])
    assert [arm for arm in arms if f">{arm}</text>" not in svg] == []
