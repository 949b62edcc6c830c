"""The rule that gives a verdict. It is written down before the first run."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from palinode.base.config import Config
from palinode.base.errors import BadInput
from palinode.base.measures import MEASURES, Better, Metric, ParityAxis


class Decision(Config):
    """The rule of a verdict. An experiment declares it, its entry in the store keeps it, and `analysis.verdict` applies it.

    Attributes:
        baseline: the arm every other arm is compared with.
        metric: `<validation|test|tuning>.<ltr|rtl|own>.<a measure of base.measures>`; `own` is the direction in which an arm
            was trained most.
        better: which way is better; `accuracy` needs "higher".
        confidence: the confidence of the interval, between 0 and 1.
        smallest_effect: a smaller difference, in units of the metric, does not matter.
        equal: the cost at which the arms are meant to be compared; the audit warns where they differ in it.
    """

    baseline: str
    metric: str = "validation.ltr.nats_per_token"
    better: Better = "lower"
    confidence: float = 0.95
    smallest_effect: float = Field(default=0.0, ge=0.0)
    equal: ParityAxis = "tokens_read"

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
        return self

    @property
    def score(self) -> Metric:
        """The three parts of the metric."""
        return Metric.parse(self.metric)
