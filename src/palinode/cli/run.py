"""`palinode run FILE`: audit, train and compare every arm. The same command again continues, and repeats nothing.

`palinode demo` does it with the experiment that comes with Palinode, up to the report.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from palinode.base.stack_size import stack_size
from palinode.cli import options
from palinode.cli.first_line import first_line
from palinode.cli.options import above_zero, audits_are_kept, of_file, resolve, sharing
from palinode.cli.progress import progress
from palinode.cli.stores import writable_store

if TYPE_CHECKING:
    from palinode.results.store import Store
    from palinode.spec.experiment import ResolvedExperiment
    from palinode.sweep.local import SweepEnd


def run(
    context: typer.Context,
    file: options.File,
    size: options.Size = None,
    changes: options.Changes = None,
    seeds: options.Seeds = None,
    store: options.StorePath = options.DEFAULT_STORE,
    workers: options.Workers = None,
    stack: options.Stack = "1",
    processes: options.Processes = 1,
    parallel: options.Parallel = None,
    hours: options.Hours = None,
    report: Annotated[bool, typer.Option("--report", help="Build the report at the end and print its path.")] = False,
    yes: options.Yes = False,
    code: options.Code = None,
    allow_code: options.AllowCode = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Audit, train and compare every arm of an experiment.

    Every arm is trained at every scale with every seed, and the verdict is printed. Finished runs are not repeated;
    interrupted runs continue. An arm that sees its own answer is refused (exit 3) unless it is marked expect_leak. An arm
    whose auxiliary term vanishes is refused unless it is marked expect_collapse. Exit 1 when some runs failed or diverged, and
    143 when --hours are used up before the last run.
    """
    then = "makes the others and then trains"
    size_of_stacks = stack_size(stack)
    way = sharing(parallel)
    above_zero(hours, "--hours")
    with nullcontext() if quiet or json else first_line(file, size, seeds) as line:
        place = writable_store(store)
        source, resolved = resolve(file, size, changes, seeds, yes=yes, code=code, allow_code=allow_code)
        if line is not None:
            line.resolved(resolved)
        from palinode.experiment.run import HowToRun, run_experiment

        command = ["palinode", *(context.obj or [])]
        with audits_are_kept(then), of_file(file), progress(as_json=json, quiet=quiet) as show:
            on_event = line.before(show) if line is not None else show
            how = HowToRun(workers, size_of_stacks, source.code, command, on_event, hours, processes, way)
            end = run_experiment(resolved, place, how)
    if end.interrupted is not None:
        typer.echo("interrupted: the same command continues where this one stopped", err=True)
        return end.exit_code
    _say_the_end(end, place, resolved, json=json)
    if report:
        from palinode.report.build import build_report

        typer.echo(str(build_report(place, f"{resolved.name}--{resolved.size}")))
    return end.exit_code


def _say_the_end(end: SweepEnd, place: Store, resolved: ResolvedExperiment, *, json: bool) -> None:
    """Print the verdicts, and the number of runs that are left or did not end well."""
    from palinode.cli.compare import verdicts_of
    from palinode.spec.tuning import TRIALS_SUFFIX

    name = f"{resolved.name}--{resolved.size}"
    typer.echo(verdicts_of(place, name, json=json))
    if end.late:
        left = f"{len(end.late)} run{'' if len(end.late) == 1 else 's'} left"
        typer.echo(f"stopped in time: {left}; the same command continues where this one stopped", err=True)
    elif not_done := sum(outcome != "done" for outcome in end.outcomes.values()):
        of_trials = place.entry(name).to_choose
        what, where = ("trials", f"{resolved.name}{TRIALS_SUFFIX}--{resolved.size}") if of_trials else ("runs", name)
        typer.echo(f"{not_done} of {len(end.outcomes)} {what} failed or diverged: `palinode show {where}`", err=True)


def demo(
    context: typer.Context,
    store: options.StorePath = options.DEFAULT_STORE,
    workers: options.Workers = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Train, audit and compare three arms in about two minutes.

    The last line that is printed is the report to open.
    """
    from palinode.cli.new import shipped_experiment

    return run(context, shipped_experiment("demo"), store=store, workers=workers, report=True, quiet=quiet, json=json)
