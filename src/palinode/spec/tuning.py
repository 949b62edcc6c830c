"""Tuning: before the runs, equally many trials for every arm choose the value of a setting.

Trials are ordinary runs of a second experiment, `<name>-tuning`. Trials are scored on the tuning split, which is the end of the
train text and is never trained on. Only runs with the chosen value are scored on the validation and test splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from palinode.base.config import LATER, Config
from palinode.base.decision import Decision
from palinode.base.errors import BadInput, PalinodeError, nearest
from palinode.base.measures import OWN
from palinode.results.record import TRIALS_SUFFIX, ArmEntry
from palinode.spec.change import changed
from palinode.spec.names import Seeds
from palinode.spec.run_spec import RunSettings, RunSpec

if TYPE_CHECKING:
    from palinode.spec.experiment import ResolvedExperiment, ResolvedRun

TESTED = ("data", "evaluation")
# The evaluation of a trial: only the tuning split, and no further measurement.
ONLY_THE_LOSS: Mapping[str, Any] = {
    "evaluation.split": "tuning",
    "evaluation.test": False,
    "evaluation.layer_cut": False,
    "evaluation.layer_cut_refit_steps": 0,
    "evaluation.context_lengths": (),
    "evaluation.embeddings": False,
    "evaluation.length_factors": (),
    "evaluation.retrieval": None,
}


class Tuning(Config):
    """The field that is tuned, with the same number of trial values for every arm at every scale. Set either `values` or `factors`.

    Attributes:
        field: the dotted path of a number in the settings.
        values: the trial values.
        factors: the numbers by which an arm's own value is multiplied; the products are the trial values of the arm.
        seeds: the seeds of the trials.
        change: a change to the settings of the trials only, such as fewer steps.
        share_of_steps: the share of its own steps that a trial of an arm takes; None: all of them.
        by_own_pass: whether the trials of an arm are scored on the pass that it is trained on most (`own`), not in the direction of
            the decision's metric. Without it, an arm that never reads in that direction gets the rate that taught it least.
    """

    field: str = "recipe.optimizer.learning_rate"
    values: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    seeds: Seeds = (0,)
    change: Mapping[str, Any] = Field(default_factory=dict)
    share_of_steps: Annotated[float | None, LATER] = Field(default=None, gt=0.0, le=1.0)
    by_own_pass: Annotated[bool, LATER] = False

    @model_validator(mode="after")
    def _one_list_of_several(self) -> Tuning:
        numbers = self.values or self.factors
        if bool(self.values) == bool(self.factors) or len(numbers) < 2 or len(set(numbers)) < len(numbers):
            message = "tuning needs two or more different values, or two or more factors, but not both"
            raise BadInput(message, field="tuning.values")
        if len({value_name(value) for value in numbers}) < len(numbers):
            message = "trials are named by six digits of their value, and two of these are equal"
            raise BadInput(message, field="tuning.values")
        if self.field.partition(".")[0] in TESTED:
            why = "part of the evaluation, which must be the same for every arm"
            raise BadInput(f"{self.field} is {why}", field="tuning.field")
        return self

    def metric(self, decision: Decision) -> str:
        """The metric that a value is chosen by: that of the decision rule, on the tuning split."""
        metric = decision.score._replace(split="tuning")
        return str(metric._replace(direction=OWN) if self.by_own_pass else metric)

    def values_for(self, settings: RunSettings) -> tuple[float, ...]:
        """The trial values for an arm with these settings.

        Raises:
            BadInput: the field does not exist or holds no number to multiply, or several factors give the same value.
        """
        own = _value_at(settings, self.field)
        is_number = isinstance(own, (int, float)) and not isinstance(own, bool)
        if self.factors and not is_number:
            raise BadInput(f"{self.field} is {own!r}, which is not a number", field="tuning.field", hint="give values")
        values = self.values or tuple(own * factor for factor in self.factors)
        if len(set(values)) < len(values):
            raise BadInput(f"{self.field} is {own!r}: these factors do not change it", field="tuning.factors")
        return tuple(_like(own, value) for value in values)

    def with_value(self, settings: RunSettings, value: float) -> RunSettings:
        """The settings with this value. A value from a record is a float, even if the field holds whole numbers."""
        return _changed(settings, {self.field: _like(_value_at(settings, self.field), value)})

    def trial(self, settings: RunSettings, value: float) -> RunSettings:
        """The settings of the trial with this value.

        Raises:
            BadInput: the data has no tuning split, or a field refuses its value.
        """
        if not settings.data.keeps("tuning"):
            raise BadInput("tuning needs a part of the train text for its trials", field="data.tuning_fraction")
        shorter: dict[str, Any] = {}
        if self.share_of_steps is not None:
            shorter["recipe.steps"] = max(1, round(self.share_of_steps * settings.recipe.steps))
        return _changed(settings, {**shorter, **self.change, **ONLY_THE_LOSS, self.field: value})


def value_name(value: float) -> str:
    """The text of a value in the name of a trial."""
    return f"{value:g}"


def trials(resolved: ResolvedExperiment) -> ResolvedExperiment:
    """The experiment of the trials: one arm `<arm> at <value>` for each value of each arm.

    Raises:
        BadInput: the data has no tuning split, or a field refuses its trial value.
    """
    from palinode.spec.experiment import ResolvedExperiment, ResolvedRun

    tuning = resolved.tuning
    assert tuning is not None
    arms: dict[str, ArmEntry] = {}
    runs: list[ResolvedRun] = []
    for seed in tuning.seeds:
        for scale in resolved.scales:
            for arm in resolved.arms:
                settings = resolved.settings(arm.name, scale)
                for value in tuning.values_for(settings):
                    name = f"{arm.name} at {value_name(value)}"
                    diff = (*(d for d in arm.diff if d[0] != tuning.field), (tuning.field, None, value))
                    arms.setdefault(name, arm.with_(name=name, diff=diff))
                    spec = RunSpec.of(tuning.trial(settings, value), seed)
                    runs.append(ResolvedRun(arm=name, scale=scale, spec=spec))
    first = next(name for name, arm in arms.items() if name.startswith(f"{resolved.decision.baseline} at "))
    return ResolvedExperiment(
        name=resolved.name + TRIALS_SUFFIX,
        size=resolved.size,
        question=f"Which {tuning.field} for each arm of {resolved.name}?",
        decision=resolved.decision.with_(baseline=first, metric=tuning.metric(resolved.decision)),
        arms=tuple(arms.values()),
        scales=resolved.scales,
        seeds=tuning.seeds,
        runs=tuple(runs),
    )


def trials_of(resolved: ResolvedExperiment, arm: str, scale: str) -> list[tuple[float, list[RunSpec]]]:
    """Each trial value of an arm at a scale, with the trials of this value (one trial for each seed)."""
    assert resolved.tuning is not None
    settings = resolved.settings(arm, scale)
    return [
        (value, [RunSpec.of(resolved.tuning.trial(settings, value), seed) for seed in resolved.tuning.seeds])
        for value in resolved.tuning.values_for(settings)
    ]


def with_chosen(resolved: ResolvedExperiment, chosen: Mapping[tuple[str, str], float]) -> ResolvedExperiment:
    """The experiment without tuning: every run has the value that was chosen for its arm and scale."""
    tuning = resolved.tuning
    assert tuning is not None

    def tuned(run: ResolvedRun) -> ResolvedRun:
        settings = tuning.with_value(run.spec.settings, chosen[run.arm, run.scale])
        return run.with_(spec=RunSpec.of(settings, run.seed))

    return resolved.with_(runs=tuple(tuned(run) for run in resolved.runs), tuning=None)


def _changed(settings: RunSettings, change: Mapping[str, Any]) -> RunSettings:
    try:
        return changed(settings, change)
    except PalinodeError as error:
        raise BadInput(error.message, field=f"tuning: {error.field}", hint=error.hint) from None


def _like(own: Any, value: float) -> float:
    """The value as an int if the field holds an int: 4.0 -> 4."""
    counts = isinstance(own, int) and not isinstance(own, bool)
    return int(value) if counts and float(value).is_integer() else value


def _value_at(settings: RunSettings, path: str) -> Any:
    """The value of the settings at a dotted path."""
    value: Any = settings
    for step in path.split("."):
        if not isinstance(value, Config) or step not in type(value).model_fields:
            hint = nearest(step, type(value).model_fields) if isinstance(value, Config) else None
            raise BadInput(f"there is no field {path}", field="tuning.field", hint=hint)
        value = getattr(value, step)
    return value
