"""One experiment, from spec to verdict, readable top to bottom: pin the data, audit every arm, plan, run, record.

The same call again does nothing twice: audits are cached, runs that are done are reused (whichever experiment did them),
and a run that was interrupted goes on.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from palinode.analysis.audits import ArmAudit
from palinode.audit import audit_arm, audit_comparison
from palinode.base.config import content_hash, encode
from palinode.base.errors import AuditFailed, BadInput, EnvironmentProblem
from palinode.checks.budget import Tuning
from palinode.experiment.audit_ahead import audit_ahead, unmeasured
from palinode.experiment.plan import Plan, plan, refuse_what_cannot_be
from palinode.experiment.tune import tuned
from palinode.results.record import ChoiceEntry, ExperimentEntry, RunEntry
from palinode.results.store import Store
from palinode.run.together import stack_key
from palinode.spec.code import Code, keep_code
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.pin import pinned
from palinode.spec.tuning import trials
from palinode.sweep.local import SweepEnd, default_workers, sweep
from palinode.sweep.process import Job
from palinode.train.device import resolve_device

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


def run_experiment(
    resolved: ResolvedExperiment,
    store: Store,
    *,
    code: Code | None = None,
    command: Sequence[str] = (),
    workers: int | None = None,
    stack: int = 1,
    on_event: OnEvent = lambda event: None,
) -> SweepEnd:
    """Audit, plan, tune and run an experiment; its entry in the store says what was asked, predicted, chosen and found.

    Args:
        code: the user's Python that parts of the experiment were written in.
        command: the command line, for the record.
        workers: processes at a time; default see `default_at_a_time`.
        stack: so many runs of one shape at most are trained together in a process (`run_together`).
        on_event: called with `audit`, `plan`, `choice`, `note` events and those of `sweep.local.sweep`.

    Raises:
        BadInput: the data cannot be used.
        AuditFailed: an arm sees its own answer (or fails another check) and is not marked `expect_leak`.
        EnvironmentProblem: the machine refused.
    """
    default = default_at_a_time(resolved)  # even unused: a device that is not there is said before the audits
    at_a_time = workers or default
    resolved = pinned(resolved)
    refuse_what_cannot_be(resolved, store)
    audits = audit_arms(resolved, store, on_event, code=code, workers=at_a_time)
    choices: tuple[ChoiceEntry, ...] = ()
    if resolved.tuning is not None and (found := tuned(resolved, store)) is not None:
        resolved, choices = found
    entry = _entry(resolved, code, command, audits, choices, earlier=_earlier(resolved, store))
    _tell_what_is_replaced(entry, store, on_event)
    store.write_experiment(entry)
    refuse_leaks(audits)
    planned = plan(
        resolved,
        store,
        workers=at_a_time,
        code=code,
        on_failure=lambda line: on_event({"event": "note", "message": line}),
    )
    _refuse_full_disk(planned, store)
    if planned.left or not entry.plan:  # with nothing left to do, what was predicted for the runs stays
        entry = entry.with_(plan=planned.as_data())
        store.write_experiment(entry)
    on_event({"event": "plan", **planned.as_data()})
    began = time.perf_counter()
    if resolved.tuning is not None:
        end = _run_trials(resolved, store, code, command, (at_a_time, stack), on_event)
        if end.interrupted is not None or (found := tuned(resolved, store)) is None:
            return end
        resolved, choices = found
        entry = entry.with_(runs=_run_entries(resolved), choices=choices, to_choose="")
        store.write_experiment(entry)
    for choice in choices:
        on_event({"event": "choice", **encode(choice)})
    events = _labelled(resolved, on_event)
    end = sweep(_jobs(resolved, store, code), store, workers=at_a_time, stack=stack, on_event=events)
    measured = _measured(planned, time.perf_counter() - began, end)
    compared = _compared(resolved, store, choices) if end.interrupted is None else entry.comparison
    store.write_experiment(entry.with_(plan=dict(entry.plan) | measured, comparison=compared))
    return end


def default_at_a_time(resolved: ResolvedExperiment) -> int:
    """Runs at a time when nobody says: one on a GPU, else as many as there are cores for.

    Raises:
        EnvironmentProblem: a device that the specs name is not there.
    """
    if any(resolve_device(run.spec.device).type == "cuda" for run in resolved.runs):
        return 1
    return default_workers(max(run.spec.threads for run in resolved.runs))


def audit_arms(
    resolved: ResolvedExperiment,
    store: Store,
    on_event: OnEvent = lambda event: None,
    *,
    code: Code | None = None,
    workers: int = 1,
) -> list[ArmAudit]:
    """Audit every arm of a pinned experiment at every scale; what the store holds is not measured again.

    Args:
        workers: arms audited at a time, where several are to be measured.

    Raises:
        BadInput: the parts of an arm do not fit together.
    """
    first_run = {(run.arm, run.scale): run.spec for run in reversed(resolved.runs)}
    if (count := len(unmeasured(tuple(first_run.values()), store))) > 1:
        told = f"measuring {count} audits, {min(count, workers)} at a time, before anything is trained"
        on_event({"event": "note", "message": told})
    audit_ahead(tuple(first_run.values()), store, code, workers=workers)
    found = []
    for scale in resolved.scales:
        for arm in resolved.arms:
            try:
                audited = audit_arm(resolved.settings(arm.name, scale), name=arm.name, store=store)
            except (
                BadInput
            ) as problem:  # parts that fit one by one and not together: a mask and a window, a mixer and a mask
                field = f"arms.{arm.name}: {problem.field}" if problem.field else f"arms.{arm.name}"
                raise BadInput(problem.message, file=problem.file, field=field, hint=problem.hint) from None
            found.append(ArmAudit(arm, {scale: audited.report}, {scale: audited.hash}))
            on_event(
                {
                    "event": "audit",
                    "arm": arm.name,
                    "scale": scale,
                    "outcome": audited.report.outcome,
                    "leaks": bool(audited.report.leaks),
                    "expect_leak": arm.expect_leak,
                    "collapses": bool(audited.report.collapses),
                    "expect_collapse": arm.expect_collapse,
                    "seconds": audited.report.seconds,
                }
            )
    return found


def refuse_leaks(audits: Sequence[ArmAudit]) -> None:
    """Stop an experiment whose arms cannot be compared.

    Raises:
        AuditFailed: one paragraph: which arm, what was found, and what to do.
    """
    for audit in audits:
        if not audit.unexpected:
            continue
        finding = next(iter(audit.leaks), audit.unexpected[0]).finding
        name = audit.arm.name
        if audit.leaks:
            raise AuditFailed(
                f"the audit shows that arm {name!r} sees its own answer: {finding.message}. Its loss would be impossibly "
                "low and a comparison with it would mean nothing, so nothing was trained. Correct the visibility or the "
                "sources of its objective (`palinode audit` shows which positions see what), or, if the leak is the point, "
                "mark the arm expect_leak=True: it is then run, and stamped LEAK everywhere",
                field=f"arms.{name}",
            )
        if finding.shows_collapse:
            raise AuditFailed(
                f"an auxiliary term of arm {name!r} vanishes by itself: {finding.message}. Its value would say nothing of what "
                "it compares, so nothing was trained. Let its norms learn no gain or set a variance floor, or, if the collapse "
                "is the point, mark the arm expect_collapse=True: it is then run, and stamped COLLAPSE everywhere",
                field=f"arms.{name}",
            )
        raise AuditFailed(
            f"arm {name!r} failed {finding.check}: {finding.message}. Nothing was trained",
            field=f"arms.{name}",
            hint="`palinode audit` shows the evidence",
        )


def _labelled(resolved: ResolvedExperiment, on_event: OnEvent) -> OnEvent:
    """Events of a run say which cell of the experiment it is."""
    labels = {
        run.spec.run_id: {"arm": run.arm, "scale": run.scale, "seed": run.seed, "steps": run.spec.recipe.steps}
        for run in resolved.runs
    }
    return lambda event: on_event({**event, **labels[event["run_id"]]})


def _run_trials(
    resolved: ResolvedExperiment,
    store: Store,
    code: Code | None,
    command: Sequence[str],
    at_a_time: tuple[int, int],
    on_event: OnEvent,
) -> SweepEnd:
    """Run the trials that choose, as an experiment of their own in the store; the arms were audited already."""
    chooser = trials(resolved)
    store.write_experiment(_entry(chooser, code, command, (), (), earlier=_earlier(chooser, store)))
    workers, stack = at_a_time
    events = _labelled(chooser, on_event)
    return sweep(_jobs(chooser, store, code), store, workers=workers, stack=stack, on_event=events)


def _compared(resolved: ResolvedExperiment, store: Store, choices: Sequence[ChoiceEntry]) -> str:
    """Audit what the arms consumed (C5) and store it; returns its hash."""
    held = set(store.run_ids())
    runs = [
        (run.arm, run.scale, run.spec, store.record(run.spec.run_id) if run.spec.run_id in held else None)
        for run in resolved.runs
    ]
    models = {run.spec.model for run in resolved.runs if run.scale == resolved.scales[0]}
    report = audit_comparison(
        runs, equal=resolved.decision.equal, models_differ=len(models) > 1, tuning=_tuning(choices)
    )
    findings = [encode(finding) for finding in report.findings]
    audit_hash = content_hash([resolved.name, resolved.size, [run.spec.run_id for run in resolved.runs], findings])
    if audit_hash not in store.audits():  # its seconds are not in the hash: the same comparison again changes nothing
        store.write_audit(audit_hash, report)
    return audit_hash


def _tuning(choices: Sequence[ChoiceEntry]) -> dict[str, Tuning]:
    """Trials and tokens of each arm, all scales together."""
    of_arm: dict[str, list[ChoiceEntry]] = {}
    for choice in choices:
        of_arm.setdefault(choice.arm, []).append(choice)
    return {
        arm: Tuning(sum(len(choice.runs) for choice in found), sum(choice.tokens_read for choice in found))
        for arm, found in of_arm.items()
    }


def _jobs(resolved: ResolvedExperiment, store: Store, code: Code | None) -> list[Job]:
    """Write every run's spec, and the user's code it needs, and hand the directories over."""
    jobs = []
    for run in resolved.runs:
        directory = store.write_spec(run.spec.run_id, encode(run.spec))
        if code is not None:
            keep_code(directory, code)
        jobs.append(Job(run.spec.run_id, directory, run.spec.threads, stack_key(run.spec)))
    return jobs


def _earlier(resolved: ResolvedExperiment, store: Store) -> ExperimentEntry | None:
    """The entry that the same runs have already, when they were asked for before."""
    wanted = [run.spec.run_id for run in resolved.runs]
    for entry in store.experiments():
        if (entry.name, entry.size) == (resolved.name, resolved.size) and [run.run_id for run in entry.runs] == wanted:
            return entry
    return None


def _tell_what_is_replaced(entry: ExperimentEntry, store: Store, on_event: OnEvent) -> None:
    """`--set` and `--seeds` can make other runs under the same name; those it had are kept, and are in its verdict no longer."""
    wanted = {run.run_id for run in entry.runs}
    for before in store.experiments():
        if before.full_name != entry.full_name or before.to_choose or entry.to_choose:
            continue
        if gone := [run for run in before.runs if run.run_id not in wanted]:
            told = f"{entry.full_name} had {len(gone)} other runs, of `{' '.join(before.command)}`"
            on_event(
                {"event": "note", "message": f"{told}; they stay in the store, and it shows the new ones from now on"}
            )


def _entry(
    resolved: ResolvedExperiment,
    code: Code | None,
    command: Sequence[str],
    audits: Sequence[ArmAudit],
    choices: Sequence[ChoiceEntry],
    *,
    earlier: ExperimentEntry | None,
) -> ExperimentEntry:
    hashes: dict[str, dict[str, str]] = {}
    for audit in audits:
        hashes.setdefault(audit.arm.name, {}).update(audit.hashes)
    return ExperimentEntry(
        name=resolved.name,
        size=resolved.size,
        question=resolved.question,
        created=earlier.created if earlier else datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=earlier.command if earlier else tuple(command),
        code=str(code.path) if code else None,
        decision=encode(resolved.decision),
        arms=resolved.arms,
        scales=resolved.scales,
        seeds=resolved.seeds,
        runs=_run_entries(resolved),
        audits=hashes,
        choices=tuple(choices),
        to_choose=resolved.tuning.field if resolved.tuning is not None else "",
        plan=earlier.plan if earlier else {},
        claims=resolved.claims,
    )


def _run_entries(resolved: ResolvedExperiment) -> tuple[RunEntry, ...]:
    return tuple(RunEntry(arm=run.arm, scale=run.scale, seed=run.seed, run_id=run.spec.run_id) for run in resolved.runs)


def _refuse_full_disk(planned: Plan, store: Store) -> None:
    free = shutil.disk_usage(store.create().root).free
    if planned.disk_bytes > free:
        raise EnvironmentProblem(
            f"the runs need about {planned.disk_bytes:,} bytes and {free:,} are free",
            file=str(store.root),
            hint="free some space, or name another store with --store",
        )


def _measured(planned: Plan, seconds: float, end: SweepEnd) -> dict[str, Any]:
    """What the runs really took, beside what was predicted; only when all that were predicted were done in this go."""
    if end.interrupted is not None or not planned.left or planned.seconds is None:
        return {}
    return {"measured_seconds": seconds, "measured_to_predicted": seconds / max(planned.seconds, 1e-9)}
