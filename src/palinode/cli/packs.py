"""`palinode pack NAME` and `palinode unpack FILE`: an experiment without weights in one file, and back into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.stores import experiment_named, open_store, output_file, writable_store


def pack(
    name: options.ExperimentName,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The file to write. Default: NAME.palinode here.")
    ] = None,
    store: options.StorePath = options.DEFAULT_STORE,
    json: options.Json = False,
) -> None:
    """Put an experiment into one file, without weights.

    The file has the specs, the curves, the results, the audits, the plan and the looks. `palinode unpack` checks it and puts it
    into a store; the report from there equals the report from here.
    """
    results = open_store(store)
    entry = experiment_named(results, name, "pack")
    from palinode.analysis.claims import frequencies_audit
    from palinode.results.pack import SUFFIX
    from palinode.results.pack import pack as write_pack
    from palinode.results.record import trials_name

    path = output_file(out or Path(f"{entry.full_name}{SUFFIX}"), "--out", such_as=entry.full_name + SUFFIX)
    audit = frequencies_audit(results, results.experiment(entry.full_name))
    runs = write_pack(results, entry.full_name, path, [audit] if audit else [])
    size = path.stat().st_size
    trials = trials_name(entry) if entry.to_choose else None
    others = sorted({f"{claim.experiment}--{entry.size}" for claim in entry.claims if claim.experiment})
    if json:
        described = {
            "pack": str(path),
            "experiment": entry.full_name,
            "runs": runs,
            "bytes": size,
            "claims_read": others,
            "trials_left_out": trials,
        }
        typer.echo(as_json(described))
    else:
        typer.echo(f"{path}: {entry.full_name}, {runs} runs without weights, {size / 1e6:.1f} MB")
        if others:
            typer.echo(f"its claims also read {', '.join(others)}: pack this too", err=True)
        if trials:
            typer.echo(f"its trials have not ended and are not in this pack: pack {trials} too", err=True)


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `palinode pack` wrote.")],
    store: options.StorePath = options.DEFAULT_STORE,
    json: options.Json = False,
) -> None:
    """Check a packed experiment and put it into a store.

    Nothing is written unless every file of the pack is whole. Runs that the store has already stay as they are.
    """
    results = writable_store(store)
    from palinode.results.pack import unpack as read_pack

    done = read_pack(results, file)
    if json:
        described = {"runs_added": done.added, "runs_present": done.present, "store_is_later": done.older}
        typer.echo(as_json({"experiment": done.experiment, **described}))
        return
    there = f", {done.present} were there already" if done.present else ""
    there += ", and the store has a later state of the experiment, which stays" if done.older else ""
    typer.echo(f"{done.experiment}: {done.added} runs added{there}; see `palinode report {done.experiment}`")
