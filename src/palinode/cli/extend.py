"""`palinode extend NAME --steps M`: train the runs of an experiment for more steps, from where the shorter runs are the same."""

from __future__ import annotations

from typing import Annotated

import typer

from palinode.base.errors import BadInput
from palinode.cli import options
from palinode.cli.options import audits_are_kept
from palinode.cli.progress import progress
from palinode.cli.run import ended
from palinode.cli.stores import experiment_named, open_store, writable_store


def extend(
    context: typer.Context,
    name: options.ExperimentName,
    steps: Annotated[int, typer.Option("--steps", min=1, max=10**9, help="The steps of each longer run.")],
    store: options.StorePath = options.DEFAULT_STORE,
    workers: options.Workers = None,
    code: options.Code = None,
    allow_code: options.AllowCode = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Train an experiment for more steps.

    Each longer run has the id and the bits of a run that was trained with so many steps from the start. It goes on from the last
    checkpoint that both runs have; a run that keeps none is trained from its start. The shorter experiment stays.
    """
    open_store(store)
    place = writable_store(store)
    entry = experiment_named(place, name, "extend")
    if entry.to_choose or entry.source:
        why = "its trials are not done" if entry.to_choose else "its numbers are imported"
        raise BadInput(f"{entry.full_name} has no runs to go on with: {why}", field="NAME")
    from palinode.experiment.extend import begin_longer_runs, longer
    from palinode.experiment.run import HowToRun, run_experiment
    from palinode.spec.load import load

    source = load(place.files_of(entry)[-1], code_file=code, allow_code=allow_code)
    short = source.resolve()
    extended = longer(short, steps)
    begun = begin_longer_runs(short, extended, place)
    if not (quiet or json):
        shared = sum(step > 0 for step in begun.values())
        typer.echo(f"{shared} of {len(begun)} runs go on from a checkpoint of a shorter run", err=True)
    with audits_are_kept("goes on"), progress(as_json=json, quiet=quiet) as show:
        how = HowToRun(workers, code=source.code, command=["palinode", *(context.obj or [])], on_event=show)
        end = run_experiment(extended, place, how)
    return ended(end, place, extended, json=json, report=False)
