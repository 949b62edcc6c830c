"""The figure over context lengths: rtl / ltr - 1 in percent."""

from __future__ import annotations

from collections.abc import Iterator

from palinode.analysis.context import direction_ratios
from palinode.analysis.verdict import Rule
from palinode.report import size_charts
from palinode.report.charts import Axis
from palinode.report.figure import Figure, file_name
from palinode.report.look import Look
from palinode.report.size_figures import over_seeds, series_of
from palinode.report.words import score_of
from palinode.results.record import ExperimentRecord

COLUMNS = {"value": "ratio_then_mean", "low": "interval_low", "high": "interval_high"}
LENGTH = Axis("context_tokens", "tokens in a window", "d")


def context_figures(record: ExperimentRecord, rule: Rule, look: Look) -> Iterator[Figure]:
    """rtl against ltr over the length of the windows; nothing where no run was scored at several."""
    split = score_of(rule.metric)[0]
    found = direction_ratios(record, split)
    if found["context_tokens"].n_unique() < 2:
        return
    y = Axis("value", f"{split} loss, rtl / ltr - 1, percent", ".2f")
    arms = [arm.name for arm in record.entry.arms if arm.name in set(found["arm"])]
    for arm, said, names, colours, kind in series_of(record, look, arms):
        here = found.filter(arm=arm) if arm else found
        rows = [
            {
                "series": names[row["arm"], row["scale"]],
                "look": "rtl / ltr",
                "key": key,
                "context_tokens": row["context_tokens"],
                **{name: _percent(row[column]) for name, column in COLUMNS.items()},
                "seeds": row["seeds"],
            }
            for key, row in enumerate(here.iter_rows(named=True))
        ]
        present = {row["series"] for row in rows}
        drawn = {name: colour for name, colour in colours.items() if name in present}
        chart = size_charts.ratio_lines(LENGTH, y, drawn, {}, {"rtl / ltr": [1, 0]}, kind, reference=0.0, band=True)
        yield Figure(
            name=file_name("direction-by-context", arm),
            kind="sizes",
            title=f"How much harder right to left, by context{said}",
            rows=rows,
            variants={"": size_charts.with_log_axes(chart, LENGTH.field, ("x",))},
            notes=(
                "The same model scored in windows of every length. Against the arm's own ltr loss where it trained on ltr, else "
                "the baseline's at the same seed. Below zero means a leak until proven otherwise.",
                over_seeds(here["seeds"].to_list(), rule),
            ),
            arm=arm or None,
        )


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else round(100 * (ratio - 1), 4)
