"""Choose, for each arm at each scale, how many runs are trained together: `palinode run --stack auto`.

Before the first run, a few steps of stacks of several sizes are timed against steps of a single run, in turn, in as many processes
at a time as there are workers. A cell is stacked only where the steps a second of its runs grow by LEAST_GAIN or more, and where
fewer processes do not make the whole experiment slower. The choice is written into the entry of the experiment once, with the runs
of every stack in the order of their places. A run keeps its stack and its place when it is resumed, so its bits do not depend on
where it was stopped. A process is `python -m palinode.experiment.stacks` with the directories of runs that differ in their seed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from palinode.base.memory import keep_memory
from palinode.data.source import prepare
from palinode.experiment.cells import Cell
from palinode.experiment.fan_out import end_with_the_driver, fan_out, say
from palinode.experiment.plan import makespan
from palinode.results.record import ExperimentEntry, StackEntry
from palinode.results.store import Store
from palinode.run.one import new_training, runs_together_before, stack_key
from palinode.spec.code import Code
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSpec
from palinode.sweep.nursery import Nursery
from palinode.train.device import use_threads
from palinode.train.loop import Counters, DivergedError, Training
from palinode.train.stacked import Stack

LEAST_GAIN = 1.2  # a stack changes the last digits, so a smaller gain is not worth it
PROMISING_GAIN = 1.0  # a size whose median gain so far is smaller is not measured again
LEAST_ROUNDS = 2  # one round may be disturbed by other programs
SIZES = (2, 4, 8)  # the sizes that are measured, as far as there are so many runs
ROUNDS = 5  # in each round, single steps and the steps of every size are timed in turn
WARM_UP_STEPS, TIMED_STEPS = 2, 6  # in each round; the first steps of a stack allocate memory
BUDGET_SECONDS = 8.0  # no round begins after this time


@dataclass(frozen=True)
class Measured:
    """The times of one cell.

    Attributes:
        runs: the ids of the runs that have not begun, in the order of the seeds.
        steps: the number of steps of one run.
        rounds: for each round, number of runs in a stack (1: a single run) -> the seconds of a step of one run.
    """

    runs: tuple[str, ...]
    steps: float
    rounds: tuple[Mapping[int, float], ...]

    @property
    def gains(self) -> dict[int, float]:
        """Size -> the steps a second of the runs of a stack, divided by those of single runs."""
        return gains_of(self.rounds)

    def process_seconds(self, size: int) -> list[float]:
        """The seconds of each process when the runs are divided into stacks of at most `size` runs."""
        gain = self.gains[size] if size > 1 else 1.0
        alone = median(one[1] for one in self.rounds) * self.steps
        return [len(group) * alone / gain for group in groups_of(self.runs, size)]


# --- which runs are trained together ---------------------------------------------------------------------------------


def groups_of(runs: Sequence[str], size: int) -> tuple[tuple[str, ...], ...]:
    """The runs in as few groups of at most `size` runs as possible; the groups have equally many runs, or differ by one."""
    count = -(-len(runs) // size)
    ends = [round(number * len(runs) / count) for number in range(count + 1)] if count else [0]
    return tuple(tuple(runs[start:end]) for start, end in zip(ends[:-1], ends[1:], strict=True))


def kept_stacks(earlier: Sequence[ExperimentEntry], full_name: str, run_ids: Sequence[str]) -> tuple[StackEntry, ...]:
    """The choices in the earlier entry of this name that are about runs of the experiment."""
    entries = [entry for entry in earlier if entry.full_name == full_name]
    own = set(run_ids)
    return tuple(stack for entry in entries for stack in entry.stacks if own & {one for g in stack.groups for one in g})


def stored_stacks(store: Store) -> list[tuple[str, ...]]:
    """The run ids of every stack of two or more runs that an entry in the store has."""
    groups = [group for entry in store.experiments() for stack in entry.stacks for group in stack.groups]
    return sorted({group for group in groups if len(group) > 1})


def fixed_stack_of(store: Store, run_ids: Sequence[str], *, all_groups: bool) -> dict[str, tuple[str, ...]]:
    """Run id -> the run ids of its fixed stack, for runs that are trained in one.

    A run whose checkpoint was trained alone goes on alone.

    Args:
        all_groups: whether stacks count that have not begun. A stack has begun when a run of it has a checkpoint of a stack.
    """
    own = set(run_ids)
    fixed: dict[str, tuple[str, ...]] = {}
    for group in (group for group in stored_stacks(store) if own & set(group)):
        before = {run_id: runs_together_before(store, run_id) or 0 for run_id in group}
        if all_groups or max(before.values()) > 1:
            fixed |= {run_id: group for run_id in group if run_id in own and before[run_id] != 1}
    return fixed


def begun_stacks(store: Store, run_ids: Sequence[str]) -> dict[str, int]:
    """Run id -> the number of runs that it was stacked with, for runs whose newest checkpoint is of a stack."""
    before = {run_id: runs_together_before(store, run_id) or 0 for run_id in run_ids}
    return {run_id: together for run_id, together in before.items() if together > 1}


def why_alone(cell: Cell) -> str:
    """Why the runs of a cell are not stacked; empty for a cell that can be measured."""
    recipe = cell.spec.recipe
    if stack_key(cell.spec) is None:
        return "a compiled step is not stacked"
    if recipe.accumulation is not None:
        return "the batches of each run grow by its own gradients"
    if any(0 < one.share < 1 for one in cell.passes.values()):
        return "the number of rows of a pass is drawn for each run"
    if buffer := next((name for name, _ in cell.model.model.named_buffers()), None):
        return f"models that have buffers ({buffer}) are not stacked"
    return ""


# --- the choice ------------------------------------------------------------------------------------------------------


def stacks_with_choices(
    cells: Sequence[Cell],
    chosen: Sequence[StackEntry],
    store: Store,
    *,
    workers: int,
    code: Code | None = None,
    nursery: Nursery | None = None,
) -> tuple[StackEntry, ...]:
    """The choice of every cell that has one, or that has two runs or more to begin.

    Args:
        chosen: the choices so far. They stay; runs that are not in them form stacks of the same size.
        workers: the number of processes that will train at a time; as many measure at a time.
        code: the user's Python that parts of the specs were written in.
        nursery: forks the processes that measure.
    """
    entries = {(stack.arm, stack.scale): stack for stack in chosen}
    to_measure: dict[tuple[str, str], _Open] = {}
    for cell in cells:
        place, left = (cell.arm.name, cell.scale), runs_to_begin(cell, store)
        if (stack := entries.get(place)) is not None:
            grouped = {run_id for group in stack.groups for run_id in group}
            added = groups_of([run_id for run_id in left if run_id not in grouped], stack.stack)
            entries[place] = stack.with_(groups=stack.groups + added)
        elif len(left) > 1 and (reason := why_alone(cell)):
            entries[place] = _alone(cell, left, reason)
        elif len(left) > 1:
            to_measure[place] = _Open(cell, left)
    measured = measured_in_processes(list(to_measure.values()), workers, code, nursery)
    times = [one for one in measured if isinstance(one, Measured)]
    sizes = iter(chosen_sizes(times, workers))
    for (place, (cell, left)), one in zip(to_measure.items(), measured, strict=True):
        if isinstance(one, Measured):
            entries[place] = _entry(cell, one, next(sizes))
        else:
            entries[place] = _alone(cell, left, f"stacks could not be measured: {one}")
    return tuple(entries.values())


class _Open(NamedTuple):
    """A cell whose stack is not chosen yet, and the ids of its runs that have not begun."""

    cell: Cell
    left: list[str]


def runs_to_begin(cell: Cell, store: Store) -> list[str]:
    """The ids of the cell's runs that have not ended, have no checkpoint, and have no place in a stack of any experiment."""
    placed = {run_id for group in stored_stacks(store) for run_id in group}
    run_ids = [spec.run_id for spec in cell.specs if spec.run_id not in placed and store.ended(spec.run_id) is None]
    return [run_id for run_id in run_ids if runs_together_before(store, run_id) is None]


def chosen_sizes(cells: Sequence[Measured], workers: int) -> list[int]:
    """The size for each cell: 1, or a size with LEAST_GAIN that makes the wall time of all cells together shorter.

    One cell after the other takes its best size, twice, because the best size depends on how the other cells fill the workers.
    """
    sizes = [1] * len(cells)

    def cost(index: int, size: int) -> tuple[float, float]:
        others = [*sizes[:index], size, *sizes[index + 1 :]]
        seconds = [each for cell, one in zip(cells, others, strict=True) for each in cell.process_seconds(one)]
        return makespan(sorted(seconds, reverse=True), workers), sum(seconds)

    for _ in range(2):
        for index, cell in enumerate(cells):
            allowed = [1, *(size for size, gain in cell.gains.items() if gain >= LEAST_GAIN)]
            sizes[index] = min(allowed, key=lambda size: cost(index, size))  # noqa: B023 - called at once
    return sizes


def _entry(cell: Cell, measured: Measured, size: int) -> StackEntry:
    gains = measured.gains
    best = max(gains, key=lambda one: gains[one])
    reason = f"stacks of {best} have {gains[best]:.2f} times their steps a second"
    if gains[best] < LEAST_GAIN:
        reason += f", and {LEAST_GAIN} is needed"
    else:
        reason += ", but would leave workers without a run"
    return StackEntry(
        arm=cell.arm.name,
        scale=cell.scale,
        stack=size,
        sizes=tuple(gains),
        gains=tuple(gains.values()),
        groups=groups_of(measured.runs, size),
        reason=reason if size == 1 else "",
    )


def _alone(cell: Cell, runs: Sequence[str], reason: str) -> StackEntry:
    return StackEntry(arm=cell.arm.name, scale=cell.scale, stack=1, groups=groups_of(runs, 1), reason=reason)


def planned_words(resolved: ResolvedExperiment, cells: Sequence[Cell], store: Store) -> list[str]:
    """A line for each cell: the choice that the store holds, or that it will be measured, or why its runs are trained alone."""
    run_ids = [run.spec.run_id for run in resolved.runs]
    kept = kept_stacks(store.experiments(), f"{resolved.name}--{resolved.size}", run_ids)
    words = {(stack.arm, stack.scale): stack.words for stack in kept}
    lines = []
    for cell in cells:
        place, left = (cell.arm.name, cell.scale), runs_to_begin(cell, store)
        default = "measured before its first run" if len(left) > 1 else "single runs: fewer than two are left to begin"
        if place not in words and len(left) > 1 and (reason := why_alone(cell)):
            default = f"single runs: {reason}"
        lines.append(f"{cell.arm.name} at {cell.scale}: {words.get(place, default)}")
    return lines


# --- the measurement -------------------------------------------------------------------------------------------------


def measured_in_processes(
    cells: Sequence[_Open], workers: int, code: Code | None, nursery: Nursery | None
) -> list[Measured | str]:
    """For each cell its times, or the reason why it has none. A cell has a process of its own, `workers` cells at a time."""
    measured: list[Measured | str] = []
    for first in range(0, len(cells), workers):
        batch = cells[first : first + workers]
        specs: list[RunSpec] = []
        shares: list[range] = []
        for cell, left in batch:
            some = [spec for spec in cell.specs if spec.run_id in left][: SIZES[-1]]
            shares.append(range(len(specs), len(specs) + len(some)))
            specs += some
        busy = min(
            workers, sum(len(left) for _, left in batch)
        )  # some cells are measured twice, so that no worker idles
        given_out = [shares[number % len(shares)] for number in range(max(busy, len(shares)))]
        reasons: list[str] = []
        messages = fan_out("palinode.experiment.stacks", (), specs, code, given_out, reasons.append, nursery)
        for cell, left in batch:
            of_cell = [message for message in messages if message["run_id"] == left[0]]
            rounds = [{int(size): each for size, each in one.items()} for of in of_cell for one in of["rounds"]]
            reason = "; ".join(dict.fromkeys(reasons)) or "the process gave no times"
            measured.append(Measured(tuple(left), cell.steps, tuple(rounds)) if rounds else reason)
    return measured


def main() -> None:
    """Measure stacks of the runs of these directories, and print the times. The runs differ in their seed alone."""
    end_with_the_driver()
    keep_memory()
    with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
        specs = [load_run(Path(directory), allow_code=True) for directory in sys.argv[1:]]  # the driver has decided
        rounds = measure(specs)
    say({"run_id": specs[0].run_id, "rounds": rounds})


def measure(specs: Sequence[RunSpec]) -> list[dict[int, float]]:
    """For each round, number of runs in a stack (1: a single run) -> the seconds of a step of one run.

    Args:
        specs: runs that differ in their seed alone.

    Raises:
        DivergedError: a loss is not finite.
        RuntimeError: the models cannot be stacked.
    """
    use_threads(specs[0].threads)
    data = prepare(specs[0].data)
    alone, *members = [new_training(spec, data) for spec in (specs[0], *specs)]
    sizes, rounds = sizes_up_to(len(specs)), list[dict[int, float]]()
    began = time.perf_counter()
    while sizes and len(rounds) < ROUNDS and (not rounds or time.perf_counter() - began < BUDGET_SECONDS):
        seconds = {size: _step_seconds(members[:size] if size > 1 else [alone]) for size in (1, *sizes)}
        rounds.append(seconds)
        if len(rounds) >= LEAST_ROUNDS:
            gains = gains_of(rounds)
            sizes = [size for size in sizes if gains[size] >= PROMISING_GAIN]
    return rounds


def gains_of(rounds: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Size -> the median, over the rounds, of the seconds of a single run divided by those of a run in a stack."""
    sizes = sorted({size for one in rounds for size in one} - {1})
    return {size: median(one[1] / one[size] for one in rounds if size in one) for size in sizes}


def sizes_up_to(runs: int) -> list[int]:
    """The sizes to measure for so many runs: those of SIZES that fit, and all runs when they are fewer than the largest size."""
    return sorted({size for size in SIZES if size <= runs} | {min(runs, SIZES[-1])})


def _step_seconds(members: Sequence[Training]) -> float:
    """The median of the seconds of a step, divided by the number of its runs."""
    for member in members:
        member.model.train()
    stack = Stack(members)
    return median(list(_timed_steps(stack))[WARM_UP_STEPS:]) / len(members)


def _timed_steps(stack: Stack) -> Iterator[float]:
    """The seconds of single steps. Computing time, where one thread does all the work: other programs disturb it least."""
    first = stack.members[0]
    is_one_thread = first.device.type == "cpu" and torch.get_num_threads() == 1
    now = time.process_time if is_one_thread else time.perf_counter
    for _ in range(WARM_UP_STEPS + TIMED_STEPS):
        if any(member.finished for member in stack.members):  # a short run is measured from its first step again
            for member in stack.members:
                member.counters = Counters()
        started = now()
        reports = stack.step()
        yield now() - started
        for report in reports:
            if isinstance(report, DivergedError):
                raise report


if __name__ == "__main__":
    main()
