"""The report of a finished or unfinished experiment in a store: the page, figures as SVG and PDF, tables as CSV and parquet.

A new family of figures needs one more entry in FAMILIES.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl
import vl_convert
from altair.utils.schemapi import debug_mode

from palinode.analysis.claims import judged_claims
from palinode.analysis.tables import all_tables
from palinode.base import fsio
from palinode.report import curve_figures
from palinode.report.content import Page
from palinode.report.cut_figures import cut_figures
from palinode.report.drawing import drawn
from palinode.report.embedding_figures import embedding_figures
from palinode.report.maps import map_figures
from palinode.report.page import render_page
from palinode.report.retrieval_figures import retrieval_figures
from palinode.report.size_figures import size_figures
from palinode.report.study import LATE, Figure, Study, Window
from palinode.report.task_figures import task_figures
from palinode.results.store import Store

REPORT_FILE = "report.html"
RESOURCES = re.compile(rb"(/(?:XObject|ExtGState|Pattern|Shading|Font|ColorSpace) <<\n)((?: +/\S+ \d+ 0 R\n)+)")
FORMULA_STARTS = "=+-@\t\r\n＝＋－＠"  # a spreadsheet may run a cell that begins with one of these characters
# Family of figures -> its section, in the order of the page.
FAMILIES: Mapping[Callable[[Study], Iterator[Figure]], str] = {
    curve_figures.difference_figures: "verdict",
    curve_figures.learning_figures: "curves",
    curve_figures.final_figures: "curves",
    size_figures: "sizes",
    task_figures: "task",
    retrieval_figures: "retrieval",
    cut_figures: "cuts",
    embedding_figures: "embeddings",
    curve_figures.auxiliary_figures: "auxiliary",
    map_figures: "audit",
}


def build_report(
    store: Store, name: str, out: Path | None = None, window: Window = LATE, *, one_kind: bool = False
) -> Path:
    """Write the report of one experiment. If SOURCE_DATE_EPOCH is set, a finished experiment's report always has the same bytes.

    Args:
        store: the store that holds the experiment.
        name: the name of the experiment: `<name>--<size>`, or `<name>` if the experiment was run at one size only.
        out: the directory to write to; by default `<store>/reports/<name>--<size>`.
        window: the share of training whose points the violins pool.
        one_kind: whether pairs of runs that were trained on two kinds of machine are left out.

    Returns:
        The path of report.html. The folders `figures` (SVG, PDF) and `tables` (CSV, parquet) are next to report.html.

    Raises:
        BadInput: the store has no experiment of this name, or its decision rule cannot be applied.
        Damaged: a stored file does not decode.
        EnvironmentProblem: the disk cannot be written.
    """
    study = Study.of(record := replace(store.experiment(name), one_kind=one_kind), window)
    figures, tables = all_figures(study), all_tables(record, study.verdicts, study.curves)
    directory = out if out is not None else store.report_directory(record.entry)
    files = [*write_figures(figures, directory / "figures"), *write_tables(tables, directory / "tables")]
    names = [path.relative_to(directory).as_posix() for path in files]
    seals, looks = store.seals(record.entry).rows, store.looks(record.entry).rows
    page = render_page(Page(study, figures, names, judged_claims(store, record), seals, looks))
    fsio.write_text(directory / REPORT_FILE, page)
    return directory / REPORT_FILE


def all_figures(study: Study) -> list[Figure]:
    """Every figure of a report, in the order of the page, each with a file name of its own.

    Raises:
        BadInput: the metric of the decision rule does not have the form split.direction.score.
        Damaged: a run's metrics do not decode.
    """
    taken: Counter[str] = Counter()
    named = []
    with debug_mode(False):  # otherwise Altair checks every part of a chart when it is made; tests draw every chart
        made = [(figure, section) for family, section in FAMILIES.items() for figure in family(study)]
    for figure, section in made:
        taken[figure.name.lower()] += 1
        count = taken[figure.name.lower()]
        name = figure.name if count == 1 else f"{figure.name}-{count}"
        named.append(replace(figure, name=name, section=section))
    return named


# --- figures and tables as files -----------------------------------------------------------------------------------------


def write_figures(figures: list[Figure], directory: Path) -> list[Path]:
    """Draw every variant of every figure as SVG and PDF, on white paper. The drawing needs neither a browser nor a network.

    Raises:
        EnvironmentProblem: the disk cannot be written.
    """
    written = []
    for figure in figures:
        for name, svg in drawn(figure):
            fsio.write_text(directory / f"{name}.svg", svg)
            fsio.write_bytes(directory / f"{name}.pdf", _in_order(vl_convert.svg_to_pdf(svg)))
            written += [directory / f"{name}.svg", directory / f"{name}.pdf"]
    return written


def write_tables(tables: dict[str, pl.DataFrame], directory: Path) -> list[Path]:
    """Write every table as parquet (exact) and as CSV (texts changed by `guarded`).

    Raises:
        EnvironmentProblem: the disk cannot be written.
    """
    written = []
    for name, frame in tables.items():
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        fsio.write_text(directory / f"{name}.csv", guarded(frame).write_csv())
        fsio.write_bytes(directory / f"{name}.parquet", buffer.getvalue())
        written += [directory / f"{name}.csv", directory / f"{name}.parquet"]
    return written


def guarded(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with an apostrophe before every text that a spreadsheet would read as a formula. Numbers stay numbers."""
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    dangerous = f"^[{FORMULA_STARTS.replace('-', '')}-]"
    return frame.with_columns(
        pl.when(pl.col(name).str.contains(dangerous)).then("'" + pl.col(name)).otherwise(pl.col(name)).alias(name)
        for name in texts
    )


def _in_order(pdf: bytes) -> bytes:
    """The PDF with the entries of its resource tables sorted, because the order of the entries is random.

    Sorting whole lines inside a table moves nothing else in the file, so the byte offsets stored in the file stay right.
    """

    def sort_entries(table: re.Match[bytes]) -> bytes:
        return table[1] + b"".join(sorted(table[2].splitlines(keepends=True)))

    return RESOURCES.sub(sort_entries, pdf)
