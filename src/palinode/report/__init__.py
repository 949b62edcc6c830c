"""Reports of experiments: one self-contained page per experiment, with figures as SVG and PDF, and tables as CSV and parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palinode.report.build import build_report

__all__ = ["build_report"]


def __getattr__(name: str) -> Any:
    """The function `build_report`, imported at its first use. Its import loads the charts, which a plan does not need."""
    if name != "build_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from palinode.report.build import build_report

    return build_report
