"""A claim as data: an experiment file writes it, the experiment's entry in a store keeps it, `palinode.analysis.claims` judges it.

A claim belongs to no run: adding one, or changing its words, changes no run id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from palinode.base.config import Config
from palinode.base.errors import BadInput, nearest

Direction = Literal["ltr", "rtl"]
Expect = Literal["better", "not worse", "above", "below", "within", "published", "shown"]
BY_THE_RULE = ("better", "not worse")
GROUP = "{}"  # where the name of a group stands in the name of an arm
# Every measure, and which of the fields below it reads; `palinode.analysis.claim_measures` computes them.
MEASURES: Mapping[str, frozenset[str]] = {
    "difference": frozenset(["against", "groups", "needs_learning"]),
    "score": frozenset(),
    "ratio": frozenset(["against", "directions", "needs_learning"]),
    "ratio_slope": frozenset(["against", "directions", "needs_learning"]),
    "ratio_width_less_depth": frozenset(["against", "directions", "needs_learning"]),
    "layer_cut": frozenset(["against", "directions", "needs_learning", "blocks_left", "less_whole", "head"]),
    "context": frozenset(["longest"]),
    "steps_to_learn": frozenset(["against", "groups"]),
    "rank_correlation": frozenset(["against", "groups", "needs_learning", "experiment"]),
    "term": frozenset(),
}
OPTIONS = frozenset().union(*MEASURES.values())


class Claim(Config):
    """One sentence that the runs of an experiment can support or contradict.

    Attributes:
        name: short, such as E1; several claims may share it.
        sentence: what is claimed, for a reader.
        measure: how it is measured: a name in MEASURES.
        arm: the arm that the claim is about.
        against: the arm or arms it is compared with. Of several, `difference` takes the one with the best mean score.
        groups: names that replace `{}` in `arm` and `against`; the claim is judged for each group and for their mean.
        directions: which loss of `arm`, and which loss of `against`, a ratio divides.
        expect: what the interval must show for the claim to hold. `better` and `not worse` apply the decision rule of the
            experiment; `above` and `below` compare the interval with `bound`; `within` asks that it lies between -bound and
            bound; `published` asks that it holds the published number; `shown` judges nothing.
        bound: see `expect`; in the unit of the measure.
        needs_learning: judge nothing before something was learned. A loss of every run must lie below what token frequencies
            reach; an accuracy of some run must lie above what is scored without learning.
        blocks_left: `layer_cut`: the share of the blocks that are left (below 1), or 1 for a single block.
        less_whole: `layer_cut`: subtract the ratio of the whole model; otherwise subtract 1.
        head: `layer_cut`: the head that reads the remaining blocks: refitted, or as it was trained.
        longest: `context`: use the longest context alone; otherwise every context length.
        experiment: `rank_correlation`: the experiment, at the same size, whose arms are named by `against`.
        published: the number published for the same measure: one for every row, or one for each scale or context length.
        source: where the published number comes from.
        note: what a reader must know to read the row.
    """

    name: str
    sentence: str
    measure: str
    arm: str
    against: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    directions: tuple[Direction, Direction] = ("ltr", "ltr")
    expect: Expect = "better"
    bound: float = 0.0
    needs_learning: bool = False
    blocks_left: float = Field(default=1.0, gt=0, le=1)
    less_whole: bool = False
    head: Literal["refitted", "trained"] = "refitted"
    longest: bool = False
    experiment: str = ""
    published: float | Mapping[str, float] | None = None
    source: str = ""
    note: str = ""

    @field_validator("measure")
    @classmethod
    def _known_measure(cls, measure: str) -> str:
        if measure not in MEASURES:
            raise ValueError(f"unknown measure {measure!r}; {nearest(measure, MEASURES) or ', '.join(MEASURES)}")
        return measure

    @model_validator(mode="after")
    def _options_fit(self) -> Claim:
        for option in sorted(OPTIONS - MEASURES[self.measure]):
            if getattr(self, option) != type(self).model_fields[option].default:
                raise BadInput(f"the measure {self.measure} does not read this", field=option)
        if "against" in MEASURES[self.measure] and not self.against:
            raise BadInput(f"the measure {self.measure} needs an arm to compare with", field="against")
        if self.measure == "difference" and self.arm in self.against:
            raise BadInput("an arm does not differ from itself", field="against")
        if self.expect in BY_THE_RULE and self.measure != "difference":
            hint = "above, below, within, published or shown"
            raise BadInput(f"the decision rule judges differences, not {self.measure}", field="expect", hint=hint)
        return self

    def arms(self) -> tuple[str, ...]:
        """The arms of the experiment itself that this claim names, with every group put in."""
        named = (self.arm,) if self.experiment else (self.arm, *self.against)
        return tuple(dict.fromkeys(in_group(arm, group) for group in self.groups or ("",) for arm in named))

    def published_at(self, place: str) -> float | None:
        """The published number for a scale or a context length; None where there is none."""
        return self.published.get(place) if isinstance(self.published, Mapping) else self.published


def in_group(arm: str, group: str) -> str:
    """The name of an arm with a group put in."""
    return arm.replace(GROUP, group)
