"""`palinode extend`: the same experiment with more seeds, or with more steps from the checkpoints that both lengths share."""

from __future__ import annotations

import re
from collections.abc import Mapping

from palinode.base.decision import FIXED, UNTIL_DECIDED
from palinode.base.errors import BadInput
from palinode.results.store import Store
from palinode.run.longer import begin_with
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.grid import refuse_more_runs
from palinode.spec.load import parse_seeds
from palinode.spec.longer import refuse_other_length
from palinode.spec.start import with_seed


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


def with_more_seeds(
    stored: ResolvedExperiment, taken: tuple[int, ...], text: str, *, runs_limit: int | None
) -> ResolvedExperiment:
    """The experiment with more seeds, as `palinode run FILE --seeds` makes it: the seeds are fixed from now on. None is dropped.

    Args:
        stored: the experiment as the store has it; with seeds "until decided" it has the seeds of the last possible look.
        taken: the seeds that were trained, or are being trained.
        text: the seeds to add, such as `4,5`, or the number of seeds that there are then.

    Raises:
        BadInput: the text is neither, there would be fewer seeds, or none is new and they were planned until decided.
    """
    wanted = parse_seeds(text, stored.seeds)
    if "," not in text and len(wanted) < len(taken):
        raise BadInput(f"{len(wanted)} is less than the {len(taken)} seeds that there are", field="--seeds")
    added = tuple(seed for seed in wanted if seed not in taken)
    if not added and stored.seeds_planned == UNTIL_DECIDED:
        message = f"adds no seed to {', '.join(map(str, taken))}, which are added until every verdict is decided"
        raise BadInput(message, field="--seeds")
    refuse_more_runs(len(stored.arms) * len(stored.scales) * len(taken + added), runs_limit)
    first = [run for run in stored.runs if run.seed == taken[0]]
    before = tuple(run for run in stored.runs if run.seed in taken)
    runs = (*before, *(with_seed(run, seed, first) for seed in added for run in first))
    return stored.with_(seeds=taken + added, runs=runs, seeds_planned=FIXED)
