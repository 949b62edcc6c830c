"""A collapse is shown wherever the arm is, apart from a leak: in the verdict, on the page, in `show`, while running and refused."""

import pytest

from palinode.analysis.audits import ArmAudit
from palinode.analysis.verdict import verdict
from palinode.base.errors import AuditFailed
from palinode.base.finding import AuditReport, Finding
from palinode.cli.audit import audit_text
from palinode.cli.ls import _stamps
from palinode.cli.progress import _message
from palinode.experiment.audits import refuse_leaks
from palinode.report import words
from palinode.report.build import build_report
from palinode.results.record import ArmEntry
from synthetic_store import DEMO_ARMS, Synthetic, make_store

LTR, BOTH, MASK = DEMO_ARMS
COLLAPSE = Finding(
    check="C7.probe", outcome="fail", law="Terms do not vanish.", message="embedding_loss at step 1700: collapsed"
)
LEAK = Finding(check="C1.perturbation", outcome="fail", law="No target sees itself.", message="target 1 sees itself")
OTHER = Finding(check="C3.repeats", outcome="fail", law="Twice the same.", message="not the same twice")


def store_of(tmp_path, *, expected: bool, findings=(COLLAPSE,), name="both"):
    """The demo, with these findings added to the audit of one arm."""
    store = make_store(tmp_path / "runs", Synthetic(arms=(LTR, BOTH)))
    entry = store.experiment("demo").entry
    arms = tuple(arm.with_(expect_collapse=expected) if arm.name == name else arm for arm in entry.arms)
    store.write_experiment(entry.with_(arms=arms))
    for key in entry.audits[name].values():
        report = store.audit(key)
        store.write_audit(key, report.with_(findings=(*report.findings, *findings)))
    return store


def verdict_of(store):
    record = store.experiment("demo")
    return verdict(record, "both", "base", record.entry.rule)


def test_an_expected_collapse_is_compared_and_stamped(tmp_path):
    result = verdict_of(store_of(tmp_path, expected=True))
    assert (result.collapse, result.leak, result.reasons) == ("expected", "none", ())
    assert result.outcome == "worse"
    lines = words.verdict_lines(result)
    assert lines[0].startswith("COLLAPSE  both is worse than ltr by ")
    assert "Its auxiliary term vanished, as the experiment expects" in " ".join(lines)


def test_one_that_nobody_expected_is_not_compared(tmp_path):
    result = verdict_of(store_of(tmp_path, expected=False))
    assert (result.collapse, result.outcome) == ("unexpected", "cannot tell")
    assert "both failed its audit: C7.probe" in result.reasons


def test_expecting_a_collapse_excuses_nothing_else(tmp_path):
    result = verdict_of(store_of(tmp_path, expected=True, findings=(COLLAPSE, OTHER)))
    assert (result.collapse, result.outcome) == ("expected", "cannot tell")
    assert "both failed its audit: C3.repeats" in " ".join(result.reasons)


def test_an_expected_collapse_that_is_not_there_and_one_of_the_baseline_are_said(tmp_path):
    none = verdict_of(store_of(tmp_path, expected=True, findings=()))
    assert "both is marked expect_collapse, but no check found a collapse" in none.cautions
    baseline = verdict_of(store_of(tmp_path / "b", expected=True, name="ltr"))
    assert "an auxiliary term of the baseline ltr collapsed, as the experiment expects" in baseline.cautions


@pytest.mark.parametrize("expected", [True, False])
def test_the_page_and_show_are_stamped(tmp_path, monkeypatch, expected):
    monkeypatch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])
    store = store_of(tmp_path, expected=expected)
    page = build_report(store, "demo", tmp_path / "report").read_text(encoding="utf-8")
    assert '<p class="stamp">COLLAPSE</p>' in page
    assert f'<span class="badge leak">COLLAPSE{", expected" if expected else ""}</span>' in page
    assert ('<span class="badge leak">expected to collapse</span>' in page) == expected
    assert '<p class="stamp">LEAK</p>' not in page
    stamps = _stamps(store.experiment("demo").entry, store)
    assert stamps == {"ltr": "", "both": "  COLLAPSE, as expected" if expected else "  COLLAPSE"}


def audited(*findings, **expects) -> ArmAudit:
    arm = ArmEntry(name="x", **expects)
    return ArmAudit(arm, {"base": AuditReport(subject="x", findings=findings)})


def test_an_arm_is_refused_unless_what_it_fails_was_expected():
    refuse_leaks([audited(COLLAPSE, expect_collapse=True), audited(COLLAPSE, LEAK, expect_leak=True)])
    with pytest.raises(AuditFailed, match="vanishes by itself: embedding_loss at step 1700.*expect_collapse=True"):
        refuse_leaks([audited(COLLAPSE)])
    for excused in (False, True):
        with pytest.raises(AuditFailed, match="sees its own answer: target 1"):
            refuse_leaks([audited(COLLAPSE, LEAK, expect_collapse=excused)])
    with pytest.raises(AuditFailed, match="failed C3.repeats"):
        refuse_leaks([audited(COLLAPSE, OTHER, expect_collapse=True)])


def test_the_commands_say_it():
    assert "x at base: COLLAPSE, as expected (" in audit_text(audited(COLLAPSE, expect_collapse=True))
    assert "x at base: LEAK; COLLAPSE (" in audit_text(audited(COLLAPSE, LEAK))
    assert "x at base: fail (" in audit_text(audited(OTHER))
    event = {"event": "audit", "arm": "x", "scale": "base", "outcome": "fail", "seconds": 2.0}
    fields = {"leaks": False, "expect_leak": False, "collapses": True, "expect_collapse": True}
    assert _message(event | fields) == "audit of x at base: COLLAPSE (expected) (2.0 s)"
    assert _message(event | fields | {"leaks": True}) == "audit of x at base: LEAK, COLLAPSE (expected) (2.0 s)"
    assert _message(event | fields | {"collapses": False}) == "audit of x at base: fail (2.0 s)"
