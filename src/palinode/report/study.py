"""The classes that all families of figures share: `Study` (an experiment as its report shows it) and `Figure`.

A study holds the decision rule, the verdicts, the colours and the names. An arm and a size have the same colour and name in all
figures of one report. A figure is one chart with its data.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from palinode.analysis import intervals
from palinode.analysis.audits import arm_audit
from palinode.analysis.compare import Comparison
from palinode.analysis.curves import evaluation_curves, mean_curves, trained_directions
from palinode.analysis.sizes import ScaleSize, scale_sizes
from palinode.analysis.verdict import Verdict, verdicts
from palinode.base.decision import Decision
from palinode.base.measures import CURVE_AXES, probability_words
from palinode.report import theme
from palinode.report.words import interval_words, number, plural, signed
from palinode.results.record import ExperimentRecord

SIGNIFICANT_DIGITS = 6  # the digits of a number in a chart; the tables hold all digits
MOST_SEED_CURVES = 20  # the largest number of seeds whose own curves a chart has; the mean curves are over all seeds
MOST_CURVE_ROWS = 8_000  # the largest number of rows in a chart of curves; the tables hold every row
Rows = list[dict[str, Any]]
CurvePart = tuple[str, str, pl.DataFrame, Mapping[str, str]]
LATE = (0.5, 1.0)  # the second half of training; the published text uses epochs 5 to 10
Window = tuple[float, float]  # the start and the end of a window, as shares of training


@dataclass(frozen=True)
class Figure:
    """One chart with its data.

    Attributes:
        name: the file name of the figure, without an ending.
        rows: the data that all variants share.
        variants: key of a variant, mostly its x-axis ("" for a single variant) -> Vega-Lite specification without data.
        labels: key of a variant -> the text on the button that shows the variant. `choice` is the word before the buttons.
        log_axes: whether the reader can make both axes logarithmic.
        half: whether the figure is half as wide as the page, so that two figures fit side by side.
        notes: what a reader must know to understand the figure.
        arm: the arm that the whole figure shows; None if the figure shows several arms.
        section: the name of the figure's section on the page (`content.SECTIONS`), set by `build.all_figures`.
    """

    name: str
    title: str
    rows: Rows
    variants: Mapping[str, dict[str, Any]]
    labels: Mapping[str, str] = field(default_factory=dict)
    choice: str = "against"
    log_axes: bool = False
    half: bool = False
    notes: tuple[str, ...] = ()
    arm: str | None = None
    section: str = ""

    @property
    def description(self) -> str:
        """The text for readers who cannot see the chart."""
        return " ".join((f"{self.title}.", *self.notes))

    @property
    def directions(self) -> list[str]:
        """The directions that a reader can choose in the chart; empty if the chart shows only one direction."""
        present = sorted({row["direction"] for row in self.rows if "direction" in row})
        return present if len(present) > 1 else []


@dataclass(frozen=True)
class Look:
    """The colour and the chart label of every arm."""

    colours: dict[str, str]
    labels: dict[str, str]
    leaking: tuple[str, ...] = ()

    def shown(self, labels: Collection[str]) -> dict[str, str]:
        """The colours of the arms with these labels, as a mapping (label -> colour) in the order of the experiment."""
        return {self.labels[arm]: colour for arm, colour in self.colours.items() if self.labels[arm] in labels}


@dataclass(frozen=True)
class Place:
    """The subject of a figure: one arm, one scale, or the whole experiment.

    Attributes:
        arm: the arm that the whole figure shows; None if the figure shows several arms.
        file_end: the end of the figure's file name, which names the arm or the scale; empty for the whole experiment.
        title_end: the end of the figure's title, which names the arm or the scale; empty for the whole experiment.
    """

    arm: str | None = None
    file_end: str = ""
    title_end: str = ""

    def figure(self, name: str, title: str, rows: Rows, charts: Mapping[str, dict[str, Any]], **more: Any) -> Figure:
        """A figure about this subject. `charts` are the variants of the figure, `more` are further fields of `Figure`."""
        return Figure(file_name(name, self.file_end), title + self.title_end, rows, charts, arm=self.arm, **more)


@dataclass(frozen=True)
class Lines:
    """The lines of one figure, and the frame whose rows they show.

    Attributes:
        place: the arm to which all lines belong, or the whole experiment if each line is an arm.
        names: (arm, scale) -> name of the line; `colours`: name of the line -> colour, for lines that have rows.
        what: the word for what one line stands for: `arm` or `size`.
    """

    place: Place
    names: dict[tuple[str, str], str]
    colours: dict[str, str]
    what: str
    frame: pl.DataFrame

    def rows(self, fields: Callable[[dict[str, Any]], dict[str, Any]]) -> Rows:
        """The rows of a chart of lines: for each row of the frame, its interval, its number of seeds, and what `fields` returns."""
        return [
            {"series": self.names[row["arm"], row["scale"]], "look": "mean", "key": key, "seeds": row["seeds"]}
            | {"low": rounded(row["interval_low"], 5), "high": rounded(row["interval_high"], 5)}
            | fields(row)
            for key, row in enumerate(self.frame.iter_rows(named=True))
        ]


@dataclass(frozen=True)
class Study:
    """An experiment as its report shows it.

    Attributes:
        verdicts: the verdicts, one per arm and scale.
        window: the share of training whose points the violins pool.
    """

    record: ExperimentRecord
    rule: Decision
    verdicts: Sequence[Verdict]
    window: Window = LATE

    @classmethod
    def of(cls, record: ExperimentRecord, window: Window = LATE) -> Study:
        """The study of the experiment in a record.

        Raises:
            BadInput: the decision rule of the experiment cannot be applied.
        """
        return cls(record, record.entry.rule, verdicts(record), window)

    @cached_property
    def look(self) -> Look:
        return look_of(self.record, self.rule)

    @property
    def split(self) -> str:
        return self.rule.score.split

    @property
    def score(self) -> str:
        """The measure that curves and ratios show."""
        return self.rule.curve_measure

    @property
    def scales(self) -> tuple[str, ...]:
        return self.record.entry.scales

    @cached_property
    def curves(self) -> pl.DataFrame:
        """The frame with every evaluation, made by `evaluation_curves`."""
        return evaluation_curves(self.record)

    @cached_property
    def sizes(self) -> dict[str, ScaleSize]:
        return scale_sizes(self.record)

    def arms(self, present: Collection[Any] | None = None) -> list[str]:
        """The arms in the order of the experiment. If `present` is given, only the arms in `present` are returned."""
        return [arm.name for arm in self.record.entry.arms if present is None or arm.name in present]

    def at(self, scale: str) -> Place:
        """The place of a figure about one scale. The name of the scale is left out if the experiment has only one scale."""
        return Place(None, scale, f", scale {scale}") if len(self.scales) > 1 else Place()

    def of_arm(self, arm: str) -> Place:
        """The place of a figure about one arm."""
        return Place(arm, arm, f", {self.look.labels[arm]}")

    def trained_on(self, *directions: str) -> set[str]:
        """The arms that were trained in all given directions. An arm counts as trained in a direction if one of its runs was."""
        ways = {arm: set[str]() for arm in self.arms()}
        for run in self.record.runs:
            ways[run.entry.arm] |= trained_directions(run)
        return {arm for arm, trained in ways.items() if set(directions) <= trained}

    def lines(self, frame: pl.DataFrame) -> Iterator[Lines]:
        """The lines of all figures that show a frame.

        With several scales there is one figure per arm, with a line per model size. With one scale there is one figure, with a
        line per arm. There is no figure for an empty frame.
        """
        arms = self.arms(set(frame["arm"]))
        if arms and len(self.scales) == 1:
            names = {(arm, self.scales[0]): self.look.labels[arm] for arm in arms}
            yield Lines(Place(), names, self.look.shown(names.values()), "arm", frame)
        else:
            yield from (self._lines_of_sizes(arm, frame.filter(arm=arm)) for arm in arms)

    def _lines_of_sizes(self, arm: str, frame: pl.DataFrame) -> Lines:
        labels, present = size_labels(self.sizes), set(frame["scale"])
        colours = theme.size_colours(list(labels.values()), leaking=arm in self.look.leaking)
        drawn = {label: colours[label] for scale, label in labels.items() if scale in present}
        names = {(arm, scale): label for scale, label in labels.items()}
        return Lines(self.of_arm(arm), names, drawn, "size", frame)

    def over_seeds(self, rows: Rows) -> str:
        """The note for the rows of a figure, such as `Each point is over 3 seeds; hovering gives its 95% interval.`"""
        low, high = min(row["seeds"] for row in rows), max(row["seeds"] for row in rows)
        seeds = f"{low} to {high} seeds" if low != high else plural(low, "seed")
        hovering = f"; hovering gives its {probability_words(self.rule.confidence)} interval" if high > 1 else ""
        return f"Each point is over {seeds}{hovering}."

    def interval(self, values: Sequence[float]) -> tuple[float, float | None, float | None]:
        """The mean over seeds and the two ends of its t interval. The ends are None if there is only one seed."""
        return intervals.mean(values), *intervals.ends(intervals.t_interval(values, self.rule.confidence))

    def means(self, frame: pl.DataFrame, column: str, *by: str) -> Iterator[dict[str, Any]]:
        """The means of a column over seeds with their intervals, for each value of the columns `by`, in the frame's order."""
        for key, cell in frame.group_by(*by, maintain_order=True):
            mean, low, high = self.interval(cell[column].to_list())
            numbers = {column: mean, "seeds": cell.height, "interval_low": low, "interval_high": high}
            yield dict(zip(by, key, strict=True)) | numbers

    def dots(self, label: str, values: Mapping[int, float], text_of: Any = number) -> Rows:
        """The rows of a chart of dots: a row per seed and a row for the mean. With one seed, `low` and `high` equal the mean."""
        mean, low, high = self.interval(list(values.values()))
        text = text_of(mean)
        if low is None or high is None:
            low = high = mean
        else:
            text += f"; {interval_words(low, high, self.rule.confidence, 4)}"
        centre: dict[str, Any] = {"kind": "mean", "arm": label, "value": rounded(mean), "text": text}
        seeds = [{"kind": "seed", "arm": label, "seed": seed, "value": rounded(v)} for seed, v in values.items()]
        return [centre | {"low": rounded(low), "high": rounded(high)}, *seeds]

    def differences(self, labelled: Mapping[str, Comparison], text_of: Any = number) -> tuple[Rows, dict[str, str]]:
        """A pair: the rows (`dots`) of the differences of each comparison, and the colours of the arms (label -> colour)."""
        colours = {label: self.look.colours[comparison.arm] for label, comparison in labelled.items()}
        rows: Rows = []
        for label, comparison in labelled.items():
            rows += self.dots(label, {pair.seed: pair.difference for pair in comparison.pairs}, text_of)
        return rows, colours

    def seeds_and_means(self, frame: pl.DataFrame, score: str, what: str) -> tuple[Rows, list[str]]:
        """The result of `curve_rows` for one score: the rows of the curves of single seeds and of the mean curves, and notes."""
        seeds = frame["seed"].unique().sort().to_list()
        drawn = seeds[:: -(-len(seeds) // MOST_SEED_CURVES)] if seeds else []
        own = frame.filter(pl.col("seed").is_in(drawn))
        rows, notes = self.curve_rows([("seed", score, own, {}), ("mean", score, mean_curves(frame, score), {})], what)
        few = f"The curves of {len(drawn)} of {len(seeds)} seeds are drawn; the means are over all of them."
        return rows, [*([few] if len(drawn) < len(seeds) else []), *notes]

    def curve_rows(self, parts: Sequence[CurvePart], what: str) -> tuple[Rows, list[str]]:
        """The rows of the curves of single seeds and of means, and the notes about these rows.

        If there are too many rows to draw, every n-th row is kept, and a note says this.

        Args:
            parts: the parts of the curves, as tuples: line (seed or mean), column of the value, frame, further fields of each row.
            what: the word for one point of a curve, such as `evaluation`.
        """
        every = max(1, -(-sum(frame.height for _, _, frame, _ in parts) // MOST_CURVE_ROWS))
        steps = sorted({step for _, _, frame, _ in parts for step in frame["step"].unique()})
        kept = {step for index, step in enumerate(steps) if index % every == 0 or step == steps[-1]}
        rows: Rows = []
        for line, column, frame, more in parts:
            for row in frame.filter(pl.col("step").is_in(kept)).iter_rows(named=True):
                who = {name: row[name] for name in ("direction", "seed") if name in row}
                where = {axis: rounded(row[axis]) for axis in CURVE_AXES}
                shown = {"line": line, "key": len(rows), "arm": self.look.labels[row["arm"]], **more}
                rows.append(shown | who | where | {"value": rounded(row[column])})
        return rows, [f"One {what} in {every} is drawn; the tables hold all of them."] if every > 1 else []


def look_of(record: ExperimentRecord, rule: Decision) -> Look:
    """The colours and labels of the arms. A leaking arm is red. The label of a leaking or collapsing arm says so."""
    arms = [arm.name for arm in record.entry.arms]
    audits = {arm: arm_audit(record, arm) for arm in arms}
    leaking = [arm for arm in arms if audits[arm].leak != "none"]
    collapsing = [arm for arm in arms if audits[arm].collapse != "none"]
    stamps = dict.fromkeys(collapsing, " (COLLAPSE)") | dict.fromkeys(leaking, " (LEAK)")
    labels = {arm: arm + stamps.get(arm, "") for arm in arms}
    return Look(theme.arm_colours(arms, rule.baseline, leaking), labels, tuple(leaking))


def size_labels(sizes: Mapping[str, ScaleSize]) -> dict[str, str]:
    """The labels of the model sizes, from the smallest to the largest, as a mapping: scale -> label such as `16x768, 136 M`.

    A scale whose model size is not known comes first.
    """
    ordered = sorted(sizes.values(), key=lambda size: size.parameters or 0)
    return {
        size.scale: size.scale if size.parameters is None else f"{size.scale}, {millions(size.parameters)}"
        for size in ordered
    }


def millions(parameters: int) -> str:
    """A number of parameters as text with three digits, such as 136 M, 1.25 M or 427 k."""
    unit, letter = (1e6, "M") if parameters >= 1e6 else (1e3, "k")
    return f"{number(float(f'{parameters / unit:.3g}'), 3)} {letter}"


def kept_inside(rows: Rows, least: int, most: int) -> tuple[Rows, list[str]]:
    """A pair: the rows with intervals cut to the range from `least` to `most`, and a note if an interval was cut."""
    inside = []
    for row in rows:
        ends = {side: row[side] for side in ("low", "high") if row.get(side) is not None}
        inside.append(row | {side: min(max(end, least), most) for side, end in ends.items()})
    note = f"Intervals are cut at {signed(least)} and {number(most)}: the number cannot lie beyond."
    return inside, [] if inside == rows else [note]


def rounded(value: float | int | None, digits: int = SIGNIFICANT_DIGITS) -> float | int | None:
    """The number, rounded to `digits` significant digits; a whole number has no decimal point."""
    if value is None or isinstance(value, int):
        return value
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def file_name(*parts: str) -> str:
    """A file name from names that users chose: ASCII letters, digits, `.`, `_` and `-`."""
    plain = unicodedata.normalize("NFKD", "--".join(part for part in parts if part)).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.")[:120] or "figure"
