"""The audits of an experiment's arms: missing audits are measured, several arms at a time, and arms that fail are refused.

`python -m palinode.experiment.audits STORE DIRECTORY...` is one process that measures and stores; a directory holds the spec of a
run. When it fails, the process that started it measures the same arms again and reports the failure.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from palinode.analysis.audits import ArmAudit
from palinode.audit import audit_arm, audit_subject, subject_of_config
from palinode.audit.any_model import QUICK, QUICK_CHECKS
from palinode.audit.arms import measure_parts, missing_parts
from palinode.audit.trainer_bench import AUDIT_SEED
from palinode.base.errors import AuditFailed, BadInput
from palinode.base.memory import keep_memory
from palinode.data.source import prepare
from palinode.experiment.cells import Cell
from palinode.experiment.fan_out import end_with_the_driver, fan_out
from palinode.results.store import Store
from palinode.spec.code import Code
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSpec
from palinode.sweep.nursery import Nursery


def audit_cells(
    cells: Sequence[Cell],
    store: Store,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    *,
    code: Code | None = None,
    workers: int = 1,
    nursery: Nursery | None = None,
) -> list[ArmAudit]:
    """Audit the arm of every cell; an audit that the store holds is not measured again.

    Args:
        code: the user's Python that parts of the experiment were written in.
        workers: the number of arms that are audited at a time.
        nursery: forks the processes that measure.

    Raises:
        BadInput: the parts of an arm do not fit together.
    """
    missing = unmeasured([cell.spec for cell in cells], store)
    if (count := len(missing)) > 1:
        message = f"measuring {count} audits, {min(count, workers)} at a time, before anything is trained"
        on_event({"event": "note", "message": message})
    audit_ahead(missing, store, code, workers=workers, nursery=nursery)
    audits = []
    for cell in cells:
        name = cell.arm.name
        try:
            audited = audit_arm(cell.settings, name=name, store=store)
        except BadInput as refusal:  # the parts are valid, but do not fit together
            refusal.field = f"arms.{name}: {refusal.field}" if refusal.field else f"arms.{name}"
            raise
        audits.append(ArmAudit(cell.arm, {cell.scale: audited.report}, {cell.scale: audited.hash}))
        on_event(
            {
                "event": "audit",
                "arm": name,
                "scale": cell.scale,
                "outcome": audited.report.outcome,
                "could_not_tell": list(
                    dict.fromkeys(one.check for one in audited.report.findings if one.outcome == "could_not_tell")
                ),
                "leaks": bool(audited.report.leaks),
                "expect_leak": cell.arm.expect_leak,
                "collapses": bool(audited.report.collapses),
                "expect_collapse": cell.arm.expect_collapse,
                "seconds": audited.report.seconds,
            }
        )
    return audits


def unmeasured(specs: Sequence[RunSpec], store: Store) -> list[RunSpec]:
    """The specs whose audits have a part that is neither in the store nor a part of a spec before them."""
    unmeasured_specs: list[RunSpec] = []
    claimed: set[str] = set()
    for spec in specs:
        if missing := missing_parts(spec.settings, store) - claimed:
            unmeasured_specs.append(spec)
            claimed |= missing
    return unmeasured_specs


def quick_audits(cells: Sequence[Cell]) -> list[ArmAudit]:
    """The short audit of every cell's model and objective; nothing is stored."""
    audits = []
    for cell in cells:
        settings = cell.settings
        subject = subject_of_config(
            settings.model,
            settings.objective,
            tokenizer_vocab=prepare(settings.data).vocab_size,
            window_tokens=settings.data.window_tokens,
            seed=AUDIT_SEED,
            name=cell.arm.name,
        )
        report = audit_subject(subject, checks=QUICK_CHECKS, flow=QUICK.flow, stepwise=QUICK.stepwise)
        audits.append(ArmAudit(cell.arm, {cell.scale: report}, {cell.scale: ""}))
    return audits


def audit_ahead(
    specs: Sequence[RunSpec], store: Store, code: Code | None, *, workers: int, nursery: Nursery | None = None
) -> None:
    """Measure the audits of these specs in processes, when there are several specs and several workers.

    A process that has measured its share goes on with parts of the other shares, from their end.
    """
    processes = min(workers, len(specs))
    if processes < 2:
        return
    every = range(len(specs))
    shares = [
        sorted(every, key=lambda index: (index % processes != own, index if index % processes == own else -index))
        for own in range(processes)
    ]
    place = [str(store.create().root.resolve())]
    fan_out("palinode.experiment.audits", place, specs, code, shares, lambda reason: None, nursery)


def main() -> None:
    """Audit the arms of these directories, one after the other."""
    root, *directories = map(Path, sys.argv[1:])
    end_with_the_driver()
    keep_memory()
    with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
        for directory in directories:
            spec = load_run(directory, allow_code=True)  # the driver has decided whose code may run
            measure_parts(spec.settings, name=spec.run_id, store=Store(root))


def refuse_leaks(audits: Sequence[ArmAudit]) -> None:
    """Stop an experiment whose arms cannot be compared.

    Raises:
        AuditFailed: one paragraph: which arm, which finding, and what to do.
    """
    for audit in audits:
        if not audit.unexpected:
            continue
        finding = next(iter(audit.leaks), audit.unexpected[0]).finding
        name, hint = audit.arm.name, None
        if audit.leaks:
            message = (
                f"the audit shows that arm {name!r} sees its own answer: {finding.message}. Its loss would be impossibly "
                "low and a comparison with it would mean nothing, so nothing was trained. Correct the visibility or the "
                "sources of its objective (`palinode audit` shows which positions see what), or, if the leak is the point, "
                "mark the arm expect_leak=True: it is then run, and stamped LEAK everywhere"
            )
        elif finding.shows_collapse:
            message = (
                f"an auxiliary term of arm {name!r} vanishes by itself: {finding.message}. Its value would say nothing of what "
                "it compares, so nothing was trained. Let its norms learn no gain or set a variance floor, or, if the collapse "
                "is the point, mark the arm expect_collapse=True: it is then run, and stamped COLLAPSE everywhere"
            )
        else:
            message = f"arm {name!r} failed {finding.check}: {finding.message}. Nothing was trained"
            hint = "`palinode audit` shows the evidence"
        raise AuditFailed(message, field=f"arms.{name}", hint=hint)


if __name__ == "__main__":
    main()
