"""How a setting is chosen for every arm before the runs: the same trials for each, scored where no verdict looks.

Trials are runs like any other, of an experiment of their own (`<name>-tuning`), scored on the tuning split: the end of the
train text, on which nothing trains. Validation and test see only what was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from palinode.base.config import Config
from palinode.base.decision import Decision
from palinode.base.errors import BadInput, PalinodeError, nearest
from palinode.results.record import ArmEntry
from palinode.spec.change import changed
from palinode.spec.names import check_seeds
from palinode.spec.run_spec import RunSettings, RunSpec

if TYPE_CHECKING:
    from palinode.spec.experiment import ResolvedExperiment, ResolvedRun

TRIALS_SUFFIX = "-tuning"
TESTED = ("data", "evaluation")
# What a trial leaves out of an evaluation: it is scored on one split, once, and nothing else is asked of it.
ONLY_THE_LOSS: Mapping[str, Any] = {
    "evaluation.split": "tuning",
    "evaluation.test": False,
    "evaluation.layer_cut": False,
    "evaluation.layer_cut_refit_steps": 0,
    "evaluation.context_lengths": (),
    "evaluation.embeddings": False,
    "evaluation.length_factors": (),
}


class Tuning(Config):
    """One field, tried at the same number of values for every arm at every scale.

    Attributes:
        field: dotted path of a number in the settings.
        values: what it is set to; or
        factors: what each arm's own value is multiplied by.
        seeds: of the trials.
        change: of the trials alone, such as fewer steps.
    """

    field: str = "recipe.optimizer.learning_rate"
    values: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    change: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_list_of_several(self) -> Tuning:
        tried = self.values or self.factors
        if bool(self.values) == bool(self.factors) or len(tried) < 2 or len(set(tried)) < len(tried):
            raise BadInput("tuning needs two or more different values, or factors, not both", field="tuning.values")
        if len({told(value) for value in tried}) < len(tried):
            raise BadInput("trials are named by six digits of a value: two of these are alike", field="tuning.values")
        check_seeds(self.seeds, field="tuning.seeds")
        if self.field.partition(".")[0] in TESTED:
            why = "part of what arms are tested on: a value for each arm would be a test for each"
            raise BadInput(f"{self.field} is {why}", field="tuning.field")
        return self

    def tried(self, settings: RunSettings) -> tuple[float, ...]:
        """The values of the field that an arm with these settings is tried at.

        Raises:
            BadInput: there is no such field, it holds no number to multiply, or several factors come to the same value.
        """
        own = _value_at(settings, self.field)
        is_number = isinstance(own, (int, float)) and not isinstance(own, bool)
        if self.factors and not is_number:
            raise BadInput(f"{self.field} is {own!r}, no number to multiply", field="tuning.field", hint="give values")
        tried = self.values or tuple(own * factor for factor in self.factors)
        if len(set(tried)) < len(tried):
            raise BadInput(f"{self.field} is {own!r}: these factors do not change it", field="tuning.factors")
        return tuple(_like(own, value) for value in tried)

    def with_value(self, settings: RunSettings, value: float) -> RunSettings:
        """The settings with the field at this value, which may come from a record: there all numbers are floats."""
        return _changed(settings, {self.field: _like(_value_at(settings, self.field), value)})

    def trial(self, settings: RunSettings, value: float) -> RunSettings:
        """The settings of the trial of this value.

        Raises:
            BadInput: no tuning split is kept back, or a changed field refuses its value.
        """
        if not settings.data.keeps("tuning"):
            raise BadInput("tuning needs a part of the train text that is kept back", field="data.tuning_fraction")
        return _changed(settings, {**self.change, **ONLY_THE_LOSS, self.field: value})


def told(value: float) -> str:
    """A value as a trial's name has it."""
    return f"{value:g}"


def trials(resolved: ResolvedExperiment) -> ResolvedExperiment:
    """The experiment that chooses: an arm `<arm> at <value>` for each value of each arm.

    Raises:
        BadInput: see `Tuning.trial`.
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
                for value in tuning.tried(settings):
                    name = f"{arm.name} at {told(value)}"
                    diff = (*(d for d in arm.diff if d[0] != tuning.field), (tuning.field, None, value))
                    arms.setdefault(name, arm.with_(name=name, diff=diff))
                    spec = RunSpec.of(tuning.trial(settings, value), seed)
                    runs.append(ResolvedRun(arm=name, scale=scale, spec=spec))
    first = next(name for name, arm in arms.items() if name.startswith(f"{resolved.decision.baseline} at "))
    return ResolvedExperiment(
        name=resolved.name + TRIALS_SUFFIX,
        size=resolved.size,
        question=f"Which {tuning.field} for each arm of {resolved.name}?",
        decision=resolved.decision.with_(baseline=first, metric=tuning_metric(resolved.decision)),
        arms=tuple(arms.values()),
        scales=resolved.scales,
        seeds=tuning.seeds,
        runs=tuple(runs),
    )


def trials_of(resolved: ResolvedExperiment, arm: str, scale: str) -> list[tuple[float, list[RunSpec]]]:
    """Each value that an arm is tried at, with the trials of it."""
    assert resolved.tuning is not None
    settings = resolved.settings(arm, scale)
    return [
        (value, [RunSpec.of(resolved.tuning.trial(settings, value), seed) for seed in resolved.tuning.seeds])
        for value in resolved.tuning.tried(settings)
    ]


def with_chosen(resolved: ResolvedExperiment, chosen: Mapping[tuple[str, str], float]) -> ResolvedExperiment:
    """The experiment with every run at the value chosen for its arm and scale; nothing is left to tune."""
    tuning = resolved.tuning
    assert tuning is not None

    def tuned(run: ResolvedRun) -> ResolvedRun:
        settings = tuning.with_value(run.spec.settings, chosen[run.arm, run.scale])
        return run.with_(spec=RunSpec.of(settings, run.seed))

    return resolved.with_(runs=tuple(tuned(run) for run in resolved.runs), tuning=None)


def tuning_metric(decision: Decision) -> str:
    """The metric that decides, on the tuning split."""
    return str(decision.score._replace(split="tuning"))


def _changed(settings: RunSettings, change: Mapping[str, Any]) -> RunSettings:
    try:
        return changed(settings, change)
    except PalinodeError as error:
        raise BadInput(error.message, field=f"tuning: {error.field}", hint=error.hint) from None


def _like(own: Any, value: float) -> float:
    """4.0 as 4 for a field that counts."""
    counts = isinstance(own, int) and not isinstance(own, bool)
    return int(value) if counts and float(value).is_integer() else value


def _value_at(settings: RunSettings, path: str) -> Any:
    found: Any = settings
    for step in path.split("."):
        if not isinstance(found, Config) or step not in type(found).model_fields:
            hint = nearest(step, type(found).model_fields) if isinstance(found, Config) else None
            raise BadInput(f"there is no {path}", field="tuning.field", hint=hint)
        found = getattr(found, step)
    return found
