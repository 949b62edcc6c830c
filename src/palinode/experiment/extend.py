"""`palinode extend`: the same experiment with more steps, from the checkpoints that longer and shorter runs share."""

from __future__ import annotations

import re
from collections.abc import Mapping

from palinode.base.errors import BadInput
from palinode.results.store import Store
from palinode.run.longer import begin_with
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.longer import refuse_other_length


def longer(short: ResolvedExperiment, steps: int) -> ResolvedExperiment:
    """The experiment with `steps` steps in each run, under the size `<size>-<steps>-steps`. The ids are those of such runs anyway.

    Raises:
        BadInput: arms differ in their steps, there are not more steps, or a run depends on the number of its steps from the start.
    """
    for scale in short.scales:
        if len({run.spec.recipe.steps for run in short.runs if run.scale == scale}) > 1:
            raise BadInput("the arms have different numbers of steps, and would have equal ones", field="--steps")
    for arm in short.arms:
        for scale in short.scales:
            refuse_other_length(short.settings(arm.name, scale), steps)
    runs = tuple(run.with_(spec=run.spec.with_(recipe=run.spec.recipe.with_(steps=steps))) for run in short.runs)
    size = re.sub(r"-[0-9]+-steps$", "", short.size)
    return short.with_(size=f"{size}-{steps}-steps", runs=runs)


def begin_longer_runs(short: ResolvedExperiment, extended: ResolvedExperiment, store: Store) -> Mapping[str, int]:
    """Copy the shared checkpoint of every run. The result: id of the longer run -> the step from which it goes on, 0: its start."""
    pairs = zip(short.runs, extended.runs, strict=True)
    return {other.spec.run_id: begin_with(run.spec, other.spec, store) for run, other in pairs}
