"""The sections of the page, in its order. A new section is one more entry of SECTIONS, and a template where it has text of its own.

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

FIGURES_ALONE = "figures.html"


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: the anchor, and the name by which a figure says where it belongs.
        nav: its word in the list at the top; `title` and `about`: its heading and its first lines.
        template: file in `templates/` that prints it.
        fill: what the template prints beside the figures; None: there is nothing to print.
    """

    name: str
    nav: str
    title: str = ""
    about: str = ""
    template: str = FIGURES_ALONE
    fill: Callable[[Page], Content | None] = lambda page: None


def _always(page: Page) -> Content:
    """For a section that its template fills from the record."""
    return {}


SECTIONS = (
    Section("verdict", "Verdict", template="verdict.html", fill=content.verdict),
    Section(
        "curves",
        "Curves",
        "Learning curves and final scores",
        "Every point was measured; straight lines join them and nothing is interpolated. Thin: one seed. Thick: the mean of all "
        "seeds of an arm at the steps that all of them reached, on both axes. Bars at the end are t intervals of the mean.",
    ),
    Section(
        "task",
        "Task",
        "The task",
        "Accuracy on answers that can be known, with three levels: chance, the best level that needs no learning, and the best "
        "possible. Two arms below the level that needs no learning have learned nothing to compare.",
    ),
    Section(
        "sizes",
        "Ratios",
        "Ratios and sizes",
        "How an arm's numbers relate to the baseline's, and its two directions to each other, along training and over the size "
        "of the model. Intervals are over seeds; the tables hold both ways to average, and every interval.",
    ),
    Section(
        "cuts",
        "Cuts",
        "With fewer blocks",
        "After training, the last blocks are taken away one by one, and what remains is scored in both directions. A raw cut "
        "mixes two things: what the remaining blocks hold, and how well a head that was trained for all of them can read it.",
    ),
    Section(
        "auxiliary",
        "Terms",
        "Auxiliary terms",
        "What a model adds to its loss while it trains. A term that compares two states can be made small by making both "
        "vanish. So two more things are measured: the same score with the pairs shuffled across rows, and the gains of the "
        "norms that feed it.",
    ),
    Section(
        "embeddings",
        "Embeddings",
        "Embeddings",
        "Angles and lengths of the trained vectors of tokens and of positions, read from the weights alone. Where chance would "
        "make a number too, the chart shows what chance makes.",
    ),
    Section("audit", "Audit", "Audit: may these runs be believed?", template="audit.html", fill=content.audit),
    Section("arms", "Arms", "What differs between the arms", template="arms.html", fill=_always),
    Section(
        "chosen",
        "Tuning",
        "How a setting was chosen",
        "Every arm had as many trials, scored on the tuning split: the end of the train text, on which nothing trains. "
        "Validation and test were scored only with the chosen value.",
        "chosen.html",
        lambda page: {} if page.record.entry.choices else None,
    ),
    Section(
        "cost",
        "Cost",
        "Cost and parity",
        "Means over the finished runs. The marked row is the cost at which the arms were meant to be equal; percentages are "
        "against the baseline.",
        "cost.html",
        content.cost,
    ),
    Section("runs", "Runs", "Every run", template="runs.html", fill=_always),
    Section("again", "Again", "To do it again", template="again.html", fill=content.again),
)


def page_content(page: Page) -> Content:
    """Everything the templates print: the head of the page, and its sections."""
    by_section: dict[str, list[Figure]] = {}
    for figure in page.figures:
        by_section.setdefault(figure.section, []).append(figure)
    if not by_section.get("verdict") and by_section.get("curves"):
        by_section["verdict"] = [by_section["curves"].pop(0)]  # the first screen has a chart wherever there is one
    sections = []
    for section in SECTIONS:
        figures, filled = by_section.get(section.name, []), section.fill(page)
        if figures or filled is not None:
            sections.append({"section": section, "rows": in_rows(figures), **(filled or {})})
    return {**content.head(page), "sections": sections}


def in_rows(figures: Iterable[Figure]) -> list[tuple[bool, Sequence[Any]]]:
    """Figures in their order: (half as wide as the page, the figures of one stretch of that width)."""
    return [(half, list(stretch)) for half, stretch in groupby(figures, key=lambda figure: figure.half)]
