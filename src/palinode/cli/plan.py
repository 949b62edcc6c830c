"""`palinode plan FILE`: the cost of an experiment, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from palinode.base.errors import EnvironmentProblem
from palinode.base.stack_size import AUTO, StackSize, stack_size
from palinode.cli import options
from palinode.cli.options import as_json, of_file, resolve
from palinode.cli.stores import writable_store
from palinode.cli.texttable import text_table

if TYPE_CHECKING:
    from palinode.experiment.cells import Cell
    from palinode.experiment.plan import Plan
    from palinode.results.store import Store
    from palinode.spec.experiment import ResolvedExperiment

COLUMNS = (
    "arm",
    "scale",
    "runs",
    "done",
    "parameters",
    "tokens read",
    "ltr tokens",
    "FLOPs",
    "optimizer FLOPs",
    "steps",
    "time per run",
)


def plan(
    file: options.File,
    size: options.Size = None,
    changes: options.Changes = None,
    seeds: options.Seeds = None,
    store: options.StorePath = options.DEFAULT_STORE,
    workers: options.Workers = None,
    stack: options.Stack = "1",
    measure: Annotated[bool, typer.Option(help="Time a few steps, to predict the hours.")] = True,
    yes: options.Yes = False,
    code: options.Code = None,
    allow_code: options.AllowCode = False,
    json: options.Json = False,
) -> None:
    """Show what an experiment will cost: tokens, hours, disk.

    Also its runs, parameters and FLOPs, and whether the comparison of its arms is fair. Nothing is trained.
    """
    size_of_stacks = stack_size(stack)
    place = writable_store(store)
    source, resolved = resolve(file, size, changes, seeds, yes=yes, code=code, allow_code=allow_code)
    from palinode.experiment.cells import refuse_other_numerics, refuse_what_cannot_be
    from palinode.experiment.fan_out import nursery_for
    from palinode.experiment.plan import plan as make_plan
    from palinode.experiment.run import default_at_a_time, tuned

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    with of_file(file), nursery_for(resolved, tell) as nursery:
        refuse_other_numerics(resolved, place)
        resolved, cells, missing = _cells(resolved)
        if missing is None and resolved.tuning is not None and (chosen := tuned(resolved, place)) is not None:
            resolved, cells, _ = _cells(chosen[0])
        refuse_what_cannot_be(cells)
        planned = make_plan(
            resolved,
            cells,
            place,
            workers=workers or default_at_a_time(resolved),
            code=source.code,
            measure="always" if measure and missing is None else "never",
            on_failure=tell,
            nursery=nursery,
        )
    if missing is not None:
        typer.echo(f"{missing}: counted without the text, so no time is predicted", err=True)
    stacks = _stacks(size_of_stacks, resolved, cells, place)
    if json:
        typer.echo(as_json(planned.as_data() | ({"stacks": stacks} if stacks else {})))
    else:
        typer.echo("\n".join([plan_text(planned, resolved.decision.equal), *(f"stack: {line}" for line in stacks)]))


def _stacks(stack: StackSize, resolved: ResolvedExperiment, cells: Sequence[Cell], store: Store) -> list[str]:
    """The lines about runs that are trained together; empty for single runs. The predicted time is that of single runs."""
    if stack == AUTO:
        from palinode.experiment.stacks import planned_words

        return planned_words(resolved, cells, store)
    return [f"up to {stack} runs of one shape together; the time above is of single runs"] if stack > 1 else []


def _cells(resolved: ResolvedExperiment) -> tuple[ResolvedExperiment, Sequence[Cell], EnvironmentProblem | None]:
    """The experiment with the hashes of its data, and its cells. If the text is not on this machine, also the error that says why.

    Raises:
        EnvironmentProblem: the text is not on this machine, and the number of ids of its tokenizer is not known.
    """
    from palinode.experiment.cells import cells_of, cells_without_text, pinned

    try:
        resolved = pinned(resolved)
        return resolved, cells_of(resolved), None
    except EnvironmentProblem as missing:
        if missing.field not in ("data.corpus", "data.tokenizer") or (cells := cells_without_text(resolved)) is None:
            raise
        return resolved, cells, missing


def plan_text(planned: Plan, equal: str) -> str:
    """The plan as text: a line per arm and scale, the sums, and every warning."""
    from palinode.report.words import duration, number

    rows = []
    for cell in planned.cells:
        flops = cell.train_flops, cell.optimizer_flops
        costs = map(number, (cell.parameters, cell.tokens_read, cell.tokens_scored_ltr, *flops))
        counts = (str(cell.runs), str(cell.done), *costs, str(cell.optimizer_steps))
        rows.append([cell.arm, cell.scale, *counts, duration(cell.seconds)])
    time = "" if planned.seconds is None else f", about {duration(planned.seconds)} with {planned.workers} at a time"
    if planned.settings_measured < planned.settings:
        time += f" ({planned.settings_measured} of {planned.settings} settings measured)"
    before = f"{planned.trials_left} of {planned.trials} trials and " if planned.trials else ""
    lines = [
        text_table(COLUMNS, rows, right=COLUMNS[2:]),
        "",
        f"{before}{planned.left} of {planned.runs} runs are left to do{time}, {planned.disk_bytes / 1e6:,.0f} MB on disk",
        *_product_shares(planned),
        *(f"warning: {warning}" for warning in planned.warnings),
    ]
    return "\n".join(lines if planned.warnings else [*lines, f"every arm gets the same {equal}"])


def _product_shares(planned: Plan) -> list[str]:
    """The line about the share of the machine's product rate: its smallest and its largest value over the measured cells."""
    shares = [cell.product_share for cell in planned.cells if cell.product_share is not None]
    ends = dict.fromkeys(f"{share:.2f}" for share in (min(shares), max(shares))) if shares else {}
    return [f"share of the machine's product rate that a step reaches: {' to '.join(ends)}"] if ends else []
