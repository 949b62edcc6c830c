"""`palinode run FILE`: audit, train and compare every arm. The same command again continues, and repeats nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from palinode.cli.options import (
    DEFAULT_STORE,
    AllowCodeOption,
    CodeOption,
    FileArgument,
    JsonOption,
    QuietOption,
    SeedsOption,
    SetOption,
    SizeOption,
    StackOption,
    StoreOption,
    WorkersOption,
    YesOption,
    audits_are_kept,
    may_be_store,
    of_file,
    resolve,
)
from palinode.cli.progress import progress

EXAMPLE = (
    "\b\nExample:\n  palinode run my_idea.py --size smoke\n  palinode run my_idea.py --size laptop --workers 2 --report\n"
    "  palinode run my_idea.py --set recipe.steps=100 --seeds 1,2,3"
)


def run(
    context: typer.Context,
    file: FileArgument,
    size: SizeOption = None,
    changes: SetOption = None,
    seeds: SeedsOption = None,
    store: StoreOption = DEFAULT_STORE,
    workers: WorkersOption = None,
    stack: StackOption = 1,
    report: Annotated[bool, typer.Option("--report", help="Build the report at the end and print its path.")] = False,
    yes: YesOption = False,
    code: CodeOption = None,
    allow_code: AllowCodeOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Audit, train and compare every arm of an experiment.

    Every arm is trained at every scale with every seed, and the verdict is printed. Finished runs are not repeated;
    interrupted runs continue. An arm that sees its own answer is refused (exit 3) unless it is marked expect_leak. An arm
    whose auxiliary term vanishes is refused unless it is marked expect_collapse. Exit 1 when some runs failed or diverged.
    """
    may_be_store(store)
    source, resolved = resolve(file, size, changes, seeds, yes=yes, code=code, allow_code=allow_code)
    from palinode.experiment.run import HowToRun, run_experiment
    from palinode.results.store import Store

    place = Store(store)
    command = ["palinode", *(context.obj or [])]
    then = "makes the others and then trains"
    with audits_are_kept(then), of_file(file), progress(as_json=json, quiet=quiet) as show:
        end = run_experiment(resolved, place, HowToRun(workers, stack, source.code, command, show))
    if end.interrupted is not None:
        typer.echo("interrupted: the same command continues where this one stopped", err=True)
        return end.exit_code
    from palinode.cli.compare import verdict_json, verdict_text
    from palinode.spec.tuning import TRIALS_SUFFIX

    name = f"{resolved.name}--{resolved.size}"
    typer.echo(verdict_json(place, name) if json else verdict_text(place, name))
    if not_done := sum(outcome != "done" for outcome in end.outcomes.values()):
        of_trials = place.entry(name).to_choose
        what, where = ("trials", f"{resolved.name}{TRIALS_SUFFIX}--{resolved.size}") if of_trials else ("runs", name)
        typer.echo(f"{not_done} of {len(end.outcomes)} {what} failed or diverged: `palinode show {where}`", err=True)
    if report:
        from palinode.report.build import build_report

        typer.echo(str(build_report(place, name)))
    return end.exit_code
