"""Draws a figure of a report as SVG on white paper: every variant of it, with its data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from palinode.report import theme
from palinode.report.charts import ROWS, on_paper, with_log_axes
from palinode.report.study import Figure

FIGURE_PIXELS = 640  # the width of a figure as SVG or PDF


def drawn(figure: Figure) -> Iterator[tuple[str, str]]:
    """(file name without an ending, SVG on white paper) of every variant of a figure."""
    return ((name, theme.svg(_with_rows(on_paper(one), figure))) for name, one in drawings(figure))


def drawings(figure: Figure) -> Iterator[tuple[str, dict[str, Any]]]:
    """The file name and specification of every variant of a figure. With `log_axes`, each variant is listed again on log axes."""
    for variant, specification in figure.variants.items():
        name = f"{figure.name}-{variant.replace('_', '-')}" if variant else figure.name
        yield name, specification
        if figure.log_axes:
            yield f"{name}-log", with_log_axes(specification, variant)


def _with_rows(specification: dict[str, Any], figure: Figure) -> dict[str, Any]:
    """The chart with its data. A chart that is as wide as its container gets the width FIGURE_PIXELS."""
    size = {"width": FIGURE_PIXELS, "autosize": {"type": "fit", "contains": "padding"}}
    return {**specification, **(size if specification["width"] == "container" else {}), "datasets": {ROWS: figure.rows}}
