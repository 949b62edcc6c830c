"""Figures over the number of blocks that remain: the loss itself, and both ratios."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from palinode.analysis import intervals
from palinode.analysis.layer_cuts import layer_cut_ratios, layer_cuts
from palinode.analysis.ratios import RATIO_1, RATIO_2, RATIOS
from palinode.analysis.verdict import Rule
from palinode.base.measures import MEASURES
from palinode.report import size_charts, size_figures, theme
from palinode.report.charts import Axis
from palinode.report.figure import Figure, Rows, file_name, rounded
from palinode.report.look import Look
from palinode.report.size_figures import RATIO_WORDS, over_seeds, series_of, spread_of, told_by
from palinode.report.words import SCORE_UNITS, number, score_of
from palinode.results.record import ExperimentRecord

BLOCKS = Axis("blocks", "blocks left, counted from the input", "d")
CUT_SCORES = ("nats_per_token", "perplexity")  # the tables hold the other scores too
MEANS = {"ratio_then_mean": "", "mean_then_ratio": ", means first"}
MEAN_WORDS = {"ratio_then_mean": "ratios averaged", "mean_then_ratio": "means first"}
STRIP_SCORES = {RATIO_1: "perplexity", RATIO_2: "nats_per_token"}  # as published
HEAD_DASHES: dict[str, list[int]] = {"trained": [1, 0], "refitted": [2, 2]}
HEAD_WORDS = {"trained": "head as trained", "refitted": "head refitted"}


def cut_figures(record: ExperimentRecord, rule: Rule, look: Look) -> Iterator[Figure]:
    """Lines and strips over blocks left; nothing where no run was cut."""
    split, _, _ = score_of(rule.metric)
    cuts = layer_cuts(record, split)
    if cuts.filter(pl.col("of_blocks") > 1).is_empty():
        return
    yield from _loss_figures(record, rule, look, cuts)
    ratios = {score: layer_cut_ratios(record, split, score, cuts) for score in CUT_SCORES}
    for ratio in RATIOS:
        mine = {
            score: found.filter(pl.col("arm").is_in(sorted(told_by(record, ratio))), ratio=ratio)
            for score, found in ratios.items()
        }
        yield from _ratio_figures(record, rule, look, ratio, mine)
        yield from _strips(record, rule, look, ratio, mine[STRIP_SCORES[ratio]])


def _loss_figures(record: ExperimentRecord, rule: Rule, look: Look, cuts: pl.DataFrame) -> Iterator[Figure]:
    """The loss itself: ltr solid, rtl dashed; the head as it was trained or refitted."""
    scored = cuts.filter(pl.col("trained")).drop_nulls("nats_per_token")
    means = _means(scored, rule.confidence)
    arms = [arm.name for arm in record.entry.arms if arm.name in set(means["arm"])]
    for arm, said, names, colours, kind in series_of(record, look, arms) if arms else ():
        here = means.filter(arm=arm) if arm else means
        rows = [_loss_row(row, names, key) for key, row in enumerate(here.sort("blocks").iter_rows(named=True))]
        drawn = _present(colours, rows)
        dashes = theme.direction_dashes(sorted(set(here["direction"])))
        heads = [head for head in HEAD_WORDS if head in set(here["head"])]
        y = Axis("value", f"{score_of(rule.metric)[0]} loss, nats per token", ".4f")
        yield Figure(
            name=file_name("layer-cut-loss", arm),
            kind="cuts",
            title=f"Loss with fewer blocks{said}",
            rows=rows,
            variants={
                head: size_charts.ratio_lines(BLOCKS, y, drawn, {"head": head}, dashes, kind, reference=None)
                for head in heads
            },
            labels={head: HEAD_WORDS[head] for head in heads} if len(heads) > 1 else {},
            choice="with",
            notes=(
                "The model without its last blocks; the last point of a line is the whole model.",
                over_seeds(here["seeds"].to_list(), rule),
                *_head_notes(heads),
            ),
            arm=arm or None,
        )


def _means(scored: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """The mean loss over seeds with its interval."""
    rows = []
    by = ("arm", "scale", "direction", "head", "blocks")
    for key, cell in scored.group_by(*by, maintain_order=True):
        values = cell["nats_per_token"].to_list()
        interval = intervals.t_interval(values, confidence)
        low, high = (interval.low, interval.high) if interval else (None, None)
        numbers = {
            "nats_per_token": intervals.mean(values),
            "interval_low": low,
            "interval_high": high,
            "seeds": len(values),
        }
        rows.append(dict(zip(by, key, strict=True)) | numbers)
    return pl.DataFrame(rows, infer_schema_length=None)


def _loss_row(row: Mapping[str, Any], names: Mapping[tuple[str, str], str], key: int) -> dict[str, Any]:
    return {
        "series": names[row["arm"], row["scale"]],
        "look": row["direction"],
        "direction": row["direction"],
        "head": row["head"],
        "key": key,
        "blocks": row["blocks"],
        "value": rounded(row["nats_per_token"]),
        **spread_of(row),
    }


def _ratio_figures(
    record: ExperimentRecord, rule: Rule, look: Look, ratio: str, found: Mapping[str, pl.DataFrame]
) -> Iterator[Figure]:
    """One ratio over blocks left, on loss and perplexity, with both ways to average; refitted heads dashed."""
    present = {arm for frame in found.values() for arm in frame["arm"]}
    arms = [arm.name for arm in record.entry.arms if arm.name in present]
    scores = [score for score, frame in found.items() if not frame.is_empty()]
    for arm, said, names, colours, kind in series_of(record, look, arms) if arms else ():
        frames = {score: found[score].filter(arm=arm) if arm else found[score] for score in scores}
        rows = [
            _ratio_row(row, names, score)
            for score, frame in frames.items()
            for row in frame.sort("blocks").iter_rows(named=True)
        ]
        rows = [row | {"key": key} for key, row in enumerate(rows)]
        heads = [head for head in HEAD_DASHES if any(row["look"] == HEAD_WORDS[head] for row in rows)]
        choices = {f"{score}-{way}": f"{MEASURES[score].title}{MEANS[way]}" for score in frames for way in MEANS}
        yield Figure(
            name=file_name(f"layer-cut-{ratio.replace('_', '-')}", arm),
            kind="cuts",
            title=f"{RATIO_WORDS[ratio].capitalize()} with fewer blocks{said}",
            rows=rows,
            variants={choice: _chart(choice, ratio, _present(colours, rows), heads, kind) for choice in choices},
            labels=choices,
            choice="on",
            notes=_ratio_notes(ratio, rule, [seeds for frame in frames.values() for seeds in frame["seeds"]], heads),
            arm=arm or None,
        )


def _strips(record: ExperimentRecord, rule: Rule, look: Look, ratio: str, found: pl.DataFrame) -> Iterator[Figure]:
    """A row per size (per arm where there is one size), a square per number of blocks left; one scale of colour for all."""
    score = STRIP_SCORES[ratio]
    present = set(found["arm"])
    arms = [arm.name for arm in record.entry.arms if arm.name in present]
    honest = found.filter(~pl.col("arm").is_in(sorted(look.leaking)))
    shown = found if honest.is_empty() else honest  # beside the ratios of a leak, 30 say, all others look the same
    domain = size_figures.around_one([value for way in MEANS for value in shown[way].drop_nulls()])
    for arm, said, names, colours, kind in series_of(record, look, arms) if arms else ():
        here = found.filter(arm=arm) if arm else found
        rows = [
            square
            for row in here.sort("blocks").iter_rows(named=True)
            for way in MEANS
            if (square := _square(row, names, way)) is not None
        ]
        heads = [head for head in reversed(HEAD_WORDS) if head in set(here["head"])]
        choices = {f"{way}-{head}": _choice_words(way, head, heads) for head in heads for way in MEANS}
        sizes = list(_present(colours, rows))
        blocks = [str(count) for count in sorted({int(row["blocks"]) for row in rows})]
        ramp, height = size_charts.AROUND_ONE, size_charts.STRIP_ROW_PIXELS
        what = f"{RATIO_WORDS[ratio]}, {SCORE_UNITS[score]}"
        yield Figure(
            name=file_name(f"layer-cut-strip-{ratio.replace('_', '-')}", arm),
            kind="cuts",
            title=f"{RATIO_WORDS[ratio].capitalize()} of {MEASURES[score].title}, blocks left{said}",
            rows=rows,
            variants={
                choice: size_charts.heat_map(
                    Axis("series", kind, ""), sizes, BLOCKS, blocks, what, ramp, domain, {"choice": choice}, height
                )
                for choice in choices
            },
            labels=choices,
            choice="with",
            notes=_ratio_notes(ratio, rule, here["seeds"].to_list(), heads),
            arm=arm or None,
        )


def _square(row: Mapping[str, Any], names: Mapping[tuple[str, str], str], way: str) -> dict[str, Any] | None:
    value = row[way]
    if value is None:
        return None
    name, low, high = names[row["arm"], row["scale"]], row["interval_low"], row["interval_high"]
    of_these = low is not None and way == "ratio_then_mean"  # an interval is that of averaged ratios
    spread = f" ({number(low)} to {number(high)})" if of_these else ""
    left = f"{row['blocks']} of {row['of_blocks']} blocks"
    return {
        "series": name,
        "choice": f"{way}-{row['head']}",
        "blocks": str(row["blocks"]),
        "value": rounded(value),
        "label": f"{value:.3f}",
        "dark": False,
        "text": f"{name}, {left}: {number(value)}{spread} over {row['seeds']} seed{'' if row['seeds'] == 1 else 's'}",
    }


def _choice_words(way: str, head: str, heads: Sequence[str]) -> str:
    mean = MEAN_WORDS[way]
    return f"{HEAD_WORDS[head]}, {mean}" if len(heads) > 1 else mean


def _chart(choice: str, ratio: str, colours: Mapping[str, str], heads: list[str], kind: str) -> dict[str, Any]:
    score, _, way = choice.partition("-")
    y = Axis(way, f"{RATIO_WORDS[ratio]}, {SCORE_UNITS[score]}", ".4f")
    dashes = {HEAD_WORDS[head]: HEAD_DASHES[head] for head in heads}
    return size_charts.ratio_lines(BLOCKS, y, colours, {"score": score}, dashes, kind)


def _ratio_row(row: Mapping[str, Any], names: Mapping[tuple[str, str], str], score: str) -> dict[str, Any]:
    return {
        "series": names[row["arm"], row["scale"]],
        "look": HEAD_WORDS[row["head"]],
        "score": score,
        "blocks": row["blocks"],
        **{way: rounded(row[way], 5) for way in MEANS},
        **spread_of(row),
    }


def _ratio_notes(ratio: str, rule: Rule, seeds: list[int], heads: list[str]) -> tuple[str, ...]:
    what = (
        "ltr over rtl of the same arm"
        if ratio == RATIO_2
        else f"the baseline {rule.baseline} over the arm, both on ltr"
    )
    means = (
        "Ratios of single seeds are averaged, with their interval; “means first” divides the means over seeds instead."
    )
    return (f"{RATIO_WORDS[ratio].capitalize()}: {what}.", means, over_seeds(seeds, rule), *_head_notes(heads))


def _head_notes(heads: list[str]) -> list[str]:
    return (
        ["Refitted: the final norm and head were trained again for each number of blocks."]
        if "refitted" in heads
        else []
    )


def _present(colours: Mapping[str, str], rows: Rows) -> dict[str, str]:
    shown = {row["series"] for row in rows}
    return {name: colour for name, colour in colours.items() if name in shown}
