"""Reports: one self-contained page per experiment, its figures as SVG and PDF, its numbers as CSV and parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palinode.report.build import build_report

__all__ = ["build_report"]


def __getattr__(name: str) -> Any:
    """`build_report`, imported when it is asked for: it loads the charts, which a plan does not need."""
    if name != "build_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from palinode.report.build import build_report

    return build_report
