"""Findings and errors: what a reader is told, and that nothing is told by accident."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.base.config import canonical_json, decode
from palinode.base.errors import (
    AuditFailed,
    BadInput,
    Damaged,
    EnvironmentProblem,
    PalinodeError,
    nearest,
    printable,
)
from palinode.base.finding import AuditReport, Finding, seconds_together


def finding(outcome, check="C1.perturbation", **fields):
    return Finding(check=check, outcome=outcome, law="a law", message="a message", **fields)


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        ((), "could_not_tell"),
        (("pass",), "pass"),
        (("pass", "could_not_tell"), "could_not_tell"),
        (("could_not_tell", "fail", "pass"), "fail"),
    ],
)
def test_a_report_is_as_bad_as_its_worst_finding(outcomes, whole):
    assert AuditReport(subject="arm", findings=tuple(map(finding, outcomes))).outcome == whole


def test_leaks_are_failed_checks_of_information_flow():
    findings = (finding("fail"), finding("fail", "C2.canary"), finding("pass"), finding("fail", "C5.axis"))
    assert [leak.check for leak in AuditReport(subject="arm", findings=findings).leaks] == [
        "C1.perturbation",
        "C2.canary",
    ]


def test_a_report_survives_its_file():
    report = AuditReport(
        subject="arm",
        findings=(
            finding(
                "fail",
                numbers={"influence": 1.5, "source": 3, "mode": "train", "nothing": None},
                threshold=1e-12,
                reproduce={"seed": 0, "lengths": [1, 2], "pair": {"source": 3, "target": 1}},
                pictures={"ltr": ((0.0, 1.0), (0.5, 0.0))},
            ),
        ),
        seconds=1.25,
    )
    assert decode(AuditReport, json.loads(canonical_json(report))) == report


@pytest.mark.parametrize("numbers", [{"x": math.nan}, {"x": math.inf}, {"x": True}, {"x": [1.0]}])
def test_findings_hold_plain_finite_numbers(numbers):
    with pytest.raises(ValueError, match="validation error"):
        finding("pass", numbers=numbers)


def test_outcomes_are_three():
    with pytest.raises(ValueError, match="could_not_tell"):
        finding("maybe")


def test_exit_codes():
    codes = {PalinodeError: 70, BadInput: 2, AuditFailed: 3, Damaged: 4, EnvironmentProblem: 5}
    assert {kind: kind("x").exit_code for kind in codes} == codes


def test_an_error_is_one_line_with_its_place():
    error = BadInput("must be positive", file="idea.toml", field="recipe.steps", hint="try 100")
    assert str(error) == "idea.toml: recipe.steps: must be positive (try 100)"
    late = BadInput("must be positive").at(file="a.toml").at(file="b.toml", field="x")
    assert str(late) == "a.toml: x: must be positive"


@given(st.text())
def test_errors_cannot_drive_the_terminal(text):
    shown = str(BadInput(text, file="f\x1b[31m", field="a\nb"))
    assert shown.isprintable()
    assert len(shown) <= 1000
    assert len(printable("x" * 10_000)) == 1000


def test_nearest():
    names = ["steps", "batch_windows", "optimizer"]
    assert nearest("stpes", names) == "did you mean 'steps'?"
    assert nearest("Steps", names) == "did you mean 'steps'?"
    assert nearest("zzzzzzzz", names) == "valid: batch_windows, optimizer, steps"
    assert nearest("multi_query_recall", [*names, "mad-recall", "recall"]) == "did you mean 'mad-recall' or 'recall'?"
    assert nearest("zzzzzzzz", []) is None
    assert nearest("zzzzzzzz", [f"field_number_{i}" for i in range(40)]) is None


def test_audits_that_name_no_parts_take_their_seconds_one_by_one():
    """As older stores have them; with them stand audits that share a part of 3 seconds."""
    old = [AuditReport(subject=name, findings=(), seconds=2.0) for name in "ab"]
    parts = ({"x": 3.0, "y": 1.0}, {"x": 3.0})
    new = [AuditReport(subject="c", findings=(), seconds=sum(one.values()), parts=one) for one in parts]
    assert seconds_together([*old, *new]) == 2 + 2 + 3 + 1
    assert seconds_together([]) == 0
