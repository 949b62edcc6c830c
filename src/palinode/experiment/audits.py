"""The audits of an experiment's arms: what is missing is measured, several arms at a time, and what fails is refused.

`python -m palinode.experiment.audits --store STORE DIRECTORY...` is one process that measures and stores. When it fails, the
process that started it measures the same arms again and reports the failure.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from palinode.analysis.audits import ArmAudit
from palinode.audit import AuditedArm, audit_arm
from palinode.audit.arms import measure_parts, missing_parts
from palinode.base.errors import AuditFailed, BadInput
from palinode.experiment.cells import Cell
from palinode.experiment.fan_out import end_with_the_driver, fan_out
from palinode.results.store import Store
from palinode.spec.code import Code
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSpec


def audit_cells(
    cells: Sequence[Cell],
    store: Store,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    *,
    code: Code | None = None,
    workers: int = 1,
) -> list[ArmAudit]:
    """Audit the arm of every cell; what the store holds is not measured again.

    Args:
        code: the user's Python that parts of the experiment were written in.
        workers: arms audited at a time, where several are to be measured.

    Raises:
        BadInput: the parts of an arm do not fit together.
    """
    specs = [cell.spec for cell in cells]
    if (count := len(unmeasured(specs, store))) > 1:
        message = f"measuring {count} audits, {min(count, workers)} at a time, before anything is trained"
        on_event({"event": "note", "message": message})
    audit_ahead(specs, store, code, workers=workers)
    audits = []
    for cell in cells:
        audited = _audited(cell, store)
        audits.append(ArmAudit(cell.arm, {cell.scale: audited.report}, {cell.scale: audited.hash}))
        on_event(
            {
                "event": "audit",
                "arm": cell.arm.name,
                "scale": cell.scale,
                "outcome": audited.report.outcome,
                "leaks": bool(audited.report.leaks),
                "expect_leak": cell.arm.expect_leak,
                "collapses": bool(audited.report.collapses),
                "expect_collapse": cell.arm.expect_collapse,
                "seconds": audited.report.seconds,
            }
        )
    return audits


def _audited(cell: Cell, store: Store) -> AuditedArm:
    """One audit. Parts may fit one by one and not together (a mask and a window, a mixer and a mask): then the arm is named."""
    name = cell.arm.name
    try:
        return audit_arm(cell.settings, name=name, store=store)
    except BadInput as problem:
        field = f"arms.{name}: {problem.field}" if problem.field else f"arms.{name}"
        raise BadInput(problem.message, file=problem.file, field=field, hint=problem.hint) from None


def audit_ahead(specs: Sequence[RunSpec], store: Store, code: Code | None, *, workers: int) -> None:
    """Measure what is missing of these arms' audits in processes, when there are several arms and several workers.

    Args:
        specs: a run of each arm at each scale.
        code: the user's Python that parts of the specs were written in.
    """
    missing = unmeasured(specs, store)
    processes = min(workers, len(missing))
    if processes < 2:
        return
    given_out = [list(range(number, len(missing), workers)) for number in range(processes)]
    place = ["--store", str(store.create().root.resolve())]
    fan_out("palinode.experiment.audits", place, missing, code, given_out, on_failure=lambda reason: None)


def unmeasured(specs: Sequence[RunSpec], store: Store) -> list[RunSpec]:
    """The specs whose audits have a part that is neither in the store nor a part of a spec before them."""
    wanted: list[RunSpec] = []
    claimed: set[str] = set()
    for spec in specs:
        if missing := missing_parts(spec.settings, store) - claimed:
            wanted.append(spec)
            claimed |= missing
    return wanted


def main(arguments: Sequence[str] | None = None) -> None:
    """Audit the arms of these directories, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m palinode.experiment.audits", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="where audits are kept")
    parser.add_argument("directories", type=Path, nargs="+", help="each holds a run's spec")
    options = parser.parse_args(arguments)
    end_with_the_driver()
    store = Store(options.store)
    with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
        for directory in options.directories:
            spec = load_run(directory, allow_code=True)  # the driver has decided whose code may run
            measure_parts(spec.settings, name=spec.run_id, store=store)


def refuse_leaks(audits: Sequence[ArmAudit]) -> None:
    """Stop an experiment whose arms cannot be compared.

    Raises:
        AuditFailed: one paragraph: which arm, which finding, and what to do.
    """
    for audit in audits:
        if not audit.unexpected:
            continue
        finding = next(iter(audit.leaks), audit.unexpected[0]).finding
        name = audit.arm.name
        if audit.leaks:
            raise AuditFailed(
                f"the audit shows that arm {name!r} sees its own answer: {finding.message}. Its loss would be impossibly "
                "low and a comparison with it would mean nothing, so nothing was trained. Correct the visibility or the "
                "sources of its objective (`palinode audit` shows which positions see what), or, if the leak is the point, "
                "mark the arm expect_leak=True: it is then run, and stamped LEAK everywhere",
                field=f"arms.{name}",
            )
        if finding.shows_collapse:
            raise AuditFailed(
                f"an auxiliary term of arm {name!r} vanishes by itself: {finding.message}. Its value would say nothing of what "
                "it compares, so nothing was trained. Let its norms learn no gain or set a variance floor, or, if the collapse "
                "is the point, mark the arm expect_collapse=True: it is then run, and stamped COLLAPSE everywhere",
                field=f"arms.{name}",
            )
        raise AuditFailed(
            f"arm {name!r} failed {finding.check}: {finding.message}. Nothing was trained",
            field=f"arms.{name}",
            hint="`palinode audit` shows the evidence",
        )


if __name__ == "__main__":
    main()
