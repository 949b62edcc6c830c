"""What a researcher writes: a question, a base, arms, scales, seeds, and the decision rule, fixed before the first run.

`Experiment.resolve` turns it into runs. Everything here is checked when the experiment is made, so a mistake is known before
anything is read, trained or written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from palinode.base.claim import Claim
from palinode.base.config import Config
from palinode.base.decision import Decision
from palinode.base.errors import BadInput, nearest
from palinode.results.record import ArmEntry
from palinode.spec.names import check_file_name, check_seeds, distinct_names, good_file_name, good_name, good_seeds
from palinode.spec.run_spec import SPEC_VERSION, RunSettings, RunSpec, known_version
from palinode.spec.tuning import Tuning

DEFAULT_SIZE = "default"  # the name a size has when none was chosen


class Arm(Config):
    """A named change to the base.

    Attributes:
        change: dotted path -> value; a value may be a part object, a table with its `kind`, or a table of further names.
        at: scale name -> a further change at that scale alone, where the arm is of another shape than the base.
        expect_leak: this arm is there to be caught: it is compared, and stamped LEAK everywhere.
        expect_collapse: its auxiliary term is meant to collapse: the arm is run, and stamped COLLAPSE everywhere.
    """

    name: str
    change: Mapping[str, Any] = Field(default_factory=dict)
    at: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    expect_leak: bool = False
    expect_collapse: bool = False
    note: str = ""

    @field_validator("name")
    @classmethod
    def _good_name(cls, name: str) -> str:
        return good_name(name)


class Scale(Config):
    """A named size of the model or budget; arms are compared within a scale."""

    name: str
    change: Mapping[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _good_name(cls, name: str) -> str:
        return good_name(name)


class Size(Config):
    """A preset of budget: a change to the base, and which arms, scales, seeds and trials are run (None: the experiment's)."""

    change: Mapping[str, Any] = Field(default_factory=dict)
    arms: tuple[str, ...] | None = None
    scales: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    tuning: Tuning | None = None


class Experiment(Config):
    """A question and everything that will be run to answer it.

    Attributes:
        name: names files and pages: letters, digits, `.`, `_` and `-`.
        base: the settings that arms and scales change.
        tuning: a field that is chosen for every arm first, with as many trials for each; None: nothing is chosen.
        sizes: presets such as smoke, laptop, gpu, paper. Without `--size` the base is run at every scale, which is refused where
            each of them has scales of its own.
        claims: sentences that the runs are judged on (`palinode findings`). They are no part of any run's settings.

    Where changes meet: a whole part is put in place first, then fields inside it; for one and the same path `--set` wins over
    the arm, the arm over the scale, the scale over the size.
    """

    name: str
    question: str
    base: RunSettings
    arms: tuple[Arm, ...]
    decision: Decision
    scales: tuple[Scale, ...] = (Scale(name="base"),)
    seeds: tuple[int, ...] = (1, 2, 3)
    tuning: Tuning | None = None
    sizes: Mapping[str, Size] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    version: int = SPEC_VERSION

    @field_validator("name")
    @classmethod
    def _good_file_name(cls, name: str) -> str:
        return good_file_name(name)

    @field_validator("version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        return known_version(version)

    @field_validator("seeds")
    @classmethod
    def _good_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return good_seeds(seeds)

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        if not self.arms:
            raise BadInput("an experiment needs at least one arm", field="arms")
        if not self.scales:
            raise BadInput("an experiment needs at least one scale", field="scales")
        distinct_names((arm.name for arm in self.arms), field="arms")
        distinct_names((scale.name for scale in self.scales), field="scales")
        self._check_sizes()
        self._check_scales_of_arms()
        self._check_claims()
        if (baseline := self.arm(self.decision.baseline, field="decision.baseline")).expect_leak:
            raise BadInput(
                f"the baseline {baseline.name!r} cannot be an arm that is expected to leak", field="decision.baseline"
            )
        return self

    def arm(self, name: str, field: str = "arms") -> Arm:
        """The arm of this name.

        Raises:
            BadInput: there is none; names the nearest.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise BadInput(f"no arm is named {name!r}", field=field, hint=nearest(name, [arm.name for arm in self.arms]))

    def resolve(
        self,
        size: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        seeds: tuple[int, ...] | None = None,
        *,
        runs_limit: int | None = None,
    ) -> ResolvedExperiment:
        """Arms x scales x seeds as run specs, with every rule between arms checked. Reads no data.

        Args:
            size: a name in `sizes`; None runs the base.
            overrides: dotted path -> value, stronger than arms and scales (`--set`).
            seeds: instead of the size's or the experiment's own.
            runs_limit: refuse more runs than this; None has no limit.

        Raises:
            BadInput: unknown size or path, a value out of range, arms that resolve to the same runs, an arm that changes
                what is evaluated on.
        """
        from palinode.spec.grid import expand

        return expand(self, size, overrides or {}, seeds, runs_limit)

    def _check_scales_of_arms(self) -> None:
        names = [scale.name for scale in self.scales]
        for arm in self.arms:
            if unknown := [name for name in arm.at if name not in names]:
                raise BadInput(
                    f"no scale is named {unknown[0]!r}",
                    field=f"arms.{arm.name}.at",
                    hint=nearest(unknown[0], names),
                )

    def _check_claims(self) -> None:
        names = [arm.name for arm in self.arms]
        for claim in self.claims:
            for arm in claim.arms():
                if arm not in names:
                    raise BadInput(f"no arm is named {arm!r}", field=f"claims.{claim.name}", hint=nearest(arm, names))

    def _check_sizes(self) -> None:
        scales, arms = [scale.name for scale in self.scales], [arm.name for arm in self.arms]
        distinct_names(self.sizes, field="sizes")
        for name, size in self.sizes.items():
            check_file_name(name, field=f"sizes.{name}")
            if name.lower() == DEFAULT_SIZE:
                raise BadInput(
                    "this is the name of a run without --size", field=f"sizes.{name}", hint="name it otherwise"
                )
            _check_chosen("scale", size.scales, scales, field=f"sizes.{name}.scales")
            _check_chosen("arm", size.arms, arms, field=f"sizes.{name}.arms")
            if size.arms is not None and self.decision.baseline not in size.arms:
                raise BadInput(f"the baseline {self.decision.baseline!r} is missing", field=f"sizes.{name}.arms")
            if size.seeds is not None:
                check_seeds(size.seeds, field=f"sizes.{name}.seeds")


def _check_chosen(what: str, wanted: tuple[str, ...] | None, names: list[str], *, field: str) -> None:
    for name in wanted or ():
        if name not in names:
            raise BadInput(f"no {what} is named {name!r}", field=field, hint=nearest(name, names))
    if wanted == ():
        raise BadInput(f"no {what}s: leave it out to run all", field=field)


class ResolvedRun(Config):
    """One run and the place it has in the experiment."""

    arm: str
    scale: str
    spec: RunSpec

    @property
    def seed(self) -> int:
        """The seed of this run."""
        return self.spec.seed


class ResolvedExperiment(Config):
    """An experiment at one size: the runs, in the order they are started (all arms of one seed come together).

    With `tuning` the runs are still at their own values; `spec.tuning.with_chosen` puts in what the trials chose.
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

    def settings(self, arm: str, scale: str) -> RunSettings:
        """The settings of one arm at one scale (the same for every seed)."""
        return next(run.spec.settings for run in self.runs if (run.arm, run.scale) == (arm, scale))
