"""Which figures a report has. A new family of figures is one more entry of FAMILIES; a figure says its own section."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from palinode.report import curve_figures
from palinode.report.auxiliary_figures import auxiliary_figures
from palinode.report.cut_figures import cut_figures
from palinode.report.embedding_figures import embedding_figures
from palinode.report.figure import Figure
from palinode.report.maps import map_figures
from palinode.report.size_figures import size_figures
from palinode.report.study import Study
from palinode.report.task_figures import task_figures

Family = Callable[[Study], Iterator[Figure]]
FAMILIES: tuple[Family, ...] = (  # in the order of the page
    curve_figures.difference_figures,
    curve_figures.learning_figures,
    curve_figures.final_figures,
    size_figures,
    task_figures,
    cut_figures,
    embedding_figures,
    auxiliary_figures,
    map_figures,
)


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
