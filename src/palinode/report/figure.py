"""One chart with its data and its file name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from palinode.results.record import ExperimentRecord

SIGNIFICANT_DIGITS = 6  # of numbers in charts; the tables hold them in full

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """One chart with its data.

    Attributes:
        name: its file name, without an ending.
        section: the section of the page it belongs to (`content.SECTIONS`).
        rows: the data that all variants share.
        variants: x-axis ("" where there is no choice) -> specification, without data.
        labels: x-axis (or whatever else the variants are) -> its name on the switch; `choice` stands before it.
        log_axes: whether both axes can be made logarithmic.
        half: half as wide as the page: two figures share a line.
        notes: what a reader must know to read it right.
    """

    name: str
    section: str
    title: str
    rows: Rows
    variants: Mapping[str, dict[str, Any]]
    labels: Mapping[str, str] = field(default_factory=dict)
    choice: str = "against"
    log_axes: bool = False
    half: bool = False
    notes: tuple[str, ...] = ()
    arm: str | None = None

    @property
    def description(self) -> str:
        """The text for readers who cannot see the chart."""
        return " ".join((f"{self.title}.", *self.notes))

    @property
    def directions(self) -> list[str]:
        """The directions that a reader can choose in the chart; none where it shows only one."""
        present = sorted({row["direction"] for row in self.rows if "direction" in row})
        return present if len(present) > 1 else []


def rounded(value: float | int | None, digits: int = SIGNIFICANT_DIGITS) -> float | int | None:
    """The number, rounded to this many significant digits; a whole number has no decimal point."""
    if value is None or isinstance(value, int):
        return value
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def file_name(*parts: str) -> str:
    """A file name from names that users chose: ASCII letters, digits, `.`, `_` and `-`."""
    plain = unicodedata.normalize("NFKD", "--".join(part for part in parts if part)).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.")[:120] or "figure"


def scale_part(record: ExperimentRecord, scale: str) -> str:
    """The part of a file name that names the scale; empty where there is one scale."""
    return scale if len(record.entry.scales) > 1 else ""


def at_scale(record: ExperimentRecord, scale: str) -> str:
    """The part of a title that names the scale; empty where there is one scale."""
    return f", scale {scale}" if len(record.entry.scales) > 1 else ""
