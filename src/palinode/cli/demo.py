"""`palinode demo`: the demo experiment from nothing to a report, without a file of the user's own."""

from __future__ import annotations

import typer

from palinode.cli.options import DEFAULT_STORE, JsonOption, QuietOption, StoreOption, WorkersOption
from palinode.cli.run import run
from palinode.cli.shipped import shipped_experiment

EXAMPLE = "\b\nExample:\n  palinode demo\n  palinode new my_idea.py --from demo"


def demo(
    context: typer.Context,
    store: StoreOption = DEFAULT_STORE,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Train, audit and compare three arms in three minutes.

    The last line that is printed is the report to open.
    """
    return run(context, shipped_experiment("demo"), store=store, workers=workers, report=True, quiet=quiet, json=json)
