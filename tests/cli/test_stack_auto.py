"""`palinode run --stack auto`: measured once, kept, shown by `plan` and `show`; the store says what stacked runs may differ by."""

import json
from pathlib import Path

import pytest
import quick_audit
from tiny_experiment import TOML

from palinode.base import fsio
from palinode.experiment import audits, plan, stacks
from palinode.experiment.stacks import Measured
from palinode.results.store import Store

ONE_ARM = TOML.partition("[[arms]]")[0] + '[[arms]]\nname = "ltr"\n\n[decision]\nbaseline = "ltr"\n'
ENTRY = Path("runs/experiments/tiny--default.json")


@pytest.fixture
def quick(palinode, monkeypatch):
    """`palinode` in this process, with the quick audit and calibration."""
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(plan, "calibrate", quick_audit.quick_calibrate)
    Path("x.toml").write_text(ONE_ARM)
    return palinode


@pytest.fixture
def measurements(monkeypatch) -> list[int]:
    """Stacks of two have 1.5 times the steps a second. The list gets the number of cells of every measurement."""
    cells: list[int] = []

    def measured(some, workers, code, nursery):
        cells.append(len(some))
        return [Measured(tuple(left), cell.steps, ({1: 1.0, 2: 1 / 1.5},)) for cell, left in some]

    monkeypatch.setattr(stacks, "measured_in_processes", measured)
    return cells


def test_it_is_measured_once_kept_and_shown(quick, measurements, here):
    told = quick("plan", "x.toml", "--no-measure", "--stack", "auto")
    assert told.out.splitlines()[-1] == "stack: ltr at base: measured before its first run"
    words = "ltr at base: stacks of up to 2 runs, 1.50 times the steps a second of single runs"
    first = quick("run", "x.toml", "--stack", "auto", "--workers", "1")
    assert first.code == 0, first.err
    assert words in first.err
    store = Store("runs")
    (stack,) = store.entry("tiny").stacks
    assert (stack.stack, stack.gain, len(stack.groups[0])) == (2, 1.5, 2)
    listed = json.loads(quick("ls", "--runs", "--json").out)
    assert [row["runs_together"] for row in listed] == [2, 2]
    for text in (listed[0]["may_differ_by"], quick("show", listed[0]["run_id"]).out):
        assert "in a stack of 2 runs, sums are added in another order" in text
    again = quick("run", "x.toml", "--stack", "auto", "--workers", "1")
    assert again.code == 0, again.err
    assert words in quick("show", "tiny").out
    assert sum(measurements) == 1
    data = json.loads(quick("plan", "x.toml", "--no-measure", "--stack", "auto", "--json").out)
    assert data["stacks"] == [words]
    report = quick("report", "tiny")
    assert report.code == 0, report.err
    assert "stack of 2 runs" in Path(report.out.strip()).read_text()


def test_an_entry_of_an_older_version_opens_and_is_measured_then(quick, measurements, here):
    assert quick("run", "x.toml", "--set", "recipe.steps=1", "--workers", "1").code == 0
    data = fsio.read_table(ENTRY)
    assert data.pop("stacks") == []
    fsio.write_table(ENTRY, data)
    assert Store("runs").entry("tiny").stacks == ()
    assert quick("ls").code == 0
    assert quick("run", "x.toml", "--set", "recipe.steps=1", "--stack", "auto").code == 0
    assert sum(measurements) == 0, "no run is left to begin"


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("value", "hint"), [("0", "a number from 1 to 256, or auto"), ("atuo", "did you mean 'auto'?")]
)
def test_a_bad_stack_is_one_line(quick, command, value, hint):
    told = quick(command, "x.toml", "--stack", value)
    assert told.code == 2
    (line,) = told.err.splitlines()
    assert line == f"--stack: '{value}' is no number of runs to train together ({hint})"
    assert not Path("runs").exists()


@pytest.mark.nightly
def test_a_model_that_cannot_be_stacked_is_trained_alone(quick, here):
    """The real measurement: dropout draws numbers, which a stack refuses."""
    told = quick("run", "x.toml", "--set", "model.dropout=0.1", "--stack", "auto", "--workers", "1")
    assert told.code == 0, told.err
    assert "single runs: stacks could not be measured: RuntimeError: vmap" in told.err
    assert [record.result.runs_together for record in Store("runs").records()] == [1, 1]


@pytest.mark.nightly
def test_the_real_measurement_chooses_and_a_stopped_run_goes_on_in_its_stack(quick, here):
    told = quick("run", "x.toml", "--seeds", "4", "--stack", "auto", "--workers", "2")
    assert told.code == 0, told.err
    (stack,) = Store("runs").entry("tiny").stacks
    assert stack.sizes[:1] == (2,)
    assert all(gain > 0 for gain in stack.gains)
    sizes = {run_id: len(group) for group in stack.groups for run_id in group}
    assert {record.run_id: record.result.runs_together for record in Store("runs").records()} == sizes
