"""`palinode run` with seeds that are added until every verdict is decided, with seals and looks, and with a limit of time.

No model is trained: the sweep writes results whose scores the test gives.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import quick_audit
from tiny_experiment import TOML, everything_in

from palinode.analysis.deviations import deviations
from palinode.experiment import audits, plan, run
from palinode.results.record import Result
from palinode.results.store import Store
from palinode.sweep.local import SweepEnd

RULE = 'baseline = "ltr"\nsmallest_effect = 0.05\nlooks = { first = 3, most = 6 }'
UNTIL = TOML.replace("seeds = [1, 2]", 'seeds = "until decided"').replace('baseline = "ltr"', RULE)
FIXED = TOML.replace("seeds = [1, 2]", "seeds = [1, 2, 3]").replace('baseline = "ltr"', RULE)
GAINS = {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.2, 5: 0.2, 6: 0.2}  # 3 seeds cannot tell, 4 seeds are better


class Machine:
    """Stands for the sweep: a run has the loss 2, less the gain of its seed if it has the objective `both`.

    Attributes:
        left: the number of runs before the machine is switched off; None: it stays on.
        fails: the seeds whose runs fail.
        late: the seeds whose runs are not started in time.
    """

    def __init__(self, gains: dict[int, float]):
        self.gains, self.left, self.fails, self.late = gains, None, set(), set()
        self.seconds: list[float] = []

    def sweep(self, jobs, store, *, on_event, deadline, **_) -> SweepEnd:
        outcomes, reused, late = {}, set(), set()
        for job in jobs:
            spec = store.record(job.run_id).spec
            self.seconds.append(job.seconds)
            if (result := store.ended(job.run_id)) is not None:
                reused.add(job.run_id)
            elif deadline is not None and spec["seed"] in self.late:
                late.add(job.run_id)
                continue
            elif self.left == 0:
                raise KeyboardInterrupt
            else:
                self.left = None if self.left is None else self.left - 1
                result = self.result(job.run_id, spec)
                store.write_result(result)
            outcomes[job.run_id] = result.outcome
        return SweepEnd(outcomes, frozenset(reused), None, frozenset(late))

    def result(self, run_id: str, spec) -> Result:
        if spec["seed"] in self.fails:
            return Result(run_id=run_id, outcome="failed", reason="planned")
        gain = self.gains[spec["seed"]] if spec["objective"]["kind"] == "both" else 0.0
        scores = {"validation": {"ltr": {"nats_per_token": 2 - gain + 0.01 * spec["seed"]}}}
        return Result(run_id=run_id, outcome="done", scores=scores, seconds={"total": 3.0}, parameters={"total": 7648})


@pytest.fixture
def machine(palinode, monkeypatch) -> Machine:
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(plan, "calibrate", quick_audit.quick_calibrate)
    machine = Machine(dict(GAINS))
    monkeypatch.setattr(run, "sweep", machine.sweep)
    return machine


def looks(store: str = "runs") -> list[tuple[tuple[int, ...], str]]:
    place = Store(store)
    return [(look.seeds, look.outcomes[0].outcome) for look in place.looks(place.entry("tiny")).rows]


def test_seeds_are_added_until_every_verdict_is_decided(palinode, machine):
    Path("x.toml").write_text(UNTIL)
    output = palinode("run", "x.toml")
    assert output.code == 0, output.err
    assert output.err.splitlines()[0] == "x.toml: 2 arms, 1 scale, seeds until decided (ltr, both)"
    assert looks() == [((1, 2, 3), "cannot tell"), ((1, 2, 3, 4), "better")]
    assert "look at 3 seeds: 0 of 1 verdicts need no more seeds; seed 4 is next" in output.err
    entry = Store("runs").entry("tiny")
    assert (entry.seeds_planned, entry.seeds, entry.looks_taken, entry.first_seeds) == (
        "until decided",
        (1, 2, 3, 4),
        1,
        3,
    )
    assert not entry.seeds_added_after_a_look
    assert len(entry.runs) == 8
    before = everything_in(Path("runs"))
    assert palinode("run", "x.toml").code == 0
    assert palinode("run", "runs/experiments/tiny--default.json").code == 0
    assert everything_in(Path("runs")) == before
    [seal] = Store("runs").seals(entry).rows
    assert (seal.seeds, seal.looks) == (tuple(range(1, 7)), {"first": 3, "most": 6})
    assert deviations(Store("runs").experiment("tiny"), [seal], Store("runs").looks(entry).rows) == ()


@pytest.mark.parametrize(
    "runs", [one if one % 3 == 1 else pytest.param(one, marks=pytest.mark.nightly) for one in range(9)]
)
def test_killed_and_started_again_it_comes_to_the_same_end(palinode, machine, runs):
    Path("x.toml").write_text(UNTIL)
    machine.left = runs
    assert palinode("run", "x.toml", "--quiet").code == (130 if runs < 8 else 0)
    if runs >= 6:  # the seed that is trained is not in the entry before all its runs have ended
        assert Store("runs").entry("tiny").seeds == ((1, 2, 3) if runs < 8 else (1, 2, 3, 4))
    machine.left = None
    assert palinode("run", "x.toml", "--quiet").code == 0
    assert looks() == [((1, 2, 3), "cannot tell"), ((1, 2, 3, 4), "better")]
    entry = Store("runs").entry("tiny")
    assert (entry.seeds, entry.looks_taken, len(Store("runs").seals(entry).rows)) == ((1, 2, 3, 4), 1, 1)


@pytest.mark.nightly
def test_real_runs_are_killed_and_come_to_the_same_end(here):
    """The program is killed after 3, 6, 9 seconds and so on, until it ends by itself."""
    program = [sys.executable, str(Path(quick_audit.__file__)), "run", "x.toml", "--workers", "2", "--quiet"]
    Path("x.toml").write_text(UNTIL.replace("most = 6", "most = 4").replace("steps = 4", "steps = 40"))
    assert subprocess.run([*program, "--store", "calm"], timeout=300).returncode == 0
    for seconds in range(1, 60):
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert subprocess.run(program, timeout=3 * seconds).returncode == 0
            break
    calm, disturbed = Store("calm"), Store("runs")
    assert calm.entry("tiny").runs == disturbed.entry("tiny").runs
    seen = [
        [(look.seeds, look.outcomes) for look in store.looks(store.entry("tiny")).rows] for store in (calm, disturbed)
    ]
    assert seen[0] == seen[1]
    weights = [{one.run_id: one.result.weights_sha256 for one in store.records()} for store in (calm, disturbed)]
    assert weights[0] == weights[1]


def test_it_ends_at_the_largest_number_of_seeds(palinode, machine):
    machine.gains = {seed: 0.3 * (-1) ** seed for seed in range(1, 7)}
    Path("x.toml").write_text(UNTIL)
    output = palinode("run", "x.toml")
    assert output.code == 0
    assert [len(seeds) for seeds, _ in looks()] == [3, 4, 5, 6]
    assert {outcome for _, outcome in looks()} == {"cannot tell"}


def test_a_failed_run_is_not_waited_for_with_more_seeds(palinode, machine):
    machine.fails = {2}
    Path("x.toml").write_text(UNTIL)
    output = palinode("run", "x.toml")
    assert output.code == 1
    assert "2 runs failed: the same command tries them again" in output.err
    assert Store("runs").entry("tiny").seeds == (1, 2, 3)
    machine.fails = set()
    assert palinode("run", "x.toml").code == 0
    assert looks()[-1] == ((1, 2, 3, 4), "better")


def test_seeds_added_after_a_look_are_recorded_and_sealed(palinode, machine):
    Path("x.toml").write_text(FIXED)
    first = palinode("run", "x.toml")
    entry = Store("runs").entry("tiny")
    assert f"seal 1 of tiny--default: {Store('runs').seals(entry).rows[0].sha256}" in first.err
    assert (entry.seeds_planned, entry.looks_taken, entry.seeds_added_after_a_look) == ("fixed", 0, False)
    assert palinode("run", "x.toml", "--seeds", "5").code == 0
    store = Store("runs")
    entry = store.entry("tiny")
    assert (entry.looks_taken, entry.first_seeds, entry.seeds_added_after_a_look) == (1, 3, True)
    seals, seen = store.seals(entry).rows, store.looks(entry).rows
    assert [seal.seeds for seal in seals] == [(1, 2, 3), (1, 2, 3, 4, 5)]
    assert seals[1].runs_ended == 6
    assert deviations(store.experiment("tiny"), seals, seen) == ("seeds 4, 5 were added after 1 look",)
    Path("x.toml").write_text(FIXED.replace("0.05", "0.07"))
    assert palinode("run", "x.toml", "--seeds", "5").code == 0
    lines = deviations(store.experiment("tiny"), store.seals(entry).rows, seen)
    assert lines[-1] == "decision.smallest_effect was 0.05 in the sealed plan, and is now 0.07"


@pytest.mark.parametrize("text", [FIXED, UNTIL])
def test_extend_adds_seeds_as_run_does_without_the_file(palinode, machine, text):
    Path("x.toml").write_text(text)
    for store in ("runs", "other"):
        assert palinode("run", "x.toml", "--store", store).code == 0
    assert palinode("run", "x.toml", "--store", "other", "--seeds", "5").code == 0
    Path("x.toml").unlink()
    told = palinode("extend", "tiny", "--seeds", "5")
    assert told.code == 0, told.err
    assert told.err.splitlines()[0] == f"tiny--default has 5 seeds, new: {'4, 5' if text == FIXED else '5'}"
    seen = []
    for place in (Store("runs"), Store("other")):
        entry = place.entry("tiny")
        seals, rows = place.seals(entry).rows, place.looks(entry).rows
        taken = (entry.seeds, entry.runs, entry.seeds_planned, entry.looks_taken, entry.seeds_added_after_a_look)
        plans = [
            (seal.seeds, seal.seeds_planned, seal.settings, seal.code, seal.decision, seal.looks) for seal in seals
        ]
        seen.append((taken, plans, [(row.seeds, row.outcomes) for row in rows]))
        assert deviations(place.experiment("tiny"), seals, rows)[-1].startswith("seed")
    assert seen[0] == seen[1]
    before = everything_in(Path("runs"))
    for again in ("5", "4,5"):
        told = palinode("extend", "tiny", "--seeds", again)
        assert (told.code, told.err.splitlines()[0]) == (0, "tiny--default has 5 seeds already")
    assert everything_in(Path("runs")) == before


def test_extend_refuses_seeds_that_add_nothing_or_too_much(palinode, machine):
    Path("x.toml").write_text(UNTIL)
    assert palinode("run", "x.toml").code == 0
    before = everything_in(Path("runs"))
    for seeds, line in {
        "3": "--seeds: 3 is less than the 4 seeds that there are",
        "4": "--seeds: adds no seed to 1, 2, 3, 4, which are added until every verdict is decided",
        "1,2": "--seeds: adds no seed to 1, 2, 3, 4, which are added until every verdict is decided",
        "no": "--seeds: 'no' is not a list of seeds (such as 1,2,3, or a number of seeds)",
        "-3": "--seeds: -3 is not a number of seeds",
        "7,7": "--seeds: seed 7 is given twice",
        "700": "seeds: 1,400 runs are more than 1,000 (add --yes to run them anyway)",
    }.items():
        told = palinode("extend", "tiny", f"--seeds={seeds}")
        assert (told.code, told.out, told.err) == (2, "", f"{line}\n")
    assert everything_in(Path("runs")) == before


def test_looks_at_other_settings_do_not_count(palinode, machine):
    Path("x.toml").write_text(FIXED)
    assert palinode("run", "x.toml", "--set", "recipe.steps=2", "--seeds", "2").code == 0
    assert palinode("run", "x.toml").code == 0
    assert Store("runs").entry("tiny").looks_taken == 0
    assert [seal.number for seal in Store("runs").seals(Store("runs").entry("tiny")).rows] == [1, 2]


def test_a_finished_experiment_of_an_older_version_was_looked_at(palinode, machine):
    Path("x.toml").write_text(FIXED)
    assert palinode("run", "x.toml").code == 0
    for path in Path("runs/experiments").glob("*.jsonl"):
        path.unlink()
    assert palinode("run", "x.toml", "--seeds", "4").code == 0
    entry = Store("runs").entry("tiny")
    assert (entry.looks_taken, entry.first_seeds) == (1, 3)
    assert Store("runs").seals(entry).rows[0].runs_ended == 6


def test_a_damaged_seal_stops_a_run_and_a_torn_one_is_said(palinode, machine):
    Path("x.toml").write_text(FIXED)
    assert palinode("run", "x.toml").code == 0
    path = Path("runs/experiments/tiny--default.seals.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    assert "the last line was written only in part" in palinode("run", "x.toml").err
    path.write_bytes(whole.replace(b'"seeds":[1,2,3]', b'"seeds":[1,2,4]'))
    output = palinode("run", "x.toml", "--quiet")
    assert output.code == 4
    assert output.err.strip() == "runs/experiments/tiny--default.seals.jsonl: line 1: is damaged"


OPENED: list[str] = []
WATCHED: list[bool] = []


def note_writes(event: str, arguments) -> None:
    if not WATCHED or event != "open" or not isinstance(arguments[0], str) or not isinstance(arguments[2], int):
        return
    if arguments[2] & (os.O_WRONLY | os.O_RDWR) and "/runs/" in str(Path(arguments[0]).absolute()):
        OPENED.append(arguments[0])


def test_compare_and_report_write_nothing_into_the_store(palinode, machine):
    Path("x.toml").write_text(UNTIL)
    assert palinode("run", "x.toml").code == 0
    before = everything_in(Path("runs"))
    sys.addaudithook(note_writes)
    WATCHED.append(True)
    try:
        for command in (("compare", "tiny"), ("compare", "tiny", "--json"), ("report", "tiny", "--out", "page")):
            output = palinode(*command)
            assert output.code == 0, output.err
        Path("runs/canary").write_text("")
    finally:
        WATCHED.clear()
    assert [Path(path).name for path in OPENED] == ["canary"]
    Path("runs/canary").unlink()
    assert everything_in(Path("runs")) == before


def test_a_run_with_hours_stops_in_time_and_says_how_to_go_on(palinode, machine):
    Path("x.toml").write_text(UNTIL)
    machine.late = {4}
    output = palinode("run", "x.toml", "--hours", "0.5")
    assert output.code == 143
    assert "2 of 8 runs were not started, each of about 0.00083 hours" in output.err
    assert (
        output.err.splitlines()[-1] == "stopped in time: 2 runs left; the same command continues where this one stopped"
    )
    assert "cannot tell" in output.out.splitlines()[0]  # what 3 seeds say
    assert set(machine.seconds) == {1.0, 3.0}  # predicted before the first run of a cell has ended, then as measured
    machine.late = set()
    assert palinode("run", "x.toml").code == 0
    assert looks() == [((1, 2, 3), "cannot tell"), ((1, 2, 3, 4), "better")]


def test_a_smallest_effect_of_0_is_said(palinode, machine):
    said = 'decision.smallest_effect is 0: "smaller than matters" cannot be said'
    Path("x.toml").write_text(TOML)
    assert said in palinode("run", "x.toml").err.splitlines()
    assert said in palinode("plan", "x.toml").out.splitlines()
    Path("x.toml").write_text(FIXED)
    assert said not in palinode("run", "x.toml").err + palinode("plan", "x.toml").out


def test_plan_takes_its_noise_from_the_store_and_gives_the_seeds_for_an_effect(palinode, machine):
    sizes = '\n[sizes.wide]\nchange = { "model.width" = 32 }\n'
    Path("x.toml").write_text(FIXED + sizes)
    unknown = palinode("plan", "x.toml").out
    assert "noise: not known" in unknown
    assert "3 seeds show an effect of 3.26 sd in 4 of 5 cases" in unknown
    assert palinode("run", "x.toml").code == 0
    Path("next.toml").write_text(FIXED.replace('"tiny"', '"next"') + sizes)
    output = palinode("plan", "next.toml", "--hours", "0.01", "--workers", "1")
    assert output.code == 0, output.err
    assert (
        "noise: sd of a paired difference 0.1, from 2 degrees of freedom in tiny--default; planned with 0.212"
        in output.out
    )
    assert "3 seeds show an effect of 0.691 in 4 of 5 cases" in output.out
    assert "143 seeds show 0.05 in 4 of 5 cases: about 14 min" in output.out
    assert "within 0.01 hours no size is known to show 0.05" in output.out
    assert "with 18 seeds" in output.out
    data = json.loads(palinode("plan", "next.toml", "--hours", "1", "--effect", "0.5", "--workers", "1", "--json").out)
    assert (data["power"]["effect"], data["power"]["seeds_needed"]) == (0.5, 4)
    assert data["within"]["chosen"] == "wide"
    own_scales = FIXED.replace('"tiny"', '"own"') + '\n[[scales]]\nname = "small"\n[[scales]]\nname = "wide"\n'
    own_scales += '[scales.change]\n"model.width" = 32\n[sizes.a]\nscales = ["small"]\n[sizes.b]\nscales = ["wide"]\n'
    Path("own.toml").write_text(own_scales)  # without --size this experiment cannot be resolved
    own = palinode("plan", "own.toml", "--hours", "1", "--effect", "0.5", "--json")
    assert list(json.loads(own.out)["within"]["sizes"]) == ["a", "b"], own.err
    piloted = json.loads(palinode("plan", "next.toml", "--pilot", "tiny", "--json").out)
    assert piloted["power"]["scales"][0]["noise"]["source"] == ["tiny--default"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("run", "x.toml", "--hours", "0"), "--hours: must be a number above 0, got 0"),
        (("plan", "x.toml", "--hours", "-2"), "--hours: must be a number above 0, got -2"),
        (("plan", "x.toml", "--effect", "nan"), "--effect: must be a number above 0, got nan"),
        (("plan", "x.toml", "--pilot", "nobody"), "--pilot: no experiment 'nobody' in runs"),
    ],
)
def test_wrong_options_are_named(palinode, machine, command, message):
    Path("x.toml").write_text(TOML)
    output = palinode(*command)
    assert (output.code, output.out) == (2, "")
    [line] = output.err.splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("most = 6", "most = 41", "x.toml: decision.looks.most: "),
        ("most = 6", "most = 2", "x.toml: decision.looks.most: 2 is less than the first look at 3 seeds"),
        ("first = 3", "first = 2", "x.toml: decision.looks.first: "),
        (
            '"until decided"',
            '"until decidd"',
            "x.toml: seeds: must be a list of seeds or 'until decided', got 'until decidd'",
        ),
        ('"until decided"', "[1, 1]", "x.toml: seeds: seed 1 is given twice"),
    ],
)
def test_wrong_looks_and_seeds_are_named(palinode, machine, old, new, message):
    Path("x.toml").write_text(UNTIL.replace(old, new))
    for command in ("run", "plan"):
        output = palinode(command, "x.toml")
        assert output.code == 2
        [line] = output.err.splitlines()
        assert line.startswith(message), line
