"""`palinode audit`: text, map, JSON and exit code. What the audit finds is tested in its own room."""

import json
from pathlib import Path

import pytest
import quick_audit
from tiny_experiment import TOML

from palinode.analysis.audits import ArmAudit
from palinode.cli.audit import audit_text
from palinode.experiment import audits
from palinode.results.record import ArmEntry
from synthetic_store import DEMO_ARMS, audit_of

LEAK = f"""{TOML}
[[arms]]
name = "mask"
[arms.change.objective]
kind = "both"
rtl_sees = {{ kind = "flipped-lower-triangle" }}
"""


@pytest.fixture
def audit(palinode, monkeypatch):
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    return lambda *options: palinode("audit", "x.toml", *options)


def test_honest_arms_pass(audit):
    Path("x.toml").write_text(TOML)
    output = audit()
    assert output.code == 0
    assert "ltr at base: pass" in output.out
    assert "ok   C1.perturbation: no target sees itself" in output.out
    before, *audited = output.err.splitlines()
    assert before.startswith("measuring 2 audits, ")
    assert audited == ["audited ltr: pass", "audited both: pass"]


def test_an_unexpected_leak_exits_3_and_an_expected_one_does_not(audit):
    Path("x.toml").write_text(LEAK)
    output = audit()
    assert output.code == 3
    assert "mask at base: LEAK" in output.out
    assert output.err.splitlines()[-1].startswith("x.toml: failed its audit: mask (C1.perturbation)")
    Path("x.toml").write_text(LEAK.replace('name = "mask"', 'name = "mask"\nexpect_leak = true'))
    output = audit("--json")
    assert output.code == 0
    result = {one["arm"]: (one["outcome"], one["leaks"], one["expect_leak"]) for one in json.loads(output.out)}
    assert result == {"ltr": ("pass", False, False), "both": ("pass", False, False), "mask": ("fail", True, True)}


def test_one_arm_can_be_picked(audit):
    Path("x.toml").write_text(LEAK)
    assert [one["arm"] for one in json.loads(audit("--arm", "both", "--json").out)] == ["both"]
    assert audit("--arm", "mask").code == 3


@pytest.mark.parametrize("arm", DEMO_ARMS, ids=lambda arm: arm.name)
def test_the_map_shows_who_sees_whom(arm):
    length = 32
    entry = ArmEntry(name=arm.name, expect_leak=arm.expect_leak)
    text = audit_text(ArmAudit(entry, {"base": audit_of(arm, length)}))
    rows = [line for line in text.splitlines() if line[:6].strip().isdigit()]
    assert len(rows) == length * (1 if arm.rtl is None else 2)
    ltr = [row[7:] for row in rows[:length]]
    assert ltr[0].strip() == ""  # the first token is predicted from nothing
    assert ltr[5].rstrip() == "#" * 5
    if arm.rtl == "leak":
        assert "LEAK, as expected" in text
        assert "!" in "".join(rows[length:])
        assert "targets that see themselves: " in text
    else:
        assert "!" not in "".join(rows)
