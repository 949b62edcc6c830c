"""Run one experiment: pin the data, make the cells, refuse what cannot run, audit, plan, seal, tune, run, compare, record.

A second call repeats no work: audits are cached, runs that are done are reused (also runs of another experiment), and a run that
was interrupted continues.

With `seeds = "until decided"` the runs are done in stages: first the seeds of the first look, then one seed at a time over all
arms and scales. After each stage the verdicts are computed, and the look is recorded. The entry in the store holds the seeds of the
latest look.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from palinode.analysis.audits import ArmAudit
from palinode.audit import audit_comparison
from palinode.base.config import content_hash, encode
from palinode.base.decision import FIXED, UNTIL_DECIDED
from palinode.base.errors import BadInput, PalinodeError
from palinode.base.event import Event
from palinode.base.measures import FINAL_OUTCOMES
from palinode.base.stack_size import AUTO, StackSize, stack_size
from palinode.checks.budget import Tuning
from palinode.experiment.audits import audit_cells, refuse_leaks
from palinode.experiment.cells import (
    Cell,
    cells_of,
    expected_steps,
    pinned,
    refuse_full_disk,
    refuse_other_numerics,
    refuse_what_cannot_be,
)
from palinode.experiment.choosing import choose
from palinode.experiment.decisions import hold_on_decisions, read_plan, write_plan
from palinode.experiment.fan_out import nursery_for
from palinode.experiment.plan import NO_SMALLEST_EFFECT, Measure, Plan, expected_seconds, plan
from palinode.experiment.seal import record_look, record_look_of_older_version, seal_plan, undecided
from palinode.experiment.sources import refuse_sources
from palinode.experiment.stacks import begun_stacks, fixed_stack_of, kept_stacks, stacks_with_choices
from palinode.results.record import TRIALS_SUFFIX, ChoiceEntry, ExperimentEntry, RunEntry, trials_name
from palinode.results.seals import looks_at_other_seeds
from palinode.results.store import Store
from palinode.run.one import stack_key
from palinode.run.shared_data import prepare_shared
from palinode.spec.code import Code, changed_parts, keep_code, user_kinds
from palinode.spec.experiment import ResolvedExperiment, ResolvedRun
from palinode.spec.run_spec import EvaluationConfig, RunSpec
from palinode.spec.tuning import trials, trials_of, with_chosen
from palinode.sweep.local import SweepEnd, default_workers, sweep
from palinode.sweep.nursery import Nursery
from palinode.sweep.process import WORKER, Job, about_price, shared_worker
from palinode.sweep.remote import Elsewhere, leave
from palinode.train.checkpoint import CHECKPOINTS, newest_saved
from palinode.train.device import free_memory_bytes, has_devices, resolve_device
from palinode.train.recipe import AUDIT_BYTES, Parallel, chosen_parallel, refuse_sharing

Chosen = tuple[ResolvedExperiment, tuple[ChoiceEntry, ...]]
Place = tuple[str, str]  # arm, scale
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class HowToRun:
    """The options for running an experiment. No option changes a result, but the last digits of stacked runs differ.

    Attributes:
        at_a_time: the number of processes that train at the same time; None: the number that `default_at_a_time` gives.
        stack: the largest number of runs of one shape that are trained together in one process (`run_together`); `auto`: the
            number that is measured once for each arm at each scale, and kept in the entry (`experiment/stacks.py`).
        code: the user's Python code that parts of the experiment were written in.
        command: the command line, for the record.
        on_event: called with `audit`, `plan`, `choice` and `note` events, and with the events of `sweep.local.sweep`.
        elsewhere: trains the runs of a stage on other hosts (`sweep/remote.py`); None: this process trains them.
        price: the price of an hour of this machine, and its currency, for the record; None: unknown.
        decides_for_all: whether this process is a worker that decides in place of a driver that has gone (`experiment/decide.py`).
            It measures no times, and a request to stop stays.
        hours: the hours after which no run is going on; a run that is not expected to end in time is not started. None: no limit.
        processes: the number of processes that share each run. Above 1, a run has other bits, and its fingerprint says so.
        parallel: how they share it; None: `ddp`, or `fsdp2` where the largest model is too large for it (`train/processes.py`).
    """

    at_a_time: int | None = None
    stack: StackSize = 1
    code: Code | None = None
    command: Sequence[str] = ()
    on_event: Callable[[Event], None] = lambda event: None
    hours: float | None = None
    processes: int = 1
    parallel: Parallel | None = None
    elsewhere: Elsewhere | None = None
    price: tuple[float, str] | None = None
    decides_for_all: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stack", stack_size(self.stack))
        if self.processes > 1 and self.stack != 1:
            raise BadInput("runs that several processes share are not stacked", field="--stack", hint="leave it out")
        if self.processes == 1 and self.parallel is not None:
            raise BadInput("one process shares no run", field="--parallel", hint="add --processes N")

    def note(self, message: str) -> None:
        """Send a `note` event."""
        self.on_event({"event": "note", "message": message})


@dataclass(frozen=True)
class _Work:
    """What all steps of one call share.

    Attributes:
        at_a_time: the number of processes that train at the same time.
        deadline: the time of `time.monotonic` at which the call has to end; None: no deadline.
        worker: the command that starts a worker.
    """

    store: Store
    how: HowToRun
    at_a_time: int
    nursery: Nursery
    deadline: float | None
    worker: Sequence[str] = WORKER


def run_experiment(resolved: ResolvedExperiment, store: Store, how: HowToRun = HowToRun()) -> SweepEnd:
    """Audit, plan, seal, tune and run an experiment. Its entry in the store keeps the question, the plan, the choices, the times.

    Raises:
        BadInput: the data cannot be used, parts of an arm do not fit together, or a run has another numerics version.
        AuditFailed: an arm sees its own answer (or fails another check) and is not marked `expect_leak`.
        EnvironmentProblem: the machine lacks memory, disk space or a device.
        Damaged: the file of the seals or of the looks is damaged.
    """
    deadline = None if how.hours is None else time.monotonic() + SECONDS_PER_HOUR * how.hours
    nursery_of_run = Nursery() if how.decides_for_all else nursery_for(resolved, how.note)
    with nursery_of_run as nursery:
        if how.elsewhere is None:
            default = default_at_a_time(
                resolved, how.processes
            )  # also if unused: this call refuses a missing device before the audits
        else:
            default = default_workers(max(run.spec.threads for run in resolved.runs))
        return _run(resolved, _Work(store, how, how.at_a_time or default, nursery, deadline))


def _run(written: ResolvedExperiment, work: _Work) -> SweepEnd:
    store, how = work.store, work.how
    refuse_other_numerics(written, store)
    written = pinned(written)
    cells = cells_of(written)
    refuse_what_cannot_be(cells, trains_here=how.elsewhere is None)
    refuse_sources(cells, store)
    if how.processes > 1:
        work = replace(work, worker=shared_worker(how.processes, shared_by(cells, how)))
    audits = audit_cells(cells, store, how.on_event, code=how.code, workers=work.at_a_time, nursery=work.nursery)
    if how.elsewhere is None or how.decides_for_all:
        return _run_audited(written, audits, work)
    with hold_on_decisions(f"{written.name}--{written.size}", store, how.note):
        return _run_audited(written, audits, work)


def _run_audited(written: ResolvedExperiment, audits: Sequence[ArmAudit], work: _Work) -> SweepEnd:
    store, how, resolved = work.store, work.how, written
    choices: tuple[ChoiceEntry, ...] = ()
    if resolved.tuning is not None and (chosen := tuned(resolved, store)) is not None:
        resolved, choices = chosen
    before = _stored_entry(resolved, store)
    if before is not None:
        record_look_of_older_version(before, store)
    stage = _first_stage(resolved, before)
    entry = _entry(stage, store, how, audits, choices)
    if how.decides_for_all and before is not None:
        entry = entry.with_(created=before.created, command=before.command, code=before.code, plan=before.plan)
    else:
        _note_replaced_runs(entry, before, store, how)
        _forget_earlier(entry, store)
    store.write_experiment(entry)
    refuse_leaks(audits)
    planned = _planned(stage, work)
    if (planned.left and not how.decides_for_all) or not entry.plan:  # else the earlier prediction stays
        entry = entry.with_(plan=planned.as_data())
    seal_plan(written, entry, before, store, how.note)
    store.write_experiment(entry)
    if how.elsewhere is not None and not how.decides_for_all:
        write_plan(written, store, how.code)
    how.on_event({"event": "plan", **planned.as_data()})
    end = _work_through(entry, resolved, stage, choices, planned, work)
    if how.elsewhere is not None and not end.is_cut_short:
        store.forget_plan(entry.full_name)
    return end


def _forget_earlier(entry: ExperimentEntry, store: Store) -> None:
    """Delete what an earlier driver left to workers: a request to stop, and runs and decisions of other settings."""
    store.forget_stop(entry)
    store.forget_plan(entry.full_name)
    store.forget_queue(entry.full_name)
    store.forget_queue(trials_name(entry))


def _work_through(
    entry: ExperimentEntry,
    resolved: ResolvedExperiment,
    stage: ResolvedExperiment,
    choices: tuple[ChoiceEntry, ...],
    planned: Plan,
    work: _Work,
) -> SweepEnd:
    """Do the trials that are left, then the runs."""
    store, how = work.store, work.how
    if resolved.tuning is not None:
        end, chosen = _run_trials(resolved, planned, work)
        if chosen is None:
            return end
        resolved, choices = chosen
        stage = _first_stage(resolved, None)
        entry = entry.with_(seeds=stage.seeds, runs=_run_entries(stage), choices=choices, to_choose="")
        store.write_experiment(entry)
    for choice in choices:
        how.on_event({"event": "choice", **encode(choice), "words": choice.words})
    return _run_stages(entry, resolved, stage, planned, work)


def _planned(stage: ResolvedExperiment, work: _Work) -> Plan:
    """The plan of the runs of this stage, after a check that their checkpoints fit on the disk."""
    how = work.how
    if stage.decision.smallest_effect == 0:
        how.note(NO_SMALLEST_EFFECT)
    planned = plan(
        stage,
        cells_of(stage),
        work.store,
        workers=work.at_a_time,
        code=how.code,
        measure=_when_to_measure(how, stage),
        on_failure=how.note,
        nursery=work.nursery,
    )
    refuse_full_disk(planned.disk_bytes, work.store)
    return planned


def _when_to_measure(how: HowToRun, stage: ResolvedExperiment) -> Measure:
    """When to time a few steps. A machine that lacks the device, or only decides, times nothing."""
    if how.decides_for_all or (how.elsewhere is not None and not has_devices(run.spec.device for run in stage.runs)):
        return "never"
    return "if long" if how.hours is None else "always"


def _run_trials(resolved: ResolvedExperiment, planned: Plan, work: _Work) -> tuple[SweepEnd, Chosen | None]:
    """Do the trials, which are a separate experiment in the store. Their arms were audited already.

    Returns:
        how the trials ended, and the experiment with the chosen values; None in place of it when trials are left.
    """
    chooser = trials(resolved)
    _with_stacks(_entry(chooser, work.store, work.how), chooser, work)
    longest = max((cell.seconds or 0.0 for cell in planned.cells), default=0.0)
    end = _sweep(chooser, work, {}, {(run.arm, run.scale): longest for run in chooser.runs})
    if end.late:
        work.how.note(f"{work.how.hours:g} hours are used up, and {len(end.late)} trials are left")
    return end, None if end.is_cut_short else tuned(resolved, work.store)


def decide(full_name: str, store: Store, on_event: Callable[[Event], None], *, allow_code: bool) -> bool:
    """Do what the driver of an experiment would do now that the runs that it wrote have ended (`experiment/decisions.py`).

    The caller has the hold on the decisions.

    Args:
        on_event: called with `note` and `choice` events.

    Returns:
        whether runs are left for workers.

    Raises:
        PalinodeError: what `run_experiment` raises.
    """

    def told(event: Event) -> None:
        if event["event"] in ("note", "choice"):
            on_event(event)

    resolved, code = read_plan(full_name, store, allow_code=allow_code)
    end = run_experiment(resolved, store, HowToRun(code=code, on_event=told, elsewhere=leave, decides_for_all=True))
    return bool(end.left_to_workers)


# --- the stages ------------------------------------------------------------------------------------------------------


def _stored_entry(resolved: ResolvedExperiment, store: Store) -> ExperimentEntry | None:
    """The entry that the store has under the name and size of this experiment; None if it has none that can be read."""
    full_name = f"{resolved.name}--{resolved.size}"
    return next((entry for entry in store.experiments() if entry.full_name == full_name), None)


def _first_stage(resolved: ResolvedExperiment, before: ExperimentEntry | None) -> ResolvedExperiment:
    """The experiment with the seeds to begin with: all seeds, or the seeds of the first look or of the latest look in the store."""
    if resolved.seeds_planned == FIXED:
        return resolved
    own = {run.spec.run_id for run in resolved.runs}
    goes_on = (
        before is not None and before.seeds_planned == UNTIL_DECIDED and {run.run_id for run in before.runs} <= own
    )
    taken = len(before.seeds) if before is not None and goes_on else 0
    return resolved.with_seeds(max(resolved.decision.looks.first, taken))


def _run_stages(
    entry: ExperimentEntry, resolved: ResolvedExperiment, stage: ResolvedExperiment, planned: Plan, work: _Work
) -> SweepEnd:
    """Do the runs of one stage after the other, with a look after each, until nothing is left to do or a stage is cut short."""
    began, store = time.perf_counter(), work.store
    flops = {(cell.arm, cell.scale): cell.train_flops for cell in planned.cells}
    end = SweepEnd({}, frozenset(), None)
    while True:
        entry = _with_stacks(entry, stage, work)
        seconds = expected_seconds(cells_of(stage), planned, store).seconds if work.deadline is not None else {}
        of_stage = _sweep(stage, work, flops, seconds)
        end = replace(of_stage, outcomes={**end.outcomes, **of_stage.outcomes}, reused=end.reused | of_stage.reused)
        if end.is_cut_short:
            _note_what_is_left(stage, end, seconds, work)
            return end
        entry = _with_looks(entry.with_(seeds=stage.seeds, runs=_run_entries(stage)), store)
        if stage.seeds_planned == FIXED:
            measured = _measured(planned, time.perf_counter() - began, end)
            entry = entry.with_(plan=dict(entry.plan) | measured)
        entry = entry.with_(comparison=_compared(stage, store, entry.choices))
        store.write_experiment(entry)
        outcomes = record_look(entry, store)
        if stage.seeds_planned == FIXED:
            return end
        left = len(undecided(outcomes, entry))
        words = (
            f"look at {len(stage.seeds)} seeds: {len(outcomes) - left} of {len(outcomes)} verdicts need no more seeds"
        )
        failed = sum(outcome not in FINAL_OUTCOMES for outcome in of_stage.outcomes.values())
        if not left or failed or len(stage.seeds) == len(resolved.seeds):
            work.how.note(
                f"{words}{f', but {failed} runs failed: the same command tries them again' if failed else ''}"
            )
            return end
        work.how.note(f"{words}; seed {resolved.seeds[len(stage.seeds)]} is next")
        stage = resolved.with_seeds(len(stage.seeds) + 1)


def _with_looks(entry: ExperimentEntry, store: Store) -> ExperimentEntry:
    """The entry with the number of looks at other seeds, and the number of seeds of the first of them."""
    run_ids = [run.run_id for run in entry.runs]
    looks = [one for one in store.looks(entry).rows if looks_at_other_seeds([one], entry.seeds, run_ids)]
    return entry.with_(looks_taken=len(looks), first_seeds=len(looks[0].seeds) if looks else 0)


def _note_what_is_left(stage: ResolvedExperiment, end: SweepEnd, seconds: Mapping[Place, float], work: _Work) -> None:
    """Say which runs the end of the time has left, and how long one of them is expected to take."""
    if not end.late:
        return
    times = [seconds[run.arm, run.scale] for run in stage.runs if run.spec.run_id in end.late]
    hours = " to ".join(dict.fromkeys(f"{seconds / SECONDS_PER_HOUR:.2g}" for seconds in (min(times), max(times))))
    used = f"{work.how.hours:g} hours are used up, or too short for the next run"
    work.how.note(f"{used}: {len(end.late)} of {len(stage.runs)} runs were not started, each of about {hours} hours")


def shared_by(cells: Sequence[Cell], how: HowToRun) -> Parallel:
    """How the processes share each run, after a check that they can.

    Raises:
        BadInput: a recipe has too few micro-batches, or a part that several processes cannot share.
    """
    if how.elsewhere is not None:  # the memory of other hosts is not known here
        parallel, free_bytes = how.parallel or "ddp", math.inf
    else:
        largest = max(cell.model.total_parameters for cell in cells)
        free_bytes = free_memory_bytes(resolve_device(cells[0].spec.device), how.processes)
        parallel = how.parallel or chosen_parallel(largest, free_bytes)
    for cell in cells:
        refuse_sharing(cell.spec.recipe, how.processes, parallel)
        if parallel == "fsdp2" and AUDIT_BYTES * cell.model.total_parameters > free_bytes:
            refuse_reading_weights(cell.spec.evaluation)
    return parallel


def refuse_reading_weights(evaluation: EvaluationConfig) -> None:
    """Refuse measurements that read the whole weights, for a model that does not fit the memory of one process.

    Raises:
        BadInput: the evaluation has such a measurement.
    """
    for name in ("layer_cut", "embeddings", "retrieval"):
        if getattr(evaluation, name):
            message = "needs the whole weights, which do not fit the memory of one process"
            raise BadInput(message, field=f"evaluation.{name}", hint=f"leave out evaluation.{name}")


def default_at_a_time(resolved: ResolvedExperiment, processes: int = 1) -> int:
    """The number of runs at a time when the user gives none: one on a GPU, else as many as the CPU cores allow.

    Raises:
        EnvironmentProblem: this machine lacks a device that the specs name.
    """
    if any(resolve_device(run.spec.device).type == "cuda" for run in resolved.runs):
        return 1
    return default_workers(processes * max(run.spec.threads for run in resolved.runs))


def tuned(resolved: ResolvedExperiment, store: Store) -> Chosen | None:
    """The experiment with the chosen values, and the record of each choice; None while a trial is left to do.

    Raises:
        BadInput: no trial of an arm gave a score.
    """
    cells = [(arm.name, scale) for scale in resolved.scales for arm in resolved.arms]
    tried = {cell: trials_of(resolved, *cell) for cell in cells}
    if not all(store.ended(spec.run_id) for values in tried.values() for _, specs in values for spec in specs):
        return None
    choices = tuple(choose(resolved, arm, scale, tried[arm, scale], store) for arm, scale in cells)
    return with_chosen(resolved, {(choice.arm, choice.scale): choice.chosen for choice in choices}), choices


def _with_stacks(entry: ExperimentEntry, resolved: ResolvedExperiment, work: _Work) -> ExperimentEntry:
    """Write the entry, with the choices of `--stack auto` where the user wants them, and return it."""
    if work.how.stack == AUTO:
        cells, store = cells_of(resolved), work.store
        stacks = stacks_with_choices(
            cells, entry.stacks, store, workers=work.at_a_time, code=work.how.code, nursery=work.nursery
        )
        entry = entry.with_(stacks=stacks)
        for stack in stacks:
            work.how.note(f"{stack.arm} at {stack.scale}: {stack.words}")
    work.store.write_experiment(entry)
    return entry


def _sweep(
    resolved: ResolvedExperiment, work: _Work, flops: Mapping[Place, float], seconds: Mapping[Place, float]
) -> SweepEnd:
    """Write the specs with the user's code, and do the runs that are left. An event names the arm, scale, seed and steps.

    Args:
        flops: (arm, scale) -> the FLOPs of a run.
        seconds: (arm, scale) -> the expected seconds of a run; read only where there is a deadline.
    """
    jobs, labels, store, how = list[Job](), dict[str, Event](), work.store, work.how
    run_ids = [run.spec.run_id for run in resolved.runs]
    fixed = fixed_stack_of(store, run_ids, all_groups=how.stack == AUTO) if how.processes == 1 else {}
    begun = begun_stacks(store, run_ids) if how.stack == AUTO else {}
    stack = max(begun.values(), default=1) if how.stack == AUTO else how.stack
    for run in _in_order(resolved.runs, flops):
        spec = run.spec
        directory = store.write_spec(spec.run_id, encode(spec))
        keep_code(directory, how.code)
        together = fixed.get(spec.run_id, ())
        key = stack_key(spec) if how.stack != AUTO or spec.run_id in begun else None
        in_process = len(together) or (
            stack if key is not None else 1
        )  # a stack takes at most as long as its runs alone
        expected = in_process * _seconds_left(spec, seconds.get((run.arm, run.scale), 0.0), work)
        source = spec.start_from.run if spec.start_from is not None else None
        jobs.append(Job(spec.run_id, directory, spec.threads, key, together, expected, source))
        labels[spec.run_id] = {"arm": run.arm, "scale": run.scale, "seed": run.seed, "steps": spec.recipe.steps}

    def on_event(event: Event) -> None:
        how.on_event({**event, **labels[event["run_id"]]})

    if how.elsewhere is not None:
        full_name = f"{resolved.name}--{resolved.size}"
        store.share_data()
        for data in dict.fromkeys(run.spec.data for run in resolved.runs):
            prepare_shared(data, store)  # no other host need have the text
        store.write_queue(full_name, _run_entries(resolved))
        return how.elsewhere(jobs, store, f"{resolved.name.removesuffix(TRIALS_SUFFIX)}--{resolved.size}", on_event)
    return sweep(
        jobs,
        store,
        workers=work.at_a_time,
        stack=stack,
        on_event=on_event,
        worker=(*work.worker, *about_price(how.price, work.at_a_time)),
        nursery=work.nursery,
        deadline=work.deadline,
    )


def _seconds_left(spec: RunSpec, seconds: float, work: _Work) -> float:
    """The expected seconds of the steps after the newest checkpoint of a run; 0 where there is no deadline."""
    if work.deadline is None:
        return 0.0
    saved = newest_saved(work.store.run_directory(spec.run_id) / CHECKPOINTS)
    return seconds * (1.0 - min(1.0, saved.step / expected_steps(spec))) if saved is not None else seconds


def _in_order(runs: Sequence[ResolvedRun], flops: Mapping[tuple[str, str], float]) -> list[ResolvedRun]:
    """The runs as they are started: seed by seed, and of the last seed the longest run first, so that all processes end at about
    the same time. `flops`: (arm, scale) -> the FLOPs of a run.
    """
    seeds = [run.seed for run in runs]
    last = seeds[-1] if seeds else None
    return [
        *(run for run in runs if run.seed != last),
        *sorted((run for run in runs if run.seed == last), key=lambda run: -flops.get((run.arm, run.scale), 0.0)),
    ]


def _compared(resolved: ResolvedExperiment, store: Store, choices: Sequence[ChoiceEntry]) -> str:
    """Audit the costs that the arms had (check C5) and store the audit; return the hash of the audit."""
    held = set(store.run_ids())
    runs = [
        (run.arm, run.scale, run.spec, store.record(run.spec.run_id) if run.spec.run_id in held else None)
        for run in resolved.runs
    ]
    models = {run.spec.model for run in resolved.runs if run.scale == resolved.scales[0]}
    tuning: dict[str, Tuning] = {}  # arm -> the number of trials and tokens at all scales together
    for choice in choices:
        before = tuning.get(choice.arm, Tuning(0, 0))
        tuning[choice.arm] = Tuning(before.trials + len(choice.runs), before.tokens_read + choice.tokens_read)
    equal, models_differ = resolved.decision.equal, len(models) > 1
    report = audit_comparison(runs, equal=equal, models_differ=models_differ, tuning=tuning)
    findings = [encode(finding) for finding in report.findings]
    audit_hash = content_hash([resolved.name, resolved.size, [run.spec.run_id for run in resolved.runs], findings])
    if audit_hash not in store.audits():  # the hash leaves out the seconds of the audit
        store.write_audit(audit_hash, report)
    return audit_hash


def _note_replaced_runs(entry: ExperimentEntry, before: ExperimentEntry | None, store: Store, how: HowToRun) -> None:
    """Note that `--set` or `--seeds` replaced runs of this name: the earlier runs stay in the store, but not in the verdict.

    Args:
        before: the entry that the store has under this name; None if it has none.
    """
    if before is None or before.to_choose or entry.to_choose:
        return
    run_ids = {run.run_id for run in entry.runs}
    if replaced := [run for run in before.runs if run.run_id not in run_ids]:
        earlier = f"{entry.full_name} had {len(replaced)} other runs, of `{' '.join(before.command)}`"
        how.note(f"{earlier}; they stay in the store, and it shows the new ones from now on")
        if how.code is not None and (changed := _changed_code(replaced, store, how.code)):
            how.note(changed)


def _changed_code(runs: Sequence[RunEntry], store: Store, code: Code) -> str:
    """The names in the user's code that changed since these runs; empty when no name changed."""
    changed: dict[str, list[str]] = {}
    for run in runs:
        with contextlib.suppress(PalinodeError):  # a run that is missing or damaged has no record of the code
            kinds = user_kinds(dict(store.record(run.run_id).spec))
            parts = changed_parts(store.run_directory(run.run_id), code)
            changed |= {kind: names for kind, names in parts.items() if kind in kinds}
    texts = [f"{kind} ({', '.join(names)})" for kind, names in sorted(changed.items())]
    return f"runs have new ids, as code of {code.path.name} changed: {'; '.join(texts)}" if texts else ""


def _entry(
    resolved: ResolvedExperiment,
    store: Store,
    how: HowToRun,
    audits: Sequence[ArmAudit] = (),
    choices: Sequence[ChoiceEntry] = (),
) -> ExperimentEntry:
    """The entry of an experiment in the store. The date, command and plan of an earlier entry with the same runs stay."""
    runs, experiments = _run_entries(resolved), store.experiments()
    same = (resolved.name, resolved.size, [run.run_id for run in runs])
    earlier = next((one for one in experiments if (one.name, one.size, [run.run_id for run in one.runs]) == same), None)
    hashes: dict[str, dict[str, str]] = {}
    for audit in audits:
        hashes.setdefault(audit.arm.name, {}).update(audit.hashes)
    entry = ExperimentEntry(
        name=resolved.name,
        size=resolved.size,
        question=resolved.question,
        about=resolved.about,
        created=earlier.created if earlier else datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=earlier.command if earlier else tuple(how.command),
        code=str(how.code.path) if how.code else None,
        decision=encode(resolved.decision),
        arms=resolved.arms,
        scales=resolved.scales,
        seeds=resolved.seeds,
        runs=runs,
        audits=hashes,
        choices=tuple(choices),
        to_choose=resolved.tuning.field if resolved.tuning is not None else "",
        plan=earlier.plan if earlier else {},
        claims=resolved.claims,
        stacks=kept_stacks(experiments, f"{resolved.name}--{resolved.size}", [run.run_id for run in runs]),
        seeds_planned=resolved.seeds_planned,
    )
    return _with_looks(entry, store)


def _run_entries(resolved: ResolvedExperiment) -> tuple[RunEntry, ...]:
    return tuple(RunEntry(arm=run.arm, scale=run.scale, seed=run.seed, run_id=run.spec.run_id) for run in resolved.runs)


def _measured(planned: Plan, seconds: float, end: SweepEnd) -> dict[str, Any]:
    """The seconds of the runs, and their ratio to the predicted seconds; empty unless this call did all the runs of the plan."""
    if end.interrupted is not None or not planned.left:
        return {}
    if planned.seconds is None:
        return {"measured_seconds": seconds}
    return {"measured_seconds": seconds, "measured_to_predicted": seconds / max(planned.seconds, 1e-9)}
