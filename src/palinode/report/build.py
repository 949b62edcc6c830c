"""The report of an experiment in a store, finished or not."""

from __future__ import annotations

from pathlib import Path

from palinode.analysis.claims import judged_claims
from palinode.analysis.tables import all_tables
from palinode.base import fsio
from palinode.report.content import Page
from palinode.report.export import write_figures, write_tables
from palinode.report.figures import all_figures
from palinode.report.page import render_page
from palinode.report.study import LATE, Study, Window
from palinode.results.store import Store

REPORT_FILE = "report.html"


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
