"""The decision rule, which gives a verdict, and the claims that the runs are judged on. Both are written before the first run.

A claim is data: an experiment file states the claim, the experiment's entry in a store keeps it, and `palinode.analysis.claims`
judges it. A claim belongs to no run: adding a claim, or changing the words of a claim, changes no run id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from palinode.base.config import LATER, Config
from palinode.base.errors import BadInput, nearest
from palinode.base.measures import MEASURES, PASS_MEASURES, Better, Direction, Metric, ParityAxis

Expect = Literal["better", "not worse", "above", "below", "within", "published", "shown"]
BY_THE_RULE = ("better", "not worse")
# How the seeds of an experiment are planned: a fixed list, or one seed after the other until every verdict is decided.
SeedPlan = Literal["fixed", "until decided"]
FIXED: Final = "fixed"
UNTIL_DECIDED: Final = "until decided"
GROUP = "{}"  # the place in an arm's name where the name of a group is put in
# Every measure that a claim may name -> the fields of Claim that the measure reads. `analysis.claim_measures` computes a measure.
CLAIM_MEASURES: Mapping[str, frozenset[str]] = {
    "difference": frozenset(["against", "groups", "needs_learning"]),
    "score": frozenset(),
    "ratio": frozenset(["against", "directions", "needs_learning"]),
    "ratio_by_tokens": frozenset(["against", "groups", "directions"]),
    "ratio_slope": frozenset(["against", "directions", "needs_learning"]),
    "ratio_width_less_depth": frozenset(["against", "directions", "needs_learning"]),
    "layer_cut": frozenset(["against", "directions", "needs_learning", "blocks_left", "less_whole", "head"]),
    "context": frozenset(["longest"]),
    "steps_to_learn": frozenset(["against", "groups"]),
    "rank_correlation": frozenset(["against", "groups", "needs_learning", "experiment"]),
    "selection": frozenset(["groups"]),
    "term": frozenset(),
}
OPTIONS = frozenset().union(*CLAIM_MEASURES.values())


class PredictedEffect(Config):
    """The effect that the researcher expects, written down before the first run. An improvement is positive.

    Attributes:
        effect: the difference, in units of the metric.
        low: the lower end of an interval that contains it; None where there is no interval. Then `high` is None as well.
        arm: the arm that the effect belongs to; empty: every arm except the baseline.
    """

    effect: float
    low: float | None = None
    high: float | None = Field(default=None, validate_default=True)
    arm: str = ""

    @field_validator("high")
    @classmethod
    def _ends_fit(cls, high: float | None, info: ValidationInfo) -> float | None:
        effect, low = info.data.get("effect"), info.data.get("low")
        if (low is None) != (high is None):
            raise ValueError("an interval has two ends: give low and high, or neither")
        if effect is not None and low is not None and high is not None and not low <= effect <= high:
            raise ValueError(f"the interval {low:g} to {high:g} does not contain the effect {effect:g}")
        return high


class PublishedEffect(PredictedEffect):
    """An effect that others published. An improvement is positive.

    Attributes:
        source: the publication, with the table or the page.
    """

    source: str = Field(min_length=1)


class Looks(Config):
    """The looks of an experiment with `seeds = "until decided"`: a verdict is computed after every seed from the first look on.

    Attributes:
        first: the number of seeds at the first look.
        most: the largest number of seeds.
    """

    first: int = Field(default=3, ge=3, le=40)
    most: int = Field(default=20, le=40)

    @field_validator("most")
    @classmethod
    def _in_order(cls, most: int, info: ValidationInfo) -> int:
        if most < info.data.get("first", most):
            raise ValueError(f"{most} is less than the first look at {info.data['first']} seeds")
        return most


class Decision(Config):
    """The rule of a verdict. An experiment declares the rule, its entry in a store keeps the rule, and `analysis.verdict` applies
    the rule.

    Attributes:
        baseline: the arm that every other arm is compared with.
        metric: `<validation|test|tuning>.<ltr|rtl|own>.<a measure of base.measures>`; `own` is the direction in which an arm
            was trained most.
        better: whether a lower or a higher value of the metric is better; `accuracy` needs "higher".
        confidence: the confidence of the interval, between 0 and 1.
        smallest_effect: the smallest difference that matters, in units of the metric.
        equal: the cost that is meant to be equal in all arms; the audit warns where arms differ in this cost.
        claim: what an arm has to show: a difference from the baseline, or only that it is not worse by `smallest_effect` or more.
        family: the comparisons that the interval allows for: all pairs of an arm and a scale of the experiment ("grid"), or none.
        published: an effect that others published for the comparison, which the verdict is compared with.
        predicted: the effect that the researcher expects.
        looks: the looks of an experiment with `seeds = "until decided"`.
        over: whether the interval is over seeds alone, or over seeds and documents of the text, whichever is wider.
    """

    baseline: str
    metric: str = "validation.ltr.nats_per_token"
    better: Better = "lower"
    confidence: float = 0.95
    smallest_effect: float = Field(default=0.0, ge=0.0)
    equal: ParityAxis = "tokens_read"
    claim: Literal["difference", "not worse"] = "difference"
    family: Literal["grid", "none"] = "grid"
    published: PublishedEffect | None = None
    predicted: PredictedEffect | None = None
    looks: Looks = Looks()
    over: Literal["seeds", "seeds and text"] = "seeds"

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        try:
            return str(Metric.parse(metric))
        except BadInput as unknown:
            raise ValueError(f"{unknown.message}; {unknown.hint}") from None

    @field_validator("confidence")
    @classmethod
    def _a_probability(cls, confidence: float) -> float:
        if not 0.0 < confidence < 1.0:
            meant = f"; did you mean {confidence / 100:g}?" if 1.0 < confidence < 100.0 else ""
            raise ValueError(f"confidence is a probability between 0 and 1, got {confidence:g}{meant}")
        return confidence

    @model_validator(mode="after")
    def _better_fits_the_metric(self) -> Decision:
        measure = MEASURES[self.score.measure]
        if self.better != measure.better:
            message = f"{measure.name} is better when {measure.better}, not {self.better}"
            raise BadInput(message, field="decision.better")
        if self.claim == "not worse" and self.smallest_effect == 0:
            raise BadInput('"not worse" needs smallest_effect > 0', field="decision.claim")
        return self

    @property
    def score(self) -> Metric:
        """The three parts of the metric."""
        return Metric.parse(self.metric)

    @property
    def curve_measure(self) -> str:
        """The measure of curves and ratios: that of the metric, or the loss where the metric's measure belongs to no pass."""
        return self.score.measure if self.score.measure in PASS_MEASURES else PASS_MEASURES[0]


class Claim(Config):
    """One sentence that the runs of an experiment can support or contradict.

    Attributes:
        name: a short name, such as E1; several claims may share one name.
        sentence: the claim as a sentence, for a reader.
        measure: the name of the measure that tests the claim: a name in CLAIM_MEASURES.
        arm: the arm that the claim is about.
        against: the arms that `arm` is compared with. Among several arms, `difference` takes the arm with the best mean score.
        groups: names that replace `{}` in `arm` and `against`; the claim is judged for each group and for their mean. For the
            measure `selection`: the names of the settings that are chosen from.
        directions: for a ratio of two losses: the direction of the loss of `arm`, and the direction of the loss of `against`.
        expect: the condition on the interval under which the claim holds. `better` and `not worse` apply the decision rule of the
            experiment; `above` and `below` compare the interval with `bound`; `within` means that the interval lies between
            -bound and bound; `published` means that the interval contains the published number; `shown` judges nothing.
        bound: the number that `expect` compares the interval with, in the unit of the measure.
        needs_learning: judge the claim only when the runs have learned. The loss of every run must be below the loss of a model
            that knows only the token frequencies; the accuracy of at least one run must be above the accuracy without learning.
        blocks_left: for the measure `layer_cut`: the share of the blocks that are left (below 1), or 1 for a single block.
        less_whole: for the measure `layer_cut`: subtract the ratio of the whole model from the ratio of the cut model; otherwise
            subtract 1.
        head: for the measure `layer_cut`: the head that reads the remaining blocks: a refitted head, or the trained head.
        longest: for the measure `context`: use only the longest context; otherwise every context length.
        experiment: for the measure `rank_correlation`: the experiment that has the arms in `against`; it must have the same size.
        needs_bracket: judge the claim only when the trials bracket the best setting of every arm that is compared: the chosen value
            is neither the smallest nor the largest value that was tried.
        needs_claim: the name of another claim; where a row of that claim does not hold, this claim cannot be judged.
        published: the published number of the same measure: one number for every row, or one for each scale or context length.
        published_of: for a published difference of losses: the published loss of the arm that `arm` is compared with. The published
            difference is then compared as a share of this loss, because a loss in nats per token depends on what a token is.
        predicted: the effect that is expected before the first run.
        half_width: the half-width of the interval that the plan promises; the page compares it with the half-width that came.
        source: the publication that the published number comes from.
        note: a remark that a reader needs to understand the row.
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
    needs_bracket: bool = False
    needs_claim: Annotated[str, LATER] = ""
    published: float | Mapping[str, float] | None = None
    published_of: Annotated[float | None, LATER] = Field(default=None, gt=0)
    predicted: float | None = None
    half_width: float | None = Field(default=None, gt=0)
    source: str = ""
    note: str = ""

    @field_validator("measure")
    @classmethod
    def _known_measure(cls, measure: str) -> str:
        if measure not in CLAIM_MEASURES:
            hint = nearest(measure, CLAIM_MEASURES) or ", ".join(CLAIM_MEASURES)
            raise ValueError(f"unknown measure {measure!r}; {hint}")
        return measure

    @model_validator(mode="after")
    def _options_fit(self) -> Claim:
        for option in sorted(OPTIONS - CLAIM_MEASURES[self.measure]):
            if getattr(self, option) != type(self).model_fields[option].default:
                raise BadInput(f"the measure {self.measure} does not read this", field=option)
        if self.published_of is not None and (self.measure != "difference" or self.published is None):
            raise BadInput("only a published difference is a share of a published loss", field="published_of")
        if "against" in CLAIM_MEASURES[self.measure] and not self.against:
            raise BadInput(f"the measure {self.measure} needs an arm to compare with", field="against")
        if self.measure == "selection" and (len(self.groups) < 2 or GROUP not in self.arm):
            raise BadInput(
                f"a selection needs two or more settings, and {GROUP} in the name of the arm", field="groups"
            )
        if self.measure == "difference" and self.arm in self.against:
            raise BadInput("an arm does not differ from itself", field="against")
        if self.expect in BY_THE_RULE and self.measure != "difference":
            hint = "above, below, within, published or shown"
            raise BadInput(f"the decision rule judges differences, not {self.measure}", field="expect", hint=hint)
        return self

    def arms(self) -> tuple[str, ...]:
        """The arms of the claim's own experiment that this claim names, with the name of every group put in."""
        named = (self.arm,) if self.experiment else (self.arm, *self.against)
        return tuple(dict.fromkeys(in_group(arm, group) for group in self.groups or ("",) for arm in named))

    def published_at(self, place: str) -> float | None:
        """The published number for a scale or a context length; None where no number was published."""
        return self.published.get(place) if isinstance(self.published, Mapping) else self.published


def in_group(arm: str, group: str) -> str:
    """The name of an arm, with the name of a group put in for `{}`."""
    return arm.replace(GROUP, group)
