"""Start a run from the weights of another run: `start_from` names the run by its id, or an arm of the same experiment.

`arm:NAME` stands for the run of that arm at the same scale with the same seed. The specs of runs hold ids only, so the same id is
the same run in every experiment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from palinode.base.config import Config
from palinode.base.errors import BadInput, check_known

if TYPE_CHECKING:
    from palinode.spec.experiment import ResolvedExperiment, ResolvedRun

ARM = "arm:"  # `arm:NAME`: the run of this arm at the same scale with the same seed
RUN_ID = re.compile(r"[0-9a-f]{16}")
FIELD = "start_from"


def _a_run_or_an_arm(run: str) -> str:
    if not RUN_ID.fullmatch(run) and not run.removeprefix(ARM):
        raise ValueError(f"{run!r} names no arm: write {ARM}NAME")
    if not RUN_ID.fullmatch(run) and not run.startswith(ARM):
        raise ValueError(
            f"{run[:40]!r} is neither a run id of 16 characters nor {ARM}NAME; `palinode ls --runs` lists ids"
        )
    return run


class StartFrom(Config):
    """The run whose weights a run starts from. The state of the optimizer and the counters are not taken.

    Attributes:
        run: the id of the run, or `arm:NAME` for the run of an arm of the same experiment, at the same scale with the same seed.
        step: the step of the checkpoint; None: the weights that the run ended with.
    """

    run: Annotated[str, AfterValidator(_a_run_or_an_arm)]
    step: int | None = Field(default=None, ge=1)

    @property
    def arm(self) -> str | None:
        """The name of the arm; None if a run is named by its id."""
        return self.run.removeprefix(ARM) if self.run.startswith(ARM) else None


def source_of(run: ResolvedRun) -> str | None:
    """The name of the arm that a run starts from; None if it starts from new weights or from a run that is named by its id."""
    start = run.spec.start_from
    return start.arm if start is not None else None


def refuse_arms(resolved: ResolvedExperiment) -> None:
    """Refuse `arm:NAME` that no run can follow.

    Raises:
        BadInput: there is no such arm, arms wait for each other, an arm starts from a leaking one without being marked so, or the
            settings of the arms are only chosen by trials.
    """
    arms = {arm.name: arm for arm in resolved.arms}
    follows = {run.arm: source for run in resolved.runs if (source := source_of(run)) is not None}
    for name, source in follows.items():
        field = f"arms.{name}.change.{FIELD}"
        check_known(source, arms, what="arm", field=field)
        seen = [name]
        while (source := follows.get(seen[-1], "")) and source not in seen:
            seen.append(source)
        if source:
            raise BadInput(f"{' starts from '.join([*seen, source])}, so none can begin", field=field)
        if arms[seen[-1]].expect_leak and not arms[name].expect_leak:
            raise BadInput(f"arm {seen[-1]!r} is marked expect_leak, so this arm must be marked too", field=field)
    if follows and resolved.tuning is not None:
        hint = "tune first, then name the run by its id"
        raise BadInput("an arm cannot start from an arm whose settings are chosen by trials", field=FIELD, hint=hint)


def with_sources(resolved: ResolvedExperiment) -> ResolvedExperiment:
    """The experiment with the id of a run in place of each `arm:NAME`. The data must be pinned, as ids depend on it."""
    if not any(source_of(run) is not None for run in resolved.runs):
        return resolved
    places = {(run.arm, run.scale, run.seed): run for run in resolved.runs}
    return resolved.with_(runs=tuple(_with_source(run, places) for run in resolved.runs))


def with_seed(run: ResolvedRun, seed: int, alike: Sequence[ResolvedRun]) -> ResolvedRun:
    """The run with another seed. If it starts from one of the runs `alike`, it starts from that arm's run with its seed."""
    start, arms = run.spec.start_from, {one.spec.run_id: one.arm for one in alike}
    if start is not None and start.run in arms:
        start = start.with_(run=f"{ARM}{arms[start.run]}")
    return run.with_(spec=run.spec.with_(seed=seed, start_from=start))


def _with_source(run: ResolvedRun, places: Mapping[tuple[str, str, int], ResolvedRun]) -> ResolvedRun:
    if (arm := source_of(run)) is None:
        return run
    source = _with_source(places[arm, run.scale, run.seed], places)
    assert run.spec.start_from is not None
    start = run.spec.start_from.with_(run=source.spec.run_id)
    return run.with_(spec=run.spec.with_(start_from=start))
