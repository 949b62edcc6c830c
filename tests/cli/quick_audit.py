"""`palinode` with an audit that takes no time: for tests of everything around it. The audit has tests of its own."""

import sys

from palinode.audit import AuditedArm
from palinode.base.config import content_hash, encode
from palinode.base.finding import AuditReport, Finding
from palinode.cli.main import entry
from palinode.experiment import audits, plan
from palinode.experiment.calibrate import Predicted


def quick_audit_arm(settings, *, name, store=None) -> AuditedArm:
    """Fails an arm that reads rtl through anything but rtl, passes every other."""
    sees = getattr(settings.objective, "rtl_sees", None)
    leaks = sees is not None and sees.kind_name() != "rtl"
    law = "no target informs its own prediction"
    finding = Finding(
        check="C1.perturbation",
        outcome="fail" if leaks else "pass",
        law=law,
        message="rtl: targets 0-14 of 16 see themselves" if leaks else "no target sees itself",
    )
    audited = AuditedArm(
        content_hash([name, encode(settings)]), AuditReport(subject=name, findings=(finding,), seconds=0.5)
    )
    if store is not None:
        store.write_audit(audited.hash, audited.report)
    return audited


def no_audit_ahead(specs, store, code, *, workers, nursery=None) -> None:
    """The quick audit takes no time."""


def quick_calibrate(cells, runs, code=None, *, workers=1, on_failure=lambda line: None, nursery=None) -> Predicted:
    """A second for every run."""
    return Predicted({(cell.arm.name, cell.scale): 1.0 for cell in cells}, settings=len(cells), measured=len(cells))


def install() -> None:
    """Replace the audit and the calibration of this process."""
    audits.audit_arm = quick_audit_arm
    audits.audit_ahead = no_audit_ahead
    plan.calibrate = quick_calibrate


if __name__ == "__main__":
    install()
    sys.exit(entry(sys.argv[1:]))
