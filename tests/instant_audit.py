"""Audits that take no time, for tests of everything around them.

The audit of a trained run is half of the CPU time of a run of forty steps. Real audits have tests of their own in tests/audit and
tests/checks, and stay in the golden tests and wherever a test here asks for the fixture `real_audit`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from palinode.audit import AuditedArm
from palinode.base.config import content_hash, encode
from palinode.base.finding import AuditReport, Finding
from palinode.experiment.fan_out import JOB_MODULES, nursery_for
from palinode.results.store import Store
from palinode.run import one
from palinode.sweep.nursery import Nursery

REAL = one.audit_trained
PASSED = Finding(check="C1.perturbation", outcome="pass", law="", message="no target sees itself")


def audit_arm_at_once(settings, *, name: str, store: Store | None = None) -> AuditedArm:
    """An audit before training that passed."""
    audited = AuditedArm(content_hash([name, encode(settings)]), AuditReport(subject=name, findings=(PASSED,)))
    if store is not None:
        store.write_audit(audited.hash, audited.report)
    return audited


def audit_trained_at_once(trained, rows, store: Store | None = None) -> AuditReport:
    """An audit of a trained run that passed."""
    return AuditReport(subject=trained.spec.run_id, findings=(PASSED,))


def prepare_for_forks() -> None:
    """As a module of a nursery: the processes that it forks audit no trained run."""
    one.audit_trained = audit_trained_at_once


@pytest.fixture(autouse=True, scope="module")
def trained_runs_are_audited_at_once() -> Iterator[None]:
    """For the conftest.py of a room to import."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(one, "audit_trained", audit_trained_at_once)
        yield


@pytest.fixture
def real_audit(monkeypatch) -> None:
    """A test with this fixture audits its trained runs, as users' runs are."""
    monkeypatch.setattr(one, "audit_trained", REAL)


class Shared(Nursery):
    """A nursery that several commands use one after the other: it imports torch once for all of them."""

    def __exit__(self, *_) -> None:
        """It ends with the tests."""


@pytest.fixture(scope="session")
def shared_nursery() -> Iterator[Nursery]:
    """Its processes audit no trained run."""
    nursery = Shared((*JOB_MODULES, __name__), pytest.fail)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        nursery.begin()
    yield nursery
    nursery.close()


@pytest.fixture
def one_nursery(shared_nursery, monkeypatch) -> Nursery:
    """All commands of a test use one nursery."""
    # not above: polars starts threads, and a process with threads cannot be forked
    from palinode.experiment import fan_out, run

    for module in (fan_out, run):
        monkeypatch.setattr(module, "nursery_for", lambda resolved, on_problem: shared_nursery)
    return shared_nursery


@pytest.fixture
def own_nurseries(one_nursery, real_audit, monkeypatch) -> None:
    """Each command starts a nursery, whose processes audit trained runs: for tests that compare them with other processes."""
    from palinode.experiment import fan_out, run

    for module in (fan_out, run):
        monkeypatch.setattr(module, "nursery_for", nursery_for)
