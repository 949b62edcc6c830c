"""An experiment as a researcher writes it: a question, a base, arms, scales, seeds, and the decision rule.

`Experiment.resolve` turns an experiment into runs. The whole experiment is checked when the object is made, before any data is
read, any model is trained, or any file is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from palinode.base.config import LATER, Config
from palinode.base.decision import FIXED, Claim, Decision, SeedPlan
from palinode.base.errors import BadInput, check_known
from palinode.results.record import ArmEntry
from palinode.spec.names import FileName, Name, PlannedSeeds, checked, distinct_names, good_file_name
from palinode.spec.run_spec import SPEC_VERSION, RunSettings, RunSpec, Version
from palinode.spec.tuning import Tuning

DEFAULT_SIZE = "default"  # the name of the size of a run without --size


class Arm(Config):
    """A named change to the base.

    Attributes:
        change: dotted path -> value; a value may be a part object, a table with a `kind`, or a table of field names and their
            values.
        at: name of a scale -> further changes at this scale only, for an arm whose shape differs from the base.
        expect_leak: whether the arm is meant to leak. Such an arm is run and compared, and every page marks the arm LEAK.
        expect_collapse: whether an auxiliary term of the arm is meant to collapse. Every page marks such an arm COLLAPSE.
    """

    name: Name
    change: Mapping[str, Any] = Field(default_factory=dict)
    at: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    expect_leak: bool = False
    expect_collapse: bool = False
    note: str = ""


class Scale(Config):
    """A size of the model or of the budget, with a name. Arms are compared at the same scale."""

    name: Name
    change: Mapping[str, Any] = Field(default_factory=dict)


class Size(Config):
    """A preset of the budget: a change to the base, and the arms, scales, seeds and trials. None: the value of the experiment."""

    change: Mapping[str, Any] = Field(default_factory=dict)
    arms: tuple[str, ...] | None = None
    scales: tuple[str, ...] | None = None
    seeds: PlannedSeeds | None = None
    tuning: Tuning | None = None


class Experiment(Config):
    """A question and the runs that answer the question.

    Attributes:
        name: the name of files and pages; it consists of letters, digits, `.`, `_` and `-`.
        base: the settings that arms and scales change.
        seeds: the seeds of the runs; or "until decided": the seeds 1, 2, 3 and so on, until every verdict is decided or until
            `decision.looks.most`.
        tuning: the search before the runs that chooses the value of one field for every arm, with equally many trials for each arm;
            None: no search.
        sizes: presets such as smoke, laptop, gpu, paper. Without `--size` the base is run at every scale; this is refused if each
            size has its own scales.
        claims: the sentences that the runs are judged on (`palinode findings`). Claims are no part of the settings of a run.
        about: a paragraph for a reader from outside the field, which `palinode findings` puts at the top of its page.

    Order of changes: a change of a whole part is applied first, then changes of fields inside it. For the same path, `--set` wins
    over the arm, the arm over the scale, and the scale over the size.
    """

    name: FileName
    question: str
    base: RunSettings
    arms: tuple[Arm, ...] = Field(min_length=1)
    decision: Decision
    scales: tuple[Scale, ...] = Field(default=(Scale(name="base"),), min_length=1)
    seeds: PlannedSeeds = (1, 2, 3)
    tuning: Tuning | None = None
    sizes: Mapping[str, Size] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    about: Annotated[str, LATER] = ""
    version: Version = SPEC_VERSION

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        arms, scales = [arm.name for arm in self.arms], [scale.name for scale in self.scales]
        distinct_names(arms, field="arms")
        distinct_names(scales, field="scales")
        self._check_sizes(arms, scales)
        for arm in self.arms:
            for scale in arm.at:
                check_known(scale, scales, what="scale", field=f"arms.{arm.name}.at")
        for claim in self.claims:
            for name in claim.arms():
                check_known(name, arms, what="arm", field=f"claims.{claim.name}")
            if claim.needs_claim:
                others = {other.name for other in self.claims} - {claim.name}
                check_known(claim.needs_claim, others, what="claim", field=f"claims.{claim.name}.needs_claim")
        baseline = self.decision.baseline
        if self.arm(baseline, field="decision.baseline").expect_leak:
            message = f"the baseline {baseline!r} cannot be an arm that is expected to leak"
            raise BadInput(message, field="decision.baseline")
        return self

    def arm(self, name: str, field: str = "arms") -> Arm:
        """The arm of this name.

        Raises:
            BadInput: no arm has this name; the error names the nearest name.
        """
        arms = {arm.name: arm for arm in self.arms}
        check_known(name, arms, what="arm", field=field)
        return arms[name]

    def resolve(
        self,
        size: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        seeds: tuple[int, ...] | None = None,
        *,
        runs_limit: int | None = None,
    ) -> ResolvedExperiment:
        """The run specs of all arms x scales x seeds, after all checks that compare the arms. No data is read.

        Args:
            size: a name in `sizes`; None runs the base.
            overrides: dotted path -> value (`--set`); an override replaces a change by an arm or a scale.
            seeds: the seeds of the runs; None: the seeds of the size or of the experiment.
            runs_limit: the largest number of runs; more runs are refused. None: no limit.

        Raises:
            BadInput: a size or a path is unknown, a value is out of range, two arms resolve to the same runs, or an arm changes
                the data or options of the evaluation.
        """
        from palinode.spec.grid import expand

        return expand(self, size, overrides or {}, seeds, runs_limit)

    def _check_sizes(self, arms: list[str], scales: list[str]) -> None:
        distinct_names(self.sizes, field="sizes")
        for name, size in self.sizes.items():
            checked(good_file_name, name, field=f"sizes.{name}")
            if name.lower() == DEFAULT_SIZE:
                message = "this is the name of a run without --size"
                raise BadInput(message, field=f"sizes.{name}", hint="choose another name")
            _check_chosen("scale", size.scales, scales, field=f"sizes.{name}.scales")
            _check_chosen("arm", size.arms, arms, field=f"sizes.{name}.arms")
            if size.arms is not None and self.decision.baseline not in size.arms:
                raise BadInput(f"the baseline {self.decision.baseline!r} is missing", field=f"sizes.{name}.arms")


def _check_chosen(what: str, chosen: tuple[str, ...] | None, names: list[str], *, field: str) -> None:
    for name in chosen or ():
        check_known(name, names, what=what, field=field)
    if chosen == ():
        raise BadInput(f"chooses no {what}: leave this field out to run all", field=field)


class ResolvedRun(Config):
    """One run with the names of its arm and its scale."""

    arm: str
    scale: str
    spec: RunSpec

    @property
    def seed(self) -> int:
        """The seed of this run."""
        return self.spec.seed


class ResolvedExperiment(Config):
    """An experiment at one size. The runs are in the order in which they start: first all runs with the first seed.

    With `tuning`, the runs have the values of the experiment file; `spec.tuning.with_chosen` puts in the values of the best trials.
    With `seeds_planned` "until decided", the runs are those of the largest number of seeds, `decision.looks.most`.
    """

    name: str
    size: str
    question: str
    decision: Decision
    arms: tuple[ArmEntry, ...]
    scales: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[ResolvedRun, ...]
    tuning: Tuning | None = None
    claims: tuple[Claim, ...] = ()
    seeds_planned: SeedPlan = FIXED
    about: Annotated[str, LATER] = ""

    def with_seeds(self, count: int) -> ResolvedExperiment:
        """The same experiment with only its first `count` seeds."""
        seeds = self.seeds[:count]
        return self.with_(seeds=seeds, runs=tuple(run for run in self.runs if run.seed in seeds))

    def settings(self, arm: str, scale: str) -> RunSettings:
        """The settings of one arm at one scale (the same for every seed)."""
        return next(run.spec.settings for run in self.runs if (run.arm, run.scale) == (arm, scale))
