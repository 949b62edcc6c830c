"""Damaged stores on the command line: what is destroyed is named, no number of it is used, nothing crashes."""

import json
from pathlib import Path

import pytest
from tiny_experiment import TOML

from palinode import DataConfig, EvaluationConfig, Gpt2AdamW, LtrObjective, RunSpec, Store, gpt2
from palinode.base import fsio
from palinode.base.config import encode
from palinode.run.one import run_one
from palinode.spec.load import load
from palinode.train.schedule import Cosine
from synthetic_store import make_store


def garbage(path: Path) -> None:
    path.write_text("garbage\n" * 50)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("destroy", [garbage, a_directory])
def test_destroyed_metrics_are_named_by_ls_compare_and_report(palinode, here, destroy):
    store = make_store(here / "runs")
    for run_id in store.run_ids():
        destroy(store.run_directory(run_id) / "metrics.jsonl")
    listed = json.loads(palinode("ls", "--runs", "--json").out)
    assert {row["outcome"] for row in listed} == {"damaged"}
    assert all(row["reason"].startswith("metrics.jsonl: ") for row in listed)
    assert f"{len(listed)} damaged" in palinode("ls").out
    compared = palinode("compare", "demo")
    assert compared.code == 0
    first = next(run.run_id for run in store.entry("demo").runs if (run.arm, run.seed) == ("both", 0))
    assert f"3 of 3 pairs cannot be compared (seed 0: both: damaged ({first}/metrics.jsonl)" in compared.out
    assert palinode("report", "demo").code == 0
    page = Path("runs/reports/demo--laptop/report.html").read_text()
    assert all(f"{run_id}/metrics.jsonl: " in page for run_id in store.run_ids())
    output = palinode("cut", store.run_ids()[0])
    assert (output.code, output.out, len(output.err.splitlines())) == (4, "", 1)
    assert "metrics.jsonl: " in output.err


def test_a_run_under_the_spec_of_another_lends_its_weights_to_nobody(palinode):
    spec = RunSpec(
        data=DataConfig(corpus=str(Path("text.txt").absolute()), split="contiguous", window_tokens=16),
        model=gpt2(layers=1, width=16, heads=2),
        objective=LtrObjective(),
        recipe=Gpt2AdamW(steps=3, batch_windows=2, evaluate_every_steps=None, schedule=Cosine(warmup_steps=1)),
        evaluation=EvaluationConfig(max_tokens=300),
        seed=1,
    )
    other = spec.with_(seed=2)
    for one in (spec, other):
        run_one(one, Store("runs"))
    path = Path("runs") / spec.run_id / "spec.json"
    assert palinode("sample", spec.run_id, "--tokens", "3").code == 0
    fsio.write_table(path, fsio.read_table(path) | {"seed": 2})
    for command in ("sample", "cut"):
        output = palinode(command, spec.run_id)
        assert (output.code, output.out) == (4, "")
        assert output.err.startswith(f"{path}: holds the spec of run {other.run_id}, not {spec.run_id}")
    path.unlink()
    for command in ("sample", "cut", "show"):
        output = palinode(command, spec.run_id)
        assert (output.code, output.out, len(output.err.splitlines())) == (4, "", 1)
        assert str(path) in output.err


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"decision": {"baseline": "ltr", "confidence": 2}}, "decision.confidence: "),
        ({"audits": {"ltr": {"base": "../x"}}}, "audits.ltr.base: "),
    ],
)
def test_a_damaged_entry_is_named_by_every_command(palinode, here, changes, field):
    store = make_store(here / "runs")
    path = store.root.relative_to(here) / "experiments" / "demo--laptop.json"
    fsio.write_table(path, fsio.read_table(path) | changes)
    for arguments in (("show", "demo"), ("compare", "demo"), ("report", "demo"), ("plan", str(path))):
        output = palinode(*arguments)
        assert (output.code, output.out, len(output.err.splitlines())) == (4, "", 1)
        assert output.err.startswith(f"{path}: {field}")
    output = palinode("ls")
    assert (output.code, output.err[: len(str(path)) + 9]) == (0, f"damaged: {path}")


def test_an_entry_without_runs_cannot_be_planned(palinode, here):
    path = make_store(here / "runs").root / "experiments" / "demo--laptop.json"
    fsio.write_table(path, fsio.read_table(path) | {"runs": []})
    output = palinode("plan", "runs/experiments/demo--laptop.json")
    assert (output.code, output.out) == (4, "")
    assert output.err == "runs/experiments/demo--laptop.json: runs: there are none\n"


def test_the_spec_of_a_masked_run_is_planned(palinode, here):
    masked = TOML.replace('kind = "ltr"', 'kind = "masked"\nhide_answers = false\nrate = 0.5').partition("[[arms]]")[0]
    rest = '[[arms]]\nname = "own"\n[decision]\nbaseline = "own"\nmetric = "validation.own.nats_per_token"\n'
    Path("tiny.toml").write_text(masked + rest)
    spec = load(Path("tiny.toml")).resolve().runs[0].spec
    path = Store("runs").write_spec(spec.run_id, encode(spec)) / "spec.json"
    output = palinode("plan", str(path), "--no-measure")
    assert (output.code, output.err) == (0, "")
    assert "1 of 1 runs are left to do" in output.out
