"""`palinode extend NAME`: more steps for the runs of an experiment, from where the shorter runs are the same, or more seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from palinode.base.errors import BadInput
from palinode.cli import options
from palinode.cli.options import RUNS_LIMIT, audits_are_kept
from palinode.cli.progress import progress
from palinode.cli.run import ended
from palinode.cli.stores import experiment_named, open_store, writable_store

if TYPE_CHECKING:
    from palinode.results.record import ExperimentEntry
    from palinode.results.store import Store
    from palinode.spec.experiment import ResolvedExperiment
    from palinode.spec.load import Source


def extend(
    context: typer.Context,
    name: options.ExperimentName,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=10**9, help="The steps of each longer run.")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="4,5 | 5", help="Seeds to add, or how many there are then. `7,` is seed 7."),
    ] = None,
    store: options.StorePath = options.DEFAULT_STORE,
    workers: options.Workers = None,
    yes: options.Yes = False,
    code: options.Code = None,
    allow_code: options.AllowCode = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Train an experiment for more steps, or with more seeds.

    With --steps, each longer run has the id and the bits of a run that was trained with so many steps from the start. It goes on
    from the last checkpoint that both runs have; a run that keeps none is trained from its start. The shorter experiment stays.
    With --seeds, the experiment itself gets more seeds, as from `palinode run FILE --seeds`. Its file is not needed.
    """
    if (steps is None) == (seeds is None):
        raise BadInput("give one of --steps and --seeds", field="palinode extend")
    open_store(store)
    place = writable_store(store)
    entry = experiment_named(place, name, "extend")
    _refuse(entry, more_seeds=seeds is not None)
    from palinode.experiment.run import HowToRun, run_experiment
    from palinode.spec.load import load

    source = load(place.files_of(entry)[-1], code_file=code, allow_code=allow_code)
    if steps is not None:
        extended, note = _longer(source, steps, place)
    else:
        extended, note = _with_seeds(source, entry, seeds or "", None if yes else RUNS_LIMIT)
    if not (quiet or json):
        typer.echo(note, err=True)
    with audits_are_kept("goes on"), progress(as_json=json, quiet=quiet) as show:
        how = HowToRun(workers, code=source.code, command=["palinode", *(context.obj or [])], on_event=show)
        end = run_experiment(extended, place, how)
    return ended(end, place, extended, json=json, report=False)


def _longer(source: Source, steps: int, store: Store) -> tuple[ResolvedExperiment, str]:
    """The experiment with more steps, whose runs have begun, and a line about it."""
    from palinode.experiment.extend import begin_longer_runs, longer

    short = source.resolve()
    extended = longer(short, steps)
    begun = begin_longer_runs(short, extended, store)
    shared = sum(step > 0 for step in begun.values())
    return extended, f"{shared} of {len(begun)} runs go on from a checkpoint of a shorter run"


def _with_seeds(
    source: Source, entry: ExperimentEntry, text: str, runs_limit: int | None
) -> tuple[ResolvedExperiment, str]:
    """The experiment with more seeds, and a line about it."""
    from palinode.experiment.extend import with_more_seeds

    extended = with_more_seeds(source.resolve(), entry.seeds, text, runs_limit=runs_limit)
    added = ", ".join(str(seed) for seed in extended.seeds if seed not in entry.seeds)
    return extended, f"{entry.full_name} has {len(extended.seeds)} seeds{f', new: {added}' if added else ' already'}"


def _refuse(entry: ExperimentEntry, *, more_seeds: bool) -> None:
    """Refuse an experiment whose runs cannot be made again from the store.

    Raises:
        BadInput: it was imported, its trials are not done, or it gets more seeds and its settings were chosen by trials.
    """
    if entry.to_choose or entry.source:
        why = "its trials are not done" if entry.to_choose else "its numbers are imported"
        raise BadInput(f"{entry.full_name} has no runs to go on with: {why}", field="NAME")
    if more_seeds and entry.choices:
        hint = "`palinode run FILE --seeds` on its file"
        raise BadInput(f"the store lacks the tuning of {entry.full_name}, which its plan has", field="NAME", hint=hint)
