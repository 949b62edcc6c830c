"""The figure of a findings page: the effect of every claim with its intervals, one panel for each claim and measure.

A claim about a slope has one panel more: the points through which its line goes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from math import log10
from statistics import mean
from textwrap import wrap
from typing import Any

from palinode.analysis.claim_measures import MEAN_OF
from palinode.report import theme

# Judgement -> its colour. The words are those of the page.
COLOURS = {"holds": "#1f8a80", "does not hold": "#c8372d", "cannot tell": "#8c8678", "not judged": "#3c6fa8"}
# Measure -> the title of its axis; another measure has its own name as the title.
AXES = {
    "difference": "difference in the metric of the rule",
    "score": "score",
    "ratio": "ratio of the losses, less 1",
    "ratio_by_tokens": "change of the ratio for ten times the rtl tokens",
    "ratio_slope": "change of the ratio for ten times the parameters",
    "ratio_width_less_depth": "change of the ratio over widths, less that over depths",
    "layer_cut": "change of the ratio when blocks are left out",
    "context": "rtl loss / ltr loss, less 1",
    "steps_to_learn": "ratio of the steps to half-way",
    "rank_correlation": "rank correlation",
    "selection": "what the choice on the test split adds",
    "term": "value of the auxiliary term",
}
# Last word of a metric -> what a difference of it is counted in.
METRICS = {"accuracy": "share of right answers", "nats_per_token": "nats per token"}
# Measure of a slope -> the title of the axis of its lines.
LINES = {"ratio_by_tokens": "tokens read right to left, logarithmic", "ratio_slope": "parameters, logarithmic"}
SHAPES = ("circle", "square", "triangle-up")
# A figure with more rows leaves out the rows of single groups: the page has them in a table.
MOST_ROWS = 60
# Rows of several scales name no scale in the figure.
OF_SCALES = ("all ", MEAN_OF)
MOST_CHARACTERS, CHARACTER_WIDTH = 40, 7.0  # of a label: a longer one is cut; the pixels of a wide character on average
MOST_WORDS = 24  # characters of what is told of a claim behind a label
PANEL_WIDTH, TITLE_CHARACTERS = 520, 76  # so many characters of a title are as wide as a panel
RATIOS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 10]  # ticks of an axis of ratios
SMALL = 1e-3  # numbers that are all smaller than this are written as powers of ten
TITLE: Mapping[str, Any] = {"anchor": "start", "frame": "group", "fontSize": 12}
Row = Mapping[str, Any]


def claims_chart(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The Vega-Lite chart of judged claims (`JudgedClaim.row`); None if no row has an effect."""
    shown = [row for row in rows if row["effect"] is not None]
    if len(shown) > MOST_ROWS:
        shown = [row for row in shown if not row["of_one_group"]]
    panels = list(dict.fromkeys((row["name"], row["measure"]) for row in shown))
    if not panels:
        return None
    used = [word for word in COLOURS if any(row["verdict"] == word for row in shown)]
    scales = {row["scale"] for row in shown if not row["scale"].startswith(OF_SCALES)}
    of_panel = {panel: [row for row in shown if (row["name"], row["measure"]) == panel] for panel in sorted(panels)}
    points = {panel: _points(rows, len(scales) > 1) for panel, rows in of_panel.items()}
    longest = max(len(point["label"]) for some in points.values() for point in some)
    space = CHARACTER_WIDTH * longest
    return {
        "vconcat": [
            *(_panel(rows, points[panel], used, space) for panel, rows in of_panel.items()),
            *(_lines(*panel, rows, space) for panel, rows in _rows_with_points(shown).items()),
        ],
        "resolve": {"scale": {"color": "shared"}},
    }


def _points(rows: Sequence[Row], scaled: bool) -> list[dict[str, Any]]:
    """The rows of one panel, each with a label of its own, because rows with one label would be drawn over each other."""
    labels = [_label(row, scaled) for row in rows]
    alike: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        alike.setdefault(label, []).append(index)
    for label, indices in alike.items():
        if len(indices) > 1:
            for index, words in zip(indices, _apart([rows[index] for index in indices]), strict=True):
                labels[index] = f"{label} [{words}]"
    numbers = ("effect", "low", "high", "family_low", "family_high", "published")
    return [
        {"label": _cut(label), "verdict": row["verdict"]} | {name: as_shown(row, name) for name in numbers}
        for label, row in zip(labels, rows, strict=True)
    ]


def as_shown(row: Row, name: str) -> float | None:
    """A number of a row as pages show it: Student's interval of a share of right answers may leave 0 to 1, where no share is."""
    value: float | None = row[name]
    is_share = row.get("measure") == "score" and row["measured"].endswith(".accuracy")
    return min(1.0, max(0.0, value)) if is_share and value is not None else value


def _cut(label: str) -> str:
    """A label that fits beside its panel. What tells it from others stands at its end."""
    half = MOST_CHARACTERS // 2
    return label if len(label) <= MOST_CHARACTERS else f"{label[:half]}…{label[1 - half :]}"


def _label(row: Row, scaled: bool) -> str:
    """The group alone where the arm has it in its name, else the arm with its group; then the scale where there are several."""
    named = scaled and not row["scale"].startswith(OF_SCALES)
    group, scale = row["group"], [f"[{row['scale']}]"] if named else []
    if row["measure"] == "rank_correlation":
        return " ".join((f"{row['count']} groups", *scale))
    if row.get("of_one_group"):
        return " ".join((group, *scale))
    if group.startswith(MEAN_OF) and ", " in group:
        return " ".join((f"{MEAN_OF}{group.count(', ') + 1} groups", *scale))
    return " ".join((row["arm"].replace("{}", "P"), *([f"[{group}]"] if group else []), *scale))


def _apart(rows: Sequence[Row]) -> list[str]:
    """What tells rows about one arm apart: the arm of the comparison, else words of the measures, else a few of the claims."""
    if len({row["against"] for row in rows}) == len(rows):
        return [f"over {'itself' if row['against'] == row['arm'] else row['against']}" for row in rows]
    words = words_apart([row["measured"] for row in rows])
    if len({row["measured"] for row in rows}) > 1:
        return words
    of_claims = words_apart([row["claim"].rstrip(".") for row in rows])
    return of_claims if max(map(len, of_claims)) <= MOST_WORDS else words


def words_apart(texts: Sequence[str]) -> list[str]:
    """The words in which texts differ, place by place; a number behind texts that are equal."""
    split = [text.split() for text in texts]
    differs = [len(set(words)) > 1 for words in zip_longest(*split)]
    short = [
        " ".join(word for word, is_other in zip(words, differs, strict=False) if is_other).strip(",") for words in split
    ]
    return [
        f"{words} {short[:index].count(words) + 1}".strip() if short.count(words) > 1 else words
        for index, words in enumerate(short)
    ]


def _title(rows: Sequence[Row]) -> list[str]:
    """The name of a claim and what it says, as lines. Of sentences that differ: what stands before their colons, or nothing."""
    name, sentences = rows[0]["name"], list(dict.fromkeys(row["claim"].rstrip(".") for row in rows))
    said = sentences[0]
    if any(not one.startswith("The same") for one in sentences[1:]):
        heads = {one.partition(":")[0] for one in sentences}
        said = heads.pop() if len(heads) == 1 else ""
    return wrap(f"{name}. {said}" if said else name, TITLE_CHARACTERS)


def _panel(
    rows: Sequence[Row], values: Sequence[Mapping[str, Any]], used: Sequence[str], space: float
) -> dict[str, Any]:
    """One panel: thin lines are intervals that judge, thick ones those of single rows, hollow diamonds published effects.

    A dashed line stands where there is no effect, a dotted one at a bound that the claim names.
    """
    measure = rows[0]["measure"]
    limits = sorted({limit for row in rows for limit in row.get("limits", ())})
    x = _across(
        measure, [*values, *({"effect": at} for at in limits)], {row["measured"].rpartition(".")[2] for row in rows}
    )
    labels = list(dict.fromkeys(value["label"] for value in values))
    y = {
        "field": "label",
        "type": "nominal",
        "title": None,
        "sort": labels,
        "axis": {"labelLimit": 0, "minExtent": space},
    }
    colour = {
        "field": "verdict",
        "type": "nominal",
        "scale": {"domain": list(used), "range": [COLOURS[word] for word in used]},
        "legend": {"orient": "top", "title": None, "columnPadding": 24},
    }
    lines = [("family_low", "family_high", 1.5, 1.0), ("low", "high", 5.0, 0.45)]
    layers = _rules_at(1.0 if measure == "steps_to_learn" else 0.0, limits, x)
    layers += [
        {
            "mark": {"type": "rule", "strokeWidth": width, "opacity": opacity},
            "encoding": {"y": y, "x": {"field": low, **x}, "x2": {"field": high}, "color": colour},
        }
        for low, high, width, opacity in lines
    ]
    point = {"type": "point", "filled": True, "size": 60, "opacity": 1}
    published = {"type": "point", "shape": "diamond", "size": 90, "strokeWidth": 1.5, "color": theme.LIGHT["ink"]}
    layers += [
        {"mark": point, "encoding": {"y": y, "x": {"field": "effect", **x}, "color": colour}},
        {
            "transform": [{"filter": "isValid(datum.published)"}],
            "mark": published,
            "encoding": {"y": y, "x": {"field": "published", **x}},
        },
    ]
    size = {"width": PANEL_WIDTH, "height": {"step": 20}}
    return {"title": {"text": _title(rows), **TITLE}, **size, "data": {"values": list(values)}, "layer": layers}


def _rules_at(no_effect: float, limits: Sequence[float], x: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The dashed line where there is no effect, and the dotted ones at the bounds."""
    return [
        {
            "data": {"values": [{"at": one} for one in at]},
            "mark": {"type": "rule", "strokeDash": dash},
            "encoding": {"x": {"field": "at", **x}},
        }
        for at, dash in (([no_effect], [3, 3]), (limits, [1, 3]))
        if at
    ]


def _across(measure: str, values: Sequence[Mapping[str, Any]], metrics: Collection[str]) -> dict[str, Any]:
    """The axis of the effects. `metrics` holds the last words of what the rows measure: differences of one metric name it."""
    ticks: dict[str, Any] = {"tickCount": 6, "labelFlush": False}
    numbers = [
        abs(value[name])
        for value in values
        for name in ("effect", "family_low", "family_high")
        if value.get(name) is not None
    ]
    if max(numbers) < SMALL:
        ticks["format"] = "~e"
    scale: dict[str, Any] = {"zero": True}
    if measure == "steps_to_learn":  # half the steps and twice the steps are equally far from 1
        ends = [*numbers, 1.0]
        scale = {"type": "log", "domain": [min(ends) / 1.1, max(ends) * 1.1]}
        ticks = {"values": RATIOS, "format": "~g"}
    elif measure == "rank_correlation":
        scale = {"domain": [-1, 1]}
    (metric,) = metrics if len(metrics) == 1 else ("",)
    title = (
        f"difference, {METRICS[metric]}"
        if measure == "difference" and metric in METRICS
        else AXES.get(measure, measure)
    )
    return {"type": "quantitative", "title": title, "scale": scale, "axis": ticks}


def _rows_with_points(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of slopes whose lines one panel draws, by claim and measure. Pages that older versions wrote have no points."""
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get("points") and row["measure"] in LINES:
            panels.setdefault((row["name"], row["measure"]), []).append(row)
    return dict(sorted(panels.items()))


def _lines(name: str, measure: str, rows: Sequence[Row], space: float) -> dict[str, Any]:
    """The panel of the slopes of one claim: a line for each row through its points, each point with its interval."""
    at = [point["at"] for row in rows for point in row["points"]]
    x = {"type": "quantitative", "title": LINES[measure], "axis": {"format": "~s", "tickCount": 4, "grid": False}}
    x["scale"] = {"type": "log", "domain": [min(at) / 1.3, max(at) * 2]}
    y = {"type": "quantitative", "title": None, "axis": {"minExtent": space, "tickCount": 6}}
    no_effect = {"data": {"values": [{"value": 0}]}, "mark": {"type": "rule", "strokeDash": [3, 3]}}
    layers: list[dict[str, Any]] = [no_effect | {"encoding": {"y": {"field": "value", **y}}}]
    ends = [_ends_of_line(row) for row in rows]
    by_height = sorted(range(len(rows)), key=lambda index: -ends[index][1]["value"])
    for index, row in enumerate(rows):
        # The labels of lines that end at the same height stand one below the other: 12 pixels for each.
        down = 12 * (by_height.index(index) - (len(rows) - 1) / 2)
        look = {"color": theme.ARMS[index % len(theme.ARMS)], "shape": SHAPES[index % len(SHAPES)]}
        layers += _line(row, ends[index], down, look, x, y)
    return {
        "title": {"text": f"{name}: {AXES['ratio']}", **TITLE},
        "width": PANEL_WIDTH,
        "height": 200,
        "layer": layers,
    }


def _ends_of_line(row: Row) -> list[dict[str, float]]:
    """Both ends of the line of least squares: it has the slope of the row and goes through the mean of the points."""
    logs, values = ([log10(point["at"]) for point in row["points"]], [point["mean"] for point in row["points"]])
    middle, height = mean(logs), mean(values)
    return [{"at": 10**log, "value": height + row["effect"] * (log - middle)} for log in (logs[0], logs[-1])]


def _line(
    row: Row,
    ends: Sequence[Row],
    down: float,
    look: Mapping[str, str],
    x: Mapping[str, Any],
    y: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The layers of one line: the straight line, its points with their intervals, and its label at the right end."""
    points = row["points"]
    place, colour = {"x": {"field": "at", **x}, "y": {"field": "value", **y}}, look["color"]
    mean_at = {**place, "y": {"field": "mean", **y}}
    interval = {**place, "y": {"field": "low", **y}, "y2": {"field": "high"}}
    return [
        {"data": {"values": ends}, "mark": {"type": "line", "color": colour, "strokeWidth": 1.5}, "encoding": place},
        {"data": {"values": points}, "mark": {"type": "rule", "color": colour}, "encoding": interval},
        {
            "data": {"values": points},
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1, **look},
            "encoding": mean_at,
        },
        {
            "data": {"values": [{**ends[1], "label": _label(row, scaled=False)}]},
            "mark": {"type": "text", "align": "left", "dx": 10, "dy": down, "color": colour},
            "encoding": {**place, "text": {"field": "label"}},
        },
    ]
