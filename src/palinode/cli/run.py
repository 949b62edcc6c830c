"""`palinode run FILE`: audit, train and compare every arm. The same command again continues, and repeats nothing.

`palinode demo` does it with the experiment that comes with Palinode, up to the report.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from palinode.base.errors import BadInput
from palinode.base.stack_size import AUTO, StackSize, stack_size
from palinode.base.user_settings import UserSettings, user_settings
from palinode.cli import options
from palinode.cli.first_line import first_line
from palinode.cli.options import (
    above_zero,
    audits_are_kept,
    of_file,
    refuse_options_of_no_engine,
    resolve,
    sharing,
)
from palinode.cli.prices import price_here
from palinode.cli.progress import progress
from palinode.cli.stores import writable_store

if TYPE_CHECKING:
    from palinode.experiment.run import HowToRun
    from palinode.results.store import Store
    from palinode.spec.experiment import ResolvedExperiment
    from palinode.sweep.local import SweepEnd
    from palinode.sweep.remote import Elsewhere


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
    on: options.On = None,
    on_option: options.OnOption = None,
    detach: options.Detach = False,
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
    _refuse_what_has_no_meaning(on, on_option, size_of_stacks, hours, processes, detach=detach)
    settings = user_settings()
    if on is not None and processes == 1:
        processes, way = _processes_of(on, settings)
    with nullcontext() if quiet or json else first_line(file, size, seeds) as line:
        place = writable_store(store)
        source, resolved = resolve(file, size, changes, seeds, yes=yes, code=code, allow_code=allow_code)
        if line is not None:
            line.resolved(resolved)
        from palinode.experiment.run import HowToRun, run_experiment

        command = ["palinode", *(context.obj or [])]
        with audits_are_kept(then), of_file(file), progress(as_json=json, quiet=quiet) as show:
            on_event = line.before(show) if line is not None else show
            at_a_time = workers if on is None else None
            how = HowToRun(at_a_time, size_of_stacks, source.code, command, on_event, hours, processes, way)
            if on is not None or detach:
                how = replace(how, elsewhere=_elsewhere(on, on_option, settings, place, workers, how))
            else:
                how = replace(how, price=price_here(settings, [run.spec.device for run in resolved.runs]))
            end = run_experiment(resolved, place, how)
    if end.left_to_workers:
        return _say_who_goes_on(end, resolved, store)
    return ended(end, place, resolved, json=json, report=report)


def ended(end: SweepEnd, place: Store, resolved: ResolvedExperiment, *, json: bool, report: bool) -> int:
    """Print the verdicts, and the path of the report that was asked for; return the exit code."""
    if end.interrupted is not None:
        typer.echo("interrupted: the same command continues where this one stopped", err=True)
        return end.exit_code
    _say_the_end(end, place, resolved, json=json)
    if report:
        from palinode.report.build import build_report

        typer.echo(str(build_report(place, f"{resolved.name}--{resolved.size}")))
    return end.exit_code


def _refuse_what_has_no_meaning(
    on: str | None,
    on_option: list[str] | None,
    stack: StackSize,
    hours: float | None,
    processes: int,
    *,
    detach: bool,
) -> None:
    """Refuse options that say nothing together.

    Raises:
        BadInput: an option that has no meaning; the error names it.
    """
    refuse_options_of_no_engine(on, on_option)
    if on is not None and detach:
        raise BadInput("does not go together with --on", field="--detach", hint="Ctrl-C ends the watching alone")
    if (on is not None or detach) and stack == AUTO:
        raise BadInput("other hosts need a number", field="--stack", hint="such as --stack 4")
    if detach and processes > 1:
        hint = "palinode worker --processes"
        raise BadInput("does not go together with --detach", field="--processes", hint=hint)
    if (on is not None or detach) and hours is not None:
        hint = "palinode worker --for" if detach else "an option of the engine, such as timeout_min"
        raise BadInput("limits this process alone", field="--hours", hint=hint)


def _elsewhere(
    on: str | None,
    on_option: list[str] | None,
    settings: UserSettings,
    place: Store,
    workers: int | None,
    how: HowToRun,
) -> Elsewhere:
    """What trains the runs: workers that an engine starts, or workers that the user starts (`on` is None)."""
    from palinode.sweep.executors import executor_of, parse_options, table_named
    from palinode.sweep.remote import Fleet, detach

    if on is None:
        return detach
    table = table_named(on, settings)
    given, count = parse_options(on_option or []), workers or 1
    executor, arguments = executor_of(table, given, place.workers_directory(), count), _arguments(how)
    if table.price_per_hour is not None:
        arguments += ["--price-per-hour", f"{table.price_per_hour:g}", "--currency", settings.currency]
    return Fleet(on, executor, count, lambda text: typer.echo(text, err=True), arguments).sweep


def _processes_of(on: str, settings: UserSettings) -> tuple[int, Literal["ddp", "fsdp2"] | None]:
    """The processes that share each run, and how, where the engine's table in the user's configuration says so."""
    from palinode.sweep.executors import table_named

    table = table_named(on, settings)
    return table.processes, sharing(table.parallel)


def _arguments(how: HowToRun) -> list[str]:
    """The options of the workers that an engine starts."""
    shared = ["--processes", str(how.processes)] if how.processes > 1 else []
    shared += ["--parallel", how.parallel] if how.parallel is not None else []
    return ["--stack", str(how.stack), *shared, *(["--allow-code"] if how.code is not None else [])]


def _say_who_goes_on(end: SweepEnd, resolved: ResolvedExperiment, store: Path) -> int:
    """Say how to start workers, and how to watch and stop them; return the exit code."""
    name = f"{resolved.name}--{resolved.size}"
    if end.interrupted is None:
        typer.echo(f"{len(end.left_to_workers)} runs are written to {store}")
        typer.echo(f"train:  palinode worker --store {store}   (on each host, as often as you like)")
    else:
        typer.echo("the watching has ended, the workers go on")
    typer.echo(f"watch:  palinode watch {name} --store {store}\nstop:   palinode stop {name} --store {store}")
    typer.echo("the same command compares the arms when the runs are done")
    return end.exit_code


def _say_the_end(end: SweepEnd, place: Store, resolved: ResolvedExperiment, *, json: bool) -> None:
    """Print the verdicts, and the number of runs that are left or did not end well."""
    from palinode.cli.compare import verdicts_of
    from palinode.results.record import TRIALS_SUFFIX

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
