"""Several arms audited at a time, each in a process that stores what it measured; the audit itself then finds it in the store.

`python -m palinode.experiment.audit_ahead --store STORE DIRECTORY...` is one such process. When one fails, the caller audits
its arms again and reports the failure.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from palinode.audit.arms import measure_parts, missing_parts
from palinode.experiment.fan_out import end_with_the_driver, fan_out
from palinode.results.store import Store
from palinode.spec.code import Code
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSpec


def audit_ahead(specs: Sequence[RunSpec], store: Store, code: Code | None, *, workers: int) -> None:
    """Measure what is missing of these arms' audits, when there are several arms and several workers.

    Args:
        specs: a run of each arm at each scale.
        code: the user's Python that parts of the specs were written in.
    """
    wanted = unmeasured(specs, store)
    if min(workers, len(wanted)) < 2:
        return
    given_out = [list(range(number, len(wanted), workers)) for number in range(min(workers, len(wanted)))]
    place = ["--store", str(store.create().root.resolve())]
    fan_out("palinode.experiment.audit_ahead", place, wanted, code, given_out, on_failure=lambda reason: None)


def unmeasured(specs: Sequence[RunSpec], store: Store) -> list[RunSpec]:
    """Those whose audits have a part that the store does not hold, nor one before them will have measured."""
    wanted: list[RunSpec] = []
    claimed: set[str] = set()
    for spec in specs:
        if missing := missing_parts(spec.settings, store) - claimed:
            wanted.append(spec)
            claimed |= missing
    return wanted


def main(arguments: Sequence[str] | None = None) -> None:
    """Audit the arms of these directories, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m palinode.experiment.audit_ahead", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="where audits are kept")
    parser.add_argument("directories", type=Path, nargs="+", help="each holds a run's spec")
    options = parser.parse_args(arguments)
    end_with_the_driver()
    store = Store(options.store)
    with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
        for directory in options.directories:
            spec = load_run(directory, allow_code=True)  # the driver has decided whose code may run
            measure_parts(spec.settings, name=spec.run_id, store=store)


if __name__ == "__main__":
    main()
