"""Audits every planted defect of the tests, and its clean twin, and counts: the part `audit` of tools/battery.py.

The defects stand in one place, the tests, each beside its clean twin. A defect counts as caught if a check that its table names
fails. A clean twin counts as passed if no check fails and none could not tell.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from palinode import audit
from palinode.audit.any_model import QUICK, QUICK_CHECKS
from palinode.base.finding import Finding
from palinode.checks.stepwise import check_stepwise

TESTS = Path(__file__).parent.parent / "tests"
WINDOWS = (16, 17, 31, 32, 33, 64, 100, 128, 255, 256)

Counts = dict[str, Counter[str]]
"""kind of defect -> planted, caught, twins, passed."""


def count(share: float) -> tuple[Counts, list[str]]:
    """The counts by kind, and a line on each defect that was missed and each twin that was accused.

    Args: share: of the defects of each kind, for a short try.
    """
    counts: Counts = {}
    wrong: list[str] = []
    for kind, outcomes in (
        ("information flow and generation (C1, C6)", _by_flow(_tests("checks", "test_planted_defects"), share)),
        ("trained on random tokens (C2)", _by_canary(_tests("checks", "test_planted_defects"), share)),
        ("state of generation (C6)", _by_state(_tests("checks", "test_state_defects"), share)),
        (
            "public leaks, quick form, windows of 16 to 256 tokens",
            _public(_tests("audit", "test_faults_of_audits"), share),
        ),
    ):
        counted = counts.setdefault(kind, Counter())
        for name, is_defect, as_wanted in outcomes:
            counted["planted" if is_defect else "twins"] += 1
            counted["caught" if is_defect else "passed"] += as_wanted
            if not as_wanted:
                wrong.append(f"{kind}: {name} was {'missed' if is_defect else 'accused'}")
    return counts, wrong


Outcome = tuple[str, bool, bool]
"""The name, whether it is a defect, and whether the audit said what it should."""


def _by_flow(tests: ModuleType, share: float) -> Iterator[Outcome]:
    for planted in _some(tests.PLANTED, share):
        failed = tests.failures(tests.flow_report(planted.broken))
        yield planted.broken, True, not planted.flow or bool(failed.keys() & planted.flow.keys())
    for clean in _some(tests.CLEAN, share):
        yield clean, False, _all_pass(tests.flow_report(clean).findings)


def _by_canary(tests: ModuleType, share: float) -> Iterator[Outcome]:
    chosen = _some(tests.WITH_CANARY, share)
    for planted in chosen:
        failed = tests.failures(tests.canary_report(planted.broken, tests.canary_settings(planted)))
        yield planted.broken, True, bool(failed.keys() & planted.canary.keys())
    for clean, planted in {planted.clean: planted for planted in chosen}.items():
        report = tests.canary_report(clean, tests.canary_settings(planted))
        yield clean, False, not any(finding.outcome == "fail" for finding in report.findings)


def _by_state(tests: ModuleType, share: float) -> Iterator[Outcome]:
    for name, (config, plant) in _some(list(tests.DEFECTS.items()), share):
        subject = tests.arm(config)
        plant(subject.module)
        findings = check_stepwise(subject, tests.SHORT)
        yield name, True, any(one.check == "C6.state" and one.outcome == "fail" for one in findings)
    for config in _some(list(tests.CONFIGS), share):
        yield config, False, _all_pass(check_stepwise(tests.arm(config), tests.SHORT))


def _public(tests: ModuleType, share: float) -> Iterator[Outcome]:
    for window in _some(WINDOWS, share):
        for leak in tests.LEAKS:
            yield f"{leak.__name__} at {window}", True, _quick(tests, tests.leaking(leak), window) == "fail"
        yield f"no leak at {window}", False, _quick(tests, tests.Gpt(longest=600), window) == "pass"


def _quick(tests: ModuleType, model: object, window: int) -> str:
    report = audit.check(model, vocab_size=tests.IDS, window_tokens=window, checks=QUICK_CHECKS, options=QUICK)
    return report.outcome


def _all_pass(findings: tuple[Finding, ...]) -> bool:
    return all(finding.outcome == "pass" for finding in findings)


def _some(items: Sequence[Any], share: float) -> list[Any]:
    return list(items[: max(1, round(share * len(items)))])


def _tests(room: str, name: str) -> ModuleType:
    """A test module, which imports what stands beside it."""
    if str(TESTS / room) not in sys.path:
        sys.path.insert(0, str(TESTS / room))
    return importlib.import_module(name)
