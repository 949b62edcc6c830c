"""A report from a finished (or unfinished) experiment in a store."""

from __future__ import annotations

from pathlib import Path

from palinode.analysis.claims import judged_claims
from palinode.analysis.tables import all_tables
from palinode.analysis.verdict import rule_of, verdicts
from palinode.base import fsio
from palinode.report.export import write_figures, write_tables
from palinode.report.figures import all_figures
from palinode.report.page import render_page
from palinode.report.size_figures import LATE, Window
from palinode.results.store import Store

REPORT_FILE = "report.html"


def build_report(store: Store, name: str, out: Path | None = None, window: Window = LATE) -> Path:
    """Write the report of one experiment; a finished one gives the same bytes again when SOURCE_DATE_EPOCH is set.

    Args:
        store: where the experiment is.
        name: `<name>--<size>`, or `<name>` where it was run at one size only.
        out: directory to write to; by default `<store>/reports/<name>--<size>`.
        window: which share of training the violins pool.

    Returns:
        The path of report.html; beside it `figures/*.{svg,pdf}` and `tables/*.{csv,parquet}`.

    Raises:
        BadInput: there is no such experiment, or its decision rule cannot be applied.
        Damaged: a stored file does not decode.
        EnvironmentProblem: the disk refused.
    """
    record = store.experiment(name)
    rule, found, tables = rule_of(record.entry), verdicts(record), all_tables(record)
    figures = all_figures(record, rule, found, window)
    directory = out if out is not None else store.report_directory(record.entry)
    files = [*write_figures(figures, directory / "figures"), *write_tables(tables, directory / "tables")]
    names = [path.relative_to(directory).as_posix() for path in files]
    page = render_page(record, rule, found, figures, names, judged_claims(store, record))
    fsio.write_text(directory / REPORT_FILE, page)
    return directory / REPORT_FILE
