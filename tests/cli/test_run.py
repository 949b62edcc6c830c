"""`palinode run` with real training in real processes: reuse, refusal, failure, interruption, death."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import quick_audit
from tiny_experiment import TOML, everything_in

from palinode.experiment import audits, plan
from palinode.experiment import run as run_experiment
from palinode.results.store import Store

PROGRAM = (sys.executable, str(Path(__file__).with_name("quick_audit.py")))
ONE_SEED = TOML.replace("seeds = [1, 2]", "seeds = [1]")
LONGER = TOML.replace("seeds = [1, 2]", "seeds = [5]").replace(
    "steps = 4", "steps = 60\nevaluate_every_steps = 20\ncheckpoint_every_steps = 10\nlog_every_steps = 5"
)
TUNED = (
    ONE_SEED.replace("window_tokens = 16", "window_tokens = 16\ntuning_fraction = 0.1")
    + "\n[tuning]\nvalues = [1e-9, 0.01]\n"
)
LEAK = (
    ONE_SEED
    + '\n[[arms]]\nname = "mask"\n[arms.change.objective]\nkind = "both"\nrtl_sees = { kind = "flipped-lower-triangle" }\n'
)
NO_DIRECTION = (
    ONE_SEED.replace('name = "both"', 'name = "masked"')
    .replace('kind = "both", p = { kind = "constant", p = 0.5 }', 'kind = "masked", rate = 0.3, hide_answers = false')
    .replace('baseline = "ltr"', 'baseline = "ltr"\nmetric = "validation.own.nats_per_token"')
)
FAILING = """
from palinode import *
from palinode.data.config import DataConfig

class Breaks(LtrObjective):
    kind = ""
    def draw(self, batch, window_tokens, generator, progress):
        if progress.step == 2:
            raise RuntimeError("this idea does not work")
        return super().draw(batch, window_tokens, generator, progress)

experiment = Experiment(
    name="mine", question="?", arms=(Arm(name="ltr"), Arm(name="breaks", change={"objective": Breaks()})),
    base=RunSettings(
        data=DataConfig(corpus="text.txt", split="contiguous", window_tokens=16), model=DecoderConfig(layers=1, width=16, heads=2),
        objective=LtrObjective(), recipe=Speedrun(steps=3, batch_windows=2),
        evaluation=EvaluationConfig(directions=("ltr",), max_tokens=400),
    ),
    decision=Decision(baseline="ltr"), seeds=(1,),
)
"""


@pytest.fixture
def quick(palinode, monkeypatch):
    """`palinode` in this process, with the quick audit and calibration."""
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(plan, "calibrate", quick_audit.quick_calibrate)
    return palinode


def weights(store: Store) -> dict[str, str | None]:
    return {record.run_id: record.result.weights_sha256 if record.result else None for record in store.records()}


def test_it_trains_compares_and_does_nothing_twice(quick, here):
    Path("x.toml").write_text(ONE_SEED)
    output = quick("run", "x.toml")
    assert output.code == 0, output.err
    assert output.err.splitlines()[0] == "x.toml: 2 arms, 1 scale, 1 seed (ltr, both)"
    assert "2 of 2 runs to do, 2 at a time, about a minute" in output.err
    assert "both" in output.out.splitlines()[0]
    assert "ltr" in output.out.splitlines()[0]
    store = Store("runs")
    first = weights(store)
    assert len(first) == 2
    assert all(first.values())
    entry = store.entry("tiny")
    assert entry.plan["runs"] == 2
    assert entry.plan["measured_seconds"] > 0
    assert entry.plan["predicted_seconds"] is None, "a short grid is not measured"
    assert entry.command[:2] == ("palinode", "run")
    assert set(entry.audits) == {"ltr", "both"}
    before = everything_in(here)
    again = quick("run", "x.toml", "--json")
    assert again.code == 0
    events = [json.loads(line) for line in again.out.splitlines() if line.startswith('{"') and "event" in line]
    assert [event["event"] for event in events].count("reused") == 2
    changed = {path for path, content in everything_in(here).items() if before.get(path) != content}
    assert changed <= {str(here / "runs" / "index.json")}
    for stored in ("runs/experiments/tiny--default.json", f"runs/{next(iter(first))}/spec.json"):
        output = quick("run", stored)
        assert output.code == 0, output.err
        assert "done before" in output.err
    assert quick("run", "runs/experiments/tiny--default.json", "--seeds", "3").code == 2
    ltr = quick("sample", next(iter(first)), "--text", "the ", "--tokens", "5", "--seed", "3")
    assert (ltr.code, ltr.out[:4]) == (0, "the ")
    assert quick("sample", next(iter(first)), "--text", "the ", "--tokens", "5", "--seed", "3").out == ltr.out
    rtl = quick("sample", next(iter(first)), "--text", " end", "--tokens", "5", "--direction", "rtl", "--json")
    assert json.loads(rtl.out)[0].endswith(" end")
    assert "--top-p" in quick("sample", next(iter(first)), "--top-p", "1.5").err
    other = ONE_SEED.replace('"tiny"', '"other"').replace('name = "both"', 'name = "renamed"')
    Path("other.toml").write_text(other)
    assert quick("run", "other.toml").code == 0
    assert weights(store) == first


def test_a_leaking_arm_is_refused_with_a_paragraph_unless_expected(quick, here):
    Path("x.toml").write_text(LEAK)
    output = quick("run", "x.toml", "--quiet")
    assert output.code == 3
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    for part in ("arms.mask", "sees its own answer", "targets 0-14", "expect_leak", "nothing was trained"):
        assert part in output.err
    assert Store("runs").run_ids() == []
    Path("x.toml").write_text(LEAK.replace('name = "mask"', 'name = "mask"\nexpect_leak = true'))
    output = quick("run", "x.toml")
    assert output.code == 0
    assert "LEAK" in output.out
    assert "audit of mask at base: LEAK (expected)" in output.err


def test_a_failing_idea_is_a_result_and_the_others_go_on(quick, here):
    Path("mine.py").write_text(FAILING)
    output = quick("run", "mine.py")
    assert output.code == 1
    assert "RuntimeError: this idea does not work" in output.err
    assert "1 of 2 runs failed" in output.err
    outcomes = {record.spec["objective"]["kind"]: record for record in Store("runs").records()}
    assert outcomes["ltr"].outcome == "done"
    assert outcomes["user:Breaks"].outcome == "failed"
    assert 'mine.py", line 9' in outcomes["user:Breaks"].result.reason
    assert (outcomes["user:Breaks"].directory / "code.py").read_text() == FAILING


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*PROGRAM, "run", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def events_until(program: subprocess.Popen, wanted: str, count: int) -> list[dict]:
    result = []
    while sum(event["event"] == wanted for event in result) < count:
        line = program.stdout.readline()
        assert line, program.stderr.read()
        result.append(json.loads(line))
    return result


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def all_ended(pids: list[int], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all(map(ended, pids)):
        time.sleep(0.05)
    return all(map(ended, pids))


@pytest.fixture
def uninterrupted(quick, here) -> dict[str, str | None]:
    """The weights of a run that nobody disturbed, in a store of its own."""
    Path("x.toml").write_text(LONGER)
    assert quick("run", "x.toml", "--store", "calm", "--quiet").code == 0
    return weights(Store("calm"))


def rows(store: str, run_id: str) -> list[dict]:
    """The metric rows without what may differ: the clock and the attempt."""
    metrics = Store(store).record(run_id).metrics
    return [{key: value for key, value in row.items() if key not in ("seconds", "attempt")} for row in metrics]


@pytest.mark.nightly  # by day runs are killed one by one (run/test_run_one.py) and drivers (sweep/test_local.py)
@pytest.mark.parametrize("ways", [("worker", "driver"), ("interrupt", "worker", "driver")])
def test_killed_and_interrupted_runs_end_with_the_same_bits(uninterrupted, quick, here, ways):
    """kill -9 of a worker, of the driver, and Ctrl-C, each at a random moment; then the same command."""
    chance = random.Random(2)
    pids: list[int] = []
    for how in ways:
        program = start("x.toml", "--workers", "2")
        seen = events_until(program, "train", chance.randint(2, 6))
        pids += [event["pid"] for event in seen if event["event"] == "started"]
        if how == "worker":
            os.kill(pids[-1], signal.SIGKILL)
            program.send_signal(signal.SIGTERM)
        else:
            program.send_signal(signal.SIGKILL if how == "driver" else signal.SIGINT)
        _, err = program.communicate(timeout=60)
        assert program.returncode == {"worker": 143, "driver": -9, "interrupt": 130}[how], err
        assert "Traceback" not in err
        assert all_ended(pids)
    output = quick("run", "x.toml")
    assert output.code == 0, output.err
    assert weights(Store("runs")) == uninterrupted
    for run_id in uninterrupted:
        assert rows("runs", run_id) == rows("calm", run_id)


@pytest.mark.nightly
def test_two_drivers_share_the_work(uninterrupted, here):
    programs = [start("x.toml", "--workers", "1") for _ in range(2)]
    output = [program.communicate(timeout=240) for program in programs]
    assert [program.returncode for program in programs] == [0, 0], output
    assert weights(Store("runs")) == uninterrupted
    assert [record.result.attempts for record in Store("runs").records()] == [1, 1]


@pytest.mark.nightly
def test_the_code_may_be_edited_while_it_runs(quick, here):
    """A run keeps the code it was started with; edited code makes new runs."""
    good = FAILING.replace("progress.step == 2", "False")
    Path("mine.py").write_text(good)
    program = start("mine.py", "--workers", "1")
    events_until(program, "started", 1)
    Path("mine.py").write_text(good.replace("False", "(not True)"))
    out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    assert len(Store("runs").run_ids()) == 2
    output = quick("run", "mine.py")
    assert output.code == 0
    assert len(Store("runs").run_ids()) == 3  # the ltr arm is reused, the edited one is new


def test_every_arm_is_tuned_by_as_many_trials_before_it_runs(quick, here, monkeypatch):
    monkeypatch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])
    Path("x.toml").write_text(TUNED)
    output = quick("run", "x.toml", "--report")
    assert output.code == 0, output.err
    page = Path(output.out.splitlines()[-1]).read_text()
    assert "How a setting was chosen" in page
    assert page.count('<span class="badge">edge</span>') == 2
    assert "both was tuned to recipe.optimizer.learning_rate = 0.01, the edge of what was tried" in page
    assert "ltr at base: recipe.optimizer.learning_rate = 0.01, at the edge" in quick("show", "tiny").out
    store = Store("runs")
    entry, trials = store.entry("tiny"), store.experiment("tiny-tuning")
    assert {(choice.arm, choice.values, choice.chosen) for choice in entry.choices} == {
        ("ltr", (1e-9, 0.01), 0.01),
        ("both", (1e-9, 0.01), 0.01),
    }
    assert len(trials.runs) == 4
    for choice in entry.choices:
        scores = [store.record(run_id).result.score("tuning.ltr.nats_per_token") for run_id in choice.runs]
        assert list(choice.scores) == scores
        assert scores[1] < scores[0]
        assert all(set(store.record(run_id).result.scores) == {"tuning"} for run_id in choice.runs)
        assert f"{choice.arm} at base: recipe.optimizer.learning_rate = 0.01" in output.err
        assert "at the edge" in output.err
    for run in store.experiment("tiny").runs:
        assert run.record.spec["recipe"]["optimizer"]["learning_rate"] == 0.01
        assert set(run.result.scores) == {"validation"}
    selection = next(f for f in store.experiment("tiny").comparison.findings if f.check == "C5.selection")
    assert selection.numbers["trials_ltr"] == selection.numbers["trials_both"] == 2

    before, stored = weights(store), everything_in(Path("runs"))
    again = quick("run", "x.toml")
    assert (again.code, weights(store)) == (0, before)
    changed = {path for path, content in everything_in(Path("runs")).items() if content != stored.get(path)}
    assert not {path for path in changed if not path.endswith("index.json")}


def test_before_a_setting_is_chosen_nothing_is_said_of_the_arms(quick, here, monkeypatch):
    """The same experiment without its tuning was run before: those runs have the ids of the settings not yet chosen."""
    Path("x.toml").write_text(TUNED[: TUNED.index("[tuning]")])
    assert quick("run", "x.toml").code == 0
    Path("x.toml").write_text(TUNED)
    with monkeypatch.context() as trials_that_do_not_end:
        trials_that_do_not_end.setattr(run_experiment, "tuned", lambda *_: None)
        output = quick("run", "x.toml")
    for text in (output, quick("compare", "tiny")):
        assert "cannot tell" in text.out.splitlines()[0]
        assert "recipe.optimizer.learning_rate is not chosen yet" in text.out
        assert "Mean difference" not in text.out
    assert not any(run.result for run in Store("runs").experiment("tiny").runs)
    assert "not chosen yet" not in quick("run", "x.toml").out


def test_arms_whose_every_trial_fails_are_not_run(quick, here):
    Path("x.toml").write_text(TUNED.replace("values = [1e-9, 0.01]", "values = [1e30, 1e31]"))
    output = quick("run", "x.toml")
    assert output.code == 2
    assert "no trial of arm 'ltr' at scale base came to a score" in output.err
    assert not any(run.record for run in Store("runs").experiment("tiny").runs)


def test_what_has_no_direction_cannot_write(quick):
    Path("x.toml").write_text(NO_DIRECTION)
    assert quick("run", "x.toml").code == 0
    runs = {run.arm: run.run_id for run in Store("runs").experiments()[0].runs}
    assert quick("sample", runs["ltr"], "--text", "the ", "--tokens", "2").code == 0
    before = everything_in(Path())
    output = quick("sample", runs["masked"], "--text", "the ", "--tokens", "2")
    assert (output.code, output.out) == (2, "")
    (line,) = output.err.splitlines()
    assert all(name in line for name in (runs["masked"], "objective", "'masked'", "no reading direction"))
    assert everything_in(Path()) == before


REFUSED = {
    'recipe.optimizer.rates=[{role = "fliter", learning_rate = 0.001}]': "x.toml: recipe.optimizer.rates: ",
    'data.corpus="nothing.txt"': "nothing.txt: data.corpus: ",
}


def test_a_refused_run_leaves_the_entry_of_a_finished_experiment_alone(quick):
    Path("x.toml").write_text(TOML)
    assert quick("run", "x.toml", "--workers", "1").code == 0
    before = everything_in(Path("runs"))
    for change, message in REFUSED.items():
        for command in (("plan", "x.toml", "--no-measure"), ("run", "x.toml")):
            refused = quick(*command, "--set", change)
            assert refused.code == 2
            assert refused.err.startswith(message)
            assert len(refused.err.splitlines()) == 1
    assert everything_in(Path("runs")) == before


def test_other_runs_under_the_same_name_are_said_and_kept(quick):
    Path("x.toml").write_text(ONE_SEED)
    assert quick("run", "x.toml", "--workers", "1").code == 0
    first = weights(Store("runs"))
    more = quick("run", "x.toml", "--workers", "1", "--seeds", "1,2")
    assert (more.code, "other runs" in more.err) == (0, False)
    other = quick("run", "x.toml", "--workers", "1", "--seeds", "2,3")
    assert other.code == 0
    assert "tiny--default had 2 other runs, of `palinode run x.toml --workers 1 --seeds 1,2`" in other.err
    assert first.items() <= weights(Store("runs")).items()


@pytest.mark.parametrize("width", [10**6, 10**9])  # terabytes, and more bytes than 64 bits count
def test_a_model_beyond_the_machines_memory_is_refused_before_it_is_made(quick, width):
    Path("x.toml").write_text(TOML)
    for command in (("plan", "x.toml", "--no-measure"), ("run", "x.toml")):
        output = quick(*command, "--set", f"model.width={width}")
        assert output.code == 5
        assert output.err.startswith("model: ")
        assert "to train, and this machine has" in output.err
    assert not Path("runs").exists()


OWN = (
    FAILING.replace("class Breaks", "GAIN = 2\n\n\ndef helper():\n    return GAIN  # why\n\n\nclass Breaks")
    .replace('raise RuntimeError("this idea does not work")', "helper()")
    .replace("steps=3", "steps=1")
)


def test_a_comment_trains_nothing_and_a_changed_name_is_said(quick, here):
    Path("own.py").write_text(OWN)
    output = quick("run", "own.py")
    assert output.code == 0, output.err
    before = weights(Store("runs"))
    Path("own.py").write_text(OWN.replace("# why", "# because").replace('question="?"', 'question="Does it help?"'))
    output = quick("run", "own.py")
    assert output.code == 0
    assert "0 of 2 runs to do" in output.err
    assert "changed" not in output.err
    Path("own.py").write_text(OWN.replace("GAIN = 2", "GAIN = 3"))
    output = quick("run", "own.py")
    assert output.code == 0
    assert "runs have new ids, as code of own.py changed: user:Breaks (GAIN)" in output.err.splitlines()
    assert len(weights(Store("runs"))) == len(before) + 1  # the arm without code of the user is not trained again


def test_an_interrupt_during_audits_says_what_the_next_start_does(quick, here, monkeypatch):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(audits, "audit_arm", interrupted)
    Path("x.toml").write_text(ONE_SEED)
    for command, then in (("run", "makes the others and then trains"), ("audit", "makes the others")):
        output = quick(command, "x.toml")
        assert output.code == 130
        assert f"the audits that were finished are kept; the same command {then}" in output.err.splitlines()[-1]


@pytest.mark.parametrize("command", ["plan", "audit", "run"])
def test_a_store_that_cannot_be_written_is_said_before_anything_is_measured(quick, here, command):
    Path("x.toml").write_text(ONE_SEED)
    output = quick(command, "x.toml", "--store", "/proc/runs")  # nobody can make a file there, not even root
    assert output.code == 5
    [line] = output.err.splitlines()
    assert line.startswith("/proc: --store: cannot be written")
