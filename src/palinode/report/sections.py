"""The sections of the page, in its order. A new section is one more entry of SECTIONS and its template.

A section appears only where it concerns the experiment: where it has figures, or where its `fill` has something to print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from palinode.report import content
from palinode.report.content import Content, Page
from palinode.report.figure import Figure


@dataclass(frozen=True)
class Section:
    """A section of the page, printed by `templates/<name>.html`.

    Attributes:
        name: the anchor, and the name by which a figure says where it belongs.
        nav: its name in the list at the top; `title`: its heading.
        fill: gives the values that the template prints; None where there is nothing to print.
    """

    name: str
    nav: str
    title: str = ""
    fill: Callable[[Page], Content | None] = lambda page: None


def _always(page: Page) -> Content:
    """For a section whose template reads everything from the record."""
    return {}


def _where_tuned(page: Page) -> Content | None:
    return {} if page.record.entry.choices else None


SECTIONS = (
    Section("verdict", "Verdict", fill=content.verdict),
    Section("claims", "Claims", "Claims", content.claims),
    Section("curves", "Curves", "Learning curves and final scores"),
    Section("task", "Task", "The task"),
    Section("sizes", "Ratios", "Ratios and sizes"),
    Section("cuts", "Cuts", "With fewer blocks"),
    Section("auxiliary", "Terms", "Auxiliary terms"),
    Section("embeddings", "Embeddings", "Embeddings"),
    Section("audit", "Audit", "Audit: may these runs be believed?", content.audit),
    Section("arms", "Arms", "What differs between the arms", _always),
    Section("chosen", "Tuning", "How a setting was chosen", _where_tuned),
    Section("cost", "Cost", "Cost and parity", content.cost),
    Section("runs", "Runs", "Every run", _always),
    Section("again", "Again", "To do it again", content.again),
)


def page_content(page: Page) -> Content:
    """The values that the templates print: the head of the page and its sections."""
    by_section: dict[str, list[Figure]] = {}
    for figure in page.figures:
        by_section.setdefault(figure.section, []).append(figure)
    if not by_section.get("verdict") and by_section.get("curves"):
        by_section["verdict"] = [by_section["curves"].pop(0)]  # so that the first screen has a chart
    sections = []
    for section in SECTIONS:
        figures, filled = by_section.get(section.name, []), section.fill(page)
        if figures or filled is not None:
            sections.append({"section": section, "rows": in_rows(figures), **(filled or {})})
    return {**content.head(page), "sections": sections}


def in_rows(figures: Iterable[Figure]) -> list[tuple[bool, Sequence[Any]]]:
    """Figures in their order, in groups of one width: (whether they are half as wide as the page, the figures)."""
    return [(half, list(stretch)) for half, stretch in groupby(figures, key=lambda figure: figure.half)]
