"""`palinode plan FILE --on NAME`: the workers that an engine would start, the runs that they train at a time, and their price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from palinode.base.errors import BadInput
from palinode.base.user_settings import UserSettings
from palinode.cli.prices import Price, price_here

if TYPE_CHECKING:
    from palinode.experiment.plan import Plan
    from palinode.spec.experiment import ResolvedExperiment
    from palinode.sweep.executors import Value

# kind of engine -> the options that give a worker its cores and its GPUs; on this machine a worker has all GPUs
CORES_AND_GPUS = {"local": ("cores", ""), "slurm": ("cpus_per_task", "gpus_per_node"), "ray": ("num_cpus", "num_gpus")}
DEFAULTS = {"num_cpus": 1}  # of a task of Ray


class Machines(NamedTuple):
    """The workers that would train an experiment.

    Attributes:
        name: the name of the engine.
        workers: the largest number of workers at the same time.
        slots: the number of runs that a worker trains at a time; None where it is unknown.
        price: the price of an hour of one worker; None where it is unknown.
        how_to_know: what would make the slots known.
    """

    name: str
    workers: int
    slots: int | None
    price: Price | None
    how_to_know: str

    @property
    def at_a_time(self) -> int:
        """The number of runs at a time; 1 where it is unknown."""
        return self.workers * (self.slots or 1)

    def cost(self, planned: Plan) -> dict[str, float | str]:
        """The cost of the runs that are left; empty where the price or the time is unknown. A worker that has no run ends."""
        if self.price is None or planned.seconds is None:
            return {}
        workers = min(self.workers, max(1, planned.left + planned.trials_left))
        cost = planned.seconds / 3600 * self.price[0] * workers
        return {"cost": cost, "price_per_hour": self.price[0], "currency": self.price[1]}

    def as_data(self, planned: Plan) -> dict[str, Any]:
        """The workers and the cost as plain data, for JSON."""
        return {"on": {"name": self.name, "workers": self.workers, "slots": self.slots}, **self.cost(planned)}

    def words(self, planned: Plan) -> str:
        """One line: the workers, and their cost; or what is unknown."""
        if self.slots is None:
            unknown = "how many runs a worker trains at a time is unknown, so no time is told"
            return f"on {self.name}: {unknown} ({self.how_to_know})"
        workers, slots = _count(self.workers, "worker"), _count(self.slots, "slot")
        how = f"on {self.name}: {workers} with {slots}, by the steps of this machine"
        if planned.seconds is None:
            return f"on {self.name}: {workers} with {slots}; no step was timed here, so no time is told"
        if (cost := self.cost(planned)) != {}:
            return f"{how}: about {cost['cost']:.2f} {cost['currency']}"
        return f"{how}; the cost is unknown (no price_per_hour in [executor.{self.name}] of config.toml)"


def machines_of(
    on: str | None,
    on_option: Sequence[str] | None,
    workers: int | None,
    settings: UserSettings,
    resolved: ResolvedExperiment,
) -> Machines | None:
    """The workers of `--on`, by the options of the engine; None for this machine, without `--on`.

    Raises:
        BadInput: there is no such engine, or an option of it is unknown or no number.
        EnvironmentProblem: the package of the engine is not installed.
    """
    if on is None:
        return None
    from palinode.sweep.executors import engine_of, parse_options, table_named

    table, count = table_named(on, settings), workers or 1
    _, given = engine_of(table, parse_options(on_option or []), count)
    devices = {run.spec.device for run in resolved.runs}
    on_gpu = devices != {"cpu"}
    option = CORES_AND_GPUS[table.kind][on_gpu]
    threads = 1 if on_gpu else max(run.spec.threads for run in resolved.runs)
    slots, how = _slots(given, option, threads), f"add {option} to its options" if option else "no GPU is here"
    if table.processes > 1:
        slots, how = None, f"the steps of a run that {table.processes} processes share are not timed"
    price = (table.price_per_hour, settings.currency) if table.price_per_hour is not None else None
    if price is None and (table.kind == "local" or not on_gpu):
        price = price_here(settings, devices)
    return Machines(on, count, slots, price, how)


def _slots(given: Mapping[str, Value], option: str, threads: int) -> int | None:
    """The number of runs that a worker trains at a time; None where no option says it."""
    from palinode.sweep.host import gpus

    if not option:
        return len(gpus()) or None
    units = given.get(option, DEFAULTS.get(option))
    if units is None:
        return None
    if not isinstance(units, int | float) or units < 1:
        raise BadInput(f"{option} = {units!r} is no number of cores or GPUs", field="--on-option")
    return max(1, int(units) // threads)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
