"""The report of an experiment in a store, finished or not. A new family of figures is one more entry of FAMILIES."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from palinode.analysis.claims import judged_claims
from palinode.analysis.tables import all_tables
from palinode.base import fsio
from palinode.report import curve_figures
from palinode.report.content import Page
from palinode.report.cut_figures import cut_figures
from palinode.report.embedding_figures import embedding_figures
from palinode.report.export import write_figures, write_tables
from palinode.report.figure import Figure
from palinode.report.maps import map_figures
from palinode.report.page import render_page
from palinode.report.size_figures import size_figures
from palinode.report.study import LATE, Study, Window
from palinode.report.task_figures import task_figures
from palinode.results.store import Store

REPORT_FILE = "report.html"
Family = Callable[[Study], Iterator[Figure]]
FAMILIES: tuple[Family, ...] = (  # in the order of the page
    curve_figures.difference_figures,
    curve_figures.learning_figures,
    curve_figures.final_figures,
    size_figures,
    task_figures,
    cut_figures,
    embedding_figures,
    curve_figures.auxiliary_figures,
    map_figures,
)


def build_report(store: Store, name: str, out: Path | None = None, window: Window = LATE) -> Path:
    """Write the report of one experiment. With SOURCE_DATE_EPOCH set, a finished experiment gives the same bytes each time.

    Args:
        store: where the experiment is.
        name: `<name>--<size>`, or `<name>` where it was run at one size only.
        out: directory to write to; by default `<store>/reports/<name>--<size>`.
        window: the share of training whose points the violins pool.

    Returns:
        The path of report.html. The folders `figures` (SVG, PDF) and `tables` (CSV, parquet) are written next to it.

    Raises:
        BadInput: there is no such experiment, or its decision rule cannot be applied.
        Damaged: a stored file does not decode.
        EnvironmentProblem: the disk refused.
    """
    study = Study.of(record := store.experiment(name), window)
    figures, tables = all_figures(study), all_tables(record)
    directory = out if out is not None else store.report_directory(record.entry)
    files = [*write_figures(figures, directory / "figures"), *write_tables(tables, directory / "tables")]
    names = [path.relative_to(directory).as_posix() for path in files]
    page = render_page(Page(study, figures, names, judged_claims(store, record)))
    fsio.write_text(directory / REPORT_FILE, page)
    return directory / REPORT_FILE


def all_figures(study: Study) -> list[Figure]:
    """Every figure of a report, in the order of the page, each with a file name of its own.

    Raises:
        BadInput: the metric is not split.direction.score.
        Damaged: a run's metrics do not decode.
    """
    taken: Counter[str] = Counter()
    named = []
    for figure in (figure for family in FAMILIES for figure in family(study)):
        taken[figure.name.lower()] += 1
        count = taken[figure.name.lower()]
        named.append(figure if count == 1 else replace(figure, name=f"{figure.name}-{count}"))
    return named
