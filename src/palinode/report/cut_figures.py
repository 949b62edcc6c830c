"""The figures of the layer cut: the loss and both ratios over the number of blocks that remain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from palinode.analysis.curves import layer_cuts
from palinode.analysis.ratios import RATIO_1, RATIO_2, RATIOS, layer_cut_ratios
from palinode.base.measures import MEASURES
from palinode.report import charts, theme
from palinode.report.charts import Axis, Heat
from palinode.report.size_figures import RATIO_WORDS, around_one, in_ratio
from palinode.report.study import Figure, Lines, Rows, Study, rounded
from palinode.report.words import number, plural

BLOCKS = Axis("blocks", "blocks left, counted from the input", "d")
CUT_SCORES = ("nats_per_token", "perplexity")  # the scores that are drawn; the tables also hold the other scores
MEANS = {"ratio_then_mean": "ratios averaged", "mean_then_ratio": "means first"}
STRIP_SCORES = {RATIO_1: "perplexity", RATIO_2: "nats_per_token"}  # the published figures show these scores
HEAD_WORDS = {"trained": "head as trained", "refitted": "head refitted"}
HEAD_DASHES = {"head as trained": [1, 0], "head refitted": [2, 2]}
WHOLE_NOTE = "The model without its last blocks; the last point of a line is the whole model."
MEANS_NOTE = (
    "Ratios of single seeds are averaged, with their interval; “means first” divides the means over seeds instead."
)
REFITTED_NOTE = "Refitted: the final norm and head were trained again for each number of blocks."


def cut_figures(study: Study) -> Iterator[Figure]:
    """The figures with lines and strips over the number of remaining blocks; no figure if no run has a layer cut."""
    cuts = layer_cuts(study.record, study.split)
    if cuts.filter(pl.col("of_blocks") > 1).is_empty():
        return
    yield from _loss_figures(study, cuts)
    ratios = {score: layer_cut_ratios(study.record, score, cuts) for score in CUT_SCORES}
    for ratio in RATIOS:
        arms = pl.col("arm").is_in(sorted(in_ratio(study, ratio)))
        mine = {score: frame.filter(arms, ratio=ratio) for score, frame in ratios.items()}
        yield from _ratio_figures(study, ratio, mine)
        yield from _strips(study, ratio, mine[STRIP_SCORES[ratio]])


def _loss_figures(study: Study, cuts: pl.DataFrame) -> Iterator[Figure]:
    """The figures of the loss over the number of remaining blocks, with the trained or a refitted head; ltr solid, rtl dashed."""
    y = Axis("value", f"{study.split} loss, nats per token", ".4f")
    scored = cuts.filter(pl.col("trained")).drop_nulls("nats_per_token")
    means = study.means(scored, "nats_per_token", "arm", "scale", "direction", "head", "blocks")
    frame = pl.DataFrame(list(means), infer_schema_length=None)
    for lines in study.lines(frame.sort("blocks", maintain_order=True)):
        rows = lines.rows(
            lambda row: (
                {"look": row["direction"], "value": rounded(row["nats_per_token"])}
                | {name: row[name] for name in ("direction", "head", "blocks")}
            )
        )
        dashes = theme.direction_dashes(sorted(set(lines.frame["direction"])))
        heads = _heads(lines)
        drawings = {
            head: charts.lines(BLOCKS, y, lines.colours, lines.what, chosen={"head": head}, dashes=dashes)
            for head in heads
        }
        labels = {head: HEAD_WORDS[head] for head in heads} if len(heads) > 1 else {}
        notes, title = (WHOLE_NOTE, study.over_seeds(rows), *_refitted(heads)), "Loss with fewer blocks"
        yield lines.place.figure("layer-cut-loss", title, rows, drawings, labels=labels, choice="with", notes=notes)


def _ratio_figures(study: Study, ratio: str, by_score: Mapping[str, pl.DataFrame]) -> Iterator[Figure]:
    """The figures of one ratio over the number of remaining blocks, for losses and perplexities, averaged in both ways.

    The lines of refitted heads are dashed.
    """
    scores = [score for score, frame in by_score.items() if not frame.is_empty()]
    both = pl.concat([by_score[score].with_columns(score=pl.lit(score)).sort("blocks") for score in scores or by_score])
    for lines in study.lines(both):
        rows = lines.rows(
            lambda row: (
                {"look": HEAD_WORDS[row["head"]], "score": row["score"], "blocks": row["blocks"]}
                | {way: rounded(row[way], 5) for way in MEANS}
            )
        )
        heads = _heads(lines)
        dashes = {HEAD_WORDS[head]: HEAD_DASHES[HEAD_WORDS[head]] for head in heads}
        labels = {
            f"{score}-{way}": MEASURES[score].title + (", means first" if way == "mean_then_ratio" else "")
            for score in scores
            for way in MEANS
        }
        variants = {}
        for choice in labels:
            score, _, way = choice.partition("-")
            y = Axis(way, f"{RATIO_WORDS[ratio]}, {MEASURES[score].unit}", ".4f", reference=1.0)
            variants[choice] = charts.lines(
                BLOCKS, y, lines.colours, lines.what, chosen={"score": score}, dashes=dashes
            )
        notes = _ratio_notes(study, ratio, rows, heads)
        name, title = f"layer-cut-{ratio.replace('_', '-')}", f"{RATIO_WORDS[ratio].capitalize()} with fewer blocks"
        yield lines.place.figure(name, title, rows, variants, labels=labels, choice="on", notes=notes)


def _strips(study: Study, ratio: str, ratios: pl.DataFrame) -> Iterator[Figure]:
    """The heat maps of one ratio: a row per model size (with only one size: per arm), a square per number of remaining blocks.

    All these heat maps (strips) share one colour scale.
    """
    score = STRIP_SCORES[ratio]
    honest = ratios.filter(~pl.col("arm").is_in(sorted(study.look.leaking)))
    # A leaking arm can have ratios such as 30: a colour scale up to 30 would show all other ratios in one colour.
    shown = ratios if honest.is_empty() else honest
    domain = around_one([value for way in MEANS for value in shown[way].drop_nulls()])
    heat = Heat(f"{RATIO_WORDS[ratio]}, {MEASURES[score].unit}", charts.AROUND_ONE, domain, charts.STRIP_ROW_PIXELS)
    for lines in study.lines(ratios):
        rows = [
            _square(row, lines.names[row["arm"], row["scale"]], way)
            for row in lines.frame.sort("blocks").iter_rows(named=True)
            for way in MEANS
            if row[way] is not None
        ]
        heads = _heads(lines)
        choices = {
            f"{way}-{head}": f"{HEAD_WORDS[head]}, {MEANS[way]}" if len(heads) > 1 else MEANS[way]
            for head in reversed(heads)
            for way in MEANS
        }
        sizes = [name for name in lines.colours if any(row["series"] == name for row in rows)]
        blocks = [str(count) for count in sorted({int(row["blocks"]) for row in rows})]
        what = Axis("series", lines.what)
        strips = {one: charts.heat_map(what, sizes, BLOCKS, blocks, heat, chosen={"choice": one}) for one in choices}
        notes = _ratio_notes(study, ratio, lines.frame.to_dicts(), heads)
        name = f"layer-cut-strip-{ratio.replace('_', '-')}"
        title = f"{RATIO_WORDS[ratio].capitalize()} of {MEASURES[score].title}, blocks left"
        yield lines.place.figure(name, title, rows, strips, labels=choices, choice="with", notes=notes)


def _square(row: Mapping[str, Any], name: str, way: str) -> dict[str, Any]:
    value, low, high = row[way], row["interval_low"], row["interval_high"]
    averaged = low is not None and way == "ratio_then_mean"  # only `ratio_then_mean` has an interval
    spread = f" ({number(low)} to {number(high)})" if averaged else ""
    left = f"{row['blocks']} of {row['of_blocks']} blocks"
    place = {"series": name, "choice": f"{way}-{row['head']}", "blocks": str(row["blocks"])}
    text = f"{name}, {left}: {number(value)}{spread} over {plural(row['seeds'], 'seed')}"
    return place | {"value": rounded(value), "label": f"{value:.3f}", "dark": False, "text": text}


def _heads(lines: Lines) -> list[str]:
    present = set(lines.frame["head"])
    return [head for head in HEAD_WORDS if head in present]


def _ratio_notes(study: Study, ratio: str, rows: Rows, heads: Sequence[str]) -> tuple[str, ...]:
    baseline = f"the baseline {study.rule.baseline} over the arm, both on ltr"
    what = "ltr over rtl of the same arm" if ratio == RATIO_2 else baseline
    return (f"{RATIO_WORDS[ratio].capitalize()}: {what}.", MEANS_NOTE, study.over_seeds(rows), *_refitted(heads))


def _refitted(heads: Sequence[str]) -> list[str]:
    return [REFITTED_NOTE] if "refitted" in heads else []
