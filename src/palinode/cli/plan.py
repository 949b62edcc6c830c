"""`palinode plan FILE`: the cost of an experiment, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.base.stack_size import AUTO, StackSize, stack_size
from palinode.base.user_settings import user_settings
from palinode.cli import options
from palinode.cli.options import above_zero, as_json, of_file, refuse_options_of_no_engine, resolve
from palinode.cli.plan_on import Machines, machines_of
from palinode.cli.plan_power import hours_data, hours_lines, power_lines
from palinode.cli.prices import Price, price_here
from palinode.cli.stores import writable_store
from palinode.cli.texttable import text_table

if TYPE_CHECKING:
    from palinode.experiment.cells import Cell
    from palinode.experiment.plan import Plan
    from palinode.experiment.power import Power
    from palinode.results.record import ExperimentRecord
    from palinode.results.store import Store
    from palinode.spec.experiment import ResolvedExperiment
    from palinode.spec.load import Source
    from palinode.sweep.nursery import Nursery

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
    effect: Annotated[
        float | None,
        typer.Option("--effect", metavar="E", help="The effect to plan for. Default: decision.smallest_effect."),
    ] = None,
    pilot: Annotated[
        str | None, typer.Option("--pilot", metavar="NAME", help="An experiment of the store to take the noise from.")
    ] = None,
    hours: options.Hours = None,
    on: options.On = None,
    on_option: options.OnOption = None,
    measure: Annotated[bool, typer.Option(help="Time a few steps, to predict the hours.")] = True,
    yes: options.Yes = False,
    code: options.Code = None,
    allow_code: options.AllowCode = False,
    json: options.Json = False,
) -> None:
    """Show what an experiment will cost: tokens, hours, disk.

    Also its runs, parameters and FLOPs, whether the comparison of its arms is fair, and the smallest effect that it can show.
    With --hours, the largest size that shows the effect in time. With --on, the time and the cost of --workers workers of that
    engine. Nothing is trained.
    """
    size_of_stacks, settings = stack_size(stack), user_settings()
    above_zero(effect, "--effect")
    above_zero(hours, "--hours")
    refuse_options_of_no_engine(on, on_option)
    place = writable_store(store)
    first = size if hours is None or size is not None else _first_size(file, code, allow_code=allow_code)
    source, resolved = resolve(file, first, changes, seeds, yes=yes, code=code, allow_code=allow_code)
    from palinode.experiment.fan_out import nursery_for
    from palinode.experiment.power import pilot_named

    elsewhere = machines_of(on, on_option, workers, settings, resolved)
    pilot_record = pilot_named(place, pilot) if pilot is not None else None
    with of_file(file), nursery_for(resolved, _say) as nursery:
        planner = _Planner(source, place, workers, measure, nursery, effect, pilot_record, elsewhere)
        whole = planner.plan(resolved)
        others = _other_sizes(source, resolved, changes, seeds) if hours is not None and size is None else []
        by_size = {resolved.size: whole} | {other.size: planner.plan(other) for other in others}
    whole.say_what_is_missing()
    stacks = _stacks(size_of_stacks, whole.resolved, whole.cells, place)
    in_hours = _in_hours(by_size, hours) if hours is not None else None
    price = price_here(settings, [run.spec.device for run in resolved.runs]) if elsewhere is None else None
    if json:
        typer.echo(as_json(_data(whole, price, elsewhere, stacks, in_hours)))
        return
    of_hours = hours_lines(in_hours, _powers(by_size)) if in_hours is not None else []
    typer.echo("\n".join([*_lines(whole, price, elsewhere, stacks), *of_hours]))


def _lines(whole: _Whole, price: Price | None, elsewhere: Machines | None, stacks: Sequence[str]) -> list[str]:
    lines = [plan_text(whole.plan, whole.resolved.decision.equal, price), *(f"stack: {line}" for line in stacks)]
    lines += [elsewhere.words(whole.plan)] if elsewhere is not None else []
    return [*lines, *power_lines(whole.power)]


def _data(
    whole: _Whole,
    price: Price | None,
    elsewhere: Machines | None,
    stacks: Sequence[str],
    in_hours: Mapping[str, Any] | None,
) -> dict[str, Any]:
    cost = _cost(whole.plan, price) if elsewhere is None else elsewhere.as_data(whole.plan)
    data = {**whole.plan.as_data(), **cost, "power": whole.power.as_data()}
    data |= {"stacks": stacks} if stacks else {}
    return data | ({"within": in_hours} if in_hours is not None else {})


def _powers(by_size: Mapping[str, _Whole]) -> dict[str, Power]:
    return {name: one.power for name, one in by_size.items()}


def _in_hours(by_size: Mapping[str, _Whole], hours: float) -> dict[str, Any]:
    return hours_data(_powers(by_size), {name: one.parameters for name, one in by_size.items()}, hours)


def _cost(planned: Plan, price: Price | None) -> dict[str, float | str]:
    """The cost of the runs that are left, on this machine; empty where the price or the time is unknown."""
    if price is None or planned.seconds is None:
        return {}
    return {"cost": planned.seconds / 3600 * price[0], "price_per_hour": price[0], "currency": price[1]}


def _first_size(file: Path, code: Path | None, *, allow_code: bool) -> str | None:
    """The first size of an experiment that cannot be resolved without a size; None for any other experiment."""
    from palinode.spec.load import load

    source = load(file, code_file=code, allow_code=allow_code)
    try:
        source.resolve()
    except BadInput as refusal:
        if source.experiment is not None and refusal.field == "--size":
            return next(iter(source.experiment.sizes))
    return None


def _other_sizes(
    source: Source, resolved: ResolvedExperiment, changes: list[str] | None, seeds: str | None
) -> list[ResolvedExperiment]:
    """The experiment at every size that its file defines, without the size that is resolved already."""
    from palinode.spec.load import parse_overrides

    names = source.experiment.sizes if source.experiment is not None else ()
    return [source.resolve(name, parse_overrides(changes or []), seeds) for name in names if name != resolved.size]


def _say(line: str) -> None:
    typer.echo(line, err=True)


class _Whole(NamedTuple):
    """The plan of one size, with all that it was made from.

    Attributes:
        missing: the error that says why the text is not on this machine; None if it is.
    """

    resolved: ResolvedExperiment
    cells: Sequence[Cell]
    plan: Plan
    power: Power
    missing: EnvironmentProblem | None

    def say_what_is_missing(self) -> None:
        """Say why no time is predicted, if the text is not on this machine."""
        if self.missing is not None:
            _say(f"{self.missing}: counted without the text, so no time is predicted")

    @property
    def parameters(self) -> float:
        """The largest number of parameters of the models."""
        return float(max(cell.parameters for cell in self.plan.cells))


@dataclass(frozen=True)
class _Planner:
    """Makes plans of several sizes of one experiment; the fields are options of the command."""

    source: Source
    store: Store
    workers: int | None
    measure: bool
    nursery: Nursery
    effect: float | None
    pilot: ExperimentRecord | None
    elsewhere: Machines | None = None

    def plan(self, resolved: ResolvedExperiment) -> _Whole:
        """The plan of an experiment at one size."""
        from palinode.experiment.cells import refuse_other_numerics
        from palinode.experiment.plan import Workers
        from palinode.experiment.plan import plan as make_plan
        from palinode.experiment.power import planned_power
        from palinode.experiment.run import default_at_a_time, tuned
        from palinode.experiment.sources import refuse_sources

        store = self.store
        refuse_other_numerics(resolved, store)
        resolved, cells, missing = _cells(resolved)
        if missing is None and resolved.tuning is not None and (chosen := tuned(resolved, store)) is not None:
            resolved, cells, _ = _cells(chosen[0])
        can_train, elsewhere = self._can_train(cells), self.elsewhere
        refuse_sources(cells, store)
        given = self.workers if elsewhere is None else None
        workers = given or (default_at_a_time(resolved) if can_train else 1)
        planned = make_plan(
            resolved,
            cells,
            store,
            workers=workers if elsewhere is None else Workers(workers, elsewhere.at_a_time),
            code=self.source.code,
            measure="always" if self.measure and can_train and missing is None else "never",
            on_failure=_say,
            nursery=self.nursery,
        )
        power = planned_power(resolved, cells, planned, store, effect=self.effect, pilot=self.pilot)
        return _Whole(resolved, cells, planned, power, missing)

    def _can_train(self, cells: Sequence[Cell]) -> bool:
        """Whether this machine can train the runs, so that their steps can be timed here, for a known number of runs at a time."""
        from palinode.experiment.cells import refuse_what_cannot_be

        try:
            refuse_what_cannot_be(cells)
        except EnvironmentProblem:
            if self.elsewhere is None:
                raise
            refuse_what_cannot_be(cells, trains_here=False)
            return False
        return self.elsewhere is None or self.elsewhere.slots is not None


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


def plan_text(planned: Plan, equal: str, price: Price | None = None) -> str:
    """The plan as text: a line per arm and scale, the sums, and every warning."""
    from palinode.report.words import duration, number

    rows = []
    for cell in planned.cells:
        flops = cell.train_flops, cell.optimizer_flops
        costs = map(number, (cell.parameters, cell.tokens_read, cell.tokens_scored_ltr, *flops))
        counts = (str(cell.runs), str(cell.done), *costs, str(cell.optimizer_steps))
        rows.append([cell.arm, cell.scale, *counts, duration(cell.seconds)])
    time = "" if planned.seconds is None else f", about {duration(planned.seconds)} with {planned.workers} at a time"
    time += _where_from(planned)
    before = f"{planned.trials_left} of {planned.trials} trials and " if planned.trials else ""
    lines = [
        text_table(COLUMNS, rows, right=COLUMNS[2:]),
        "",
        f"{before}{planned.left} of {planned.runs} runs are left to do{time}, {planned.disk_bytes / 1e6:,.0f} MB on disk",
        *(
            [f"about {planned.seconds / 3600 * price[0]:.2f} {price[1]}"]
            if price and planned.seconds is not None
            else []
        ),
        *_product_shares(planned),
        *_starts(planned),
        *(f"warning: {warning}" for warning in planned.warnings),
    ]
    return "\n".join(lines if planned.warnings else [*lines, f"every arm gets the same {equal}"])


def _where_from(planned: Plan) -> str:
    """How the time is known, in brackets; empty where every setting was measured."""
    measured, ended = planned.settings_measured, planned.settings_ended
    of_all = [f"{measured} of {planned.settings} settings measured"] if measured < planned.settings else []
    of_ended = [f"for {ended} settings from runs that have ended here"] if ended else []
    words = of_ended + of_all
    return f" ({'; '.join(words)})" if words else ""


def _starts(planned: Plan) -> list[str]:
    """A line for each arm at a scale that starts from the weights of other runs."""
    from palinode.report.words import number

    return [
        f"{cell.arm} at {cell.scale} starts from weights that {number(cell.tokens_read_before)} tokens have trained"
        for cell in planned.cells
        if cell.tokens_read_before
    ]


def _product_shares(planned: Plan) -> list[str]:
    """The line about the share of the machine's product rate: its smallest and its largest value over the measured cells."""
    shares = [cell.product_share for cell in planned.cells if cell.product_share is not None]
    ends = dict.fromkeys(f"{share:.2f}" for share in (min(shares), max(shares))) if shares else {}
    return [f"share of the machine's product rate that a step reaches: {' to '.join(ends)}"] if ends else []
