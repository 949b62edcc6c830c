"""Workers alone bring an experiment to its end: the first that takes the hold decides what one driver would decide for all.

No model is trained: the sweep of a host writes results whose scores the test gives.
"""

import shutil
import threading
from pathlib import Path

import pytest
import quick_audit
from test_seeds_and_looks import GAINS, RULE, Machine
from tiny_experiment import TOML

from palinode.base import fsio
from palinode.experiment import audits, plan, run
from palinode.results.holds import take
from palinode.results.store import Store
from palinode.sweep import host
from palinode.sweep.host import HostOptions, work
from palinode.sweep.local import SweepEnd

UNTIL = TOML.replace("seeds = [1, 2]", 'seeds = "until decided"').replace('baseline = "ltr"', RULE)
UNTIL = UNTIL.replace('split = "contiguous"', 'split = "contiguous"\ntuning_fraction = 0.1')
TUNED = UNTIL + "\n[tuning]\nvalues = [0.001, 0.01]\n"
NAME = "tiny--default"


class Hosts(Machine):
    """Stands for the sweeps of a driver and of hosts: a run that a host may take gets its result under a hold.

    Attributes:
        trained: the ids of the runs, each as often as a host has trained it.
    """

    trained: list[str]

    def sweep_shared(self, jobs, store, sharing, **_) -> SweepEnd:
        outcomes = {}
        for job in jobs:
            if sharing.may_start(job) and (hold := take(job.directory)) is not None:
                with hold:
                    if store.ended(job.run_id) is None:
                        result = self.result(job.run_id, store.record(job.run_id).spec)
                        store.write_result(result)
                        self.trained.append(job.run_id)
                        outcomes[job.run_id] = result.outcome
        return SweepEnd(outcomes, frozenset(), None)

    def result(self, run_id, spec):
        result = super().result(run_id, spec | {"seed": spec["seed"] or 1})
        if result.outcome == "failed" or spec["evaluation"]["split"] != "tuning":
            return result
        nats = 1.0 + abs(spec["recipe"]["optimizer"]["learning_rate"] - 0.01)
        return result.with_(scores={"tuning": {"ltr": {"nats_per_token": nats}}})


@pytest.fixture
def hosts(palinode, monkeypatch) -> Hosts:
    monkeypatch.setenv("PALINODE_NURSERY", "off")
    monkeypatch.setattr(audits, "audit_arm", quick_audit.quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", quick_audit.no_audit_ahead)
    monkeypatch.setattr(plan, "calibrate", quick_audit.quick_calibrate)
    monkeypatch.setattr(host, "PAUSES_SECONDS", (0.05,))
    hosts = Hosts(dict(GAINS))
    hosts.trained = []
    monkeypatch.setattr(run, "sweep", hosts.sweep)
    monkeypatch.setattr(host, "sweep_shared", hosts.sweep_shared)
    Path("x.toml").write_text(UNTIL)
    return hosts


def in_the_end(store: str) -> tuple:
    """What does not depend on when and by whom it was done."""
    place = Store(store)
    entry = place.entry(NAME)
    looks = [(look.seeds, look.outcomes) for look in place.looks(entry).rows]
    return entry.with_(created="", command=(), plan={}), looks, len(place.seals(entry).rows)


def two_workers(store: Store, told: list[str]) -> list[int]:
    codes: list[int] = []

    def one() -> None:
        def decide(name: str) -> bool:
            return run.decide(name, store, lambda event: told.append(event["event"]), allow_code=False)

        codes.append(work(store, HostOptions(slots=1, decide=decide)))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


@pytest.mark.parametrize("text", [UNTIL, TUNED], ids=["seeds until decided", "tuning, then seeds until decided"])
def test_two_workers_end_where_the_driver_ends(palinode, hosts, text):
    Path("x.toml").write_text(text)
    assert palinode("run", "x.toml", "--store", "driven").code == 0
    output = palinode("run", "x.toml", "--store", "shared", "--detach")
    assert output.code == 0, output.err
    assert Store("shared").plan_path(NAME).exists()
    told: list[str] = []
    assert two_workers(Store("shared"), told) == [0, 0]
    assert in_the_end("shared") == in_the_end("driven")
    assert len(hosts.trained) == len(set(hosts.trained)) == len(Store("driven").run_ids())
    assert not Store("shared").plan_path(NAME).exists()
    assert told.count("choice") == (6 if text == TUNED else 0)  # of two arms, by each of the three decisions
    assert (
        palinode("watch", "tiny", "--store", "shared").out == f"{len(Store('shared').entry(NAME).runs)} done, 0 open\n"
    )


def test_a_worker_of_the_command_line_decides_and_says_so(palinode, hosts):
    assert palinode("run", "x.toml", "--detach").code == 0
    output = palinode("worker")
    assert output.code == 0
    assert "look at 3 seeds: 0 of 1 verdicts need no more seeds; seed 4 is next" in output.err
    assert f"{NAME}: all is decided, `palinode compare {NAME}` shows it" in output.err
    assert Store("runs").entry("tiny").seeds == (1, 2, 3, 4)


def test_nobody_decides_while_the_driver_or_another_worker_holds_the_decisions(palinode, hosts):
    palinode("run", "x.toml", "--detach")
    store = Store("runs")
    with take(store.decisions(NAME)):
        assert palinode("worker", "--for", "1s").code == 0
        assert store.entry("tiny").comparison == ""
    assert palinode("watch", "tiny", "--once").out == "6 done, 0 open; a worker decides what comes next\n"
    assert palinode("worker", "--for", "60s").code == 0
    assert store.entry("tiny").seeds == (1, 2, 3, 4)


def test_nothing_is_decided_before_a_failed_run_was_tried_on_another_host(palinode, hosts):
    hosts.fails = {2}
    palinode("run", "x.toml", "--detach")
    store = Store("runs")
    assert palinode("worker").code == 1
    assert store.plan_path(NAME).exists()
    assert store.entry("tiny").comparison == ""


def test_a_stopped_experiment_is_not_decided(palinode, hosts):
    palinode("run", "x.toml", "--detach")
    store = Store("runs")
    one = host._Host(store, HostOptions(slots=1, decide=lambda name: False), print, print)
    hosts.sweep_shared(
        [found.job for found in one.open.values()], store, host.Sharing(lambda job: True, None, one.watch)
    )
    one._find_open()
    assert one.undecided == [NAME]
    palinode("stop", "tiny")
    one._find_open()
    assert one.undecided == []


def test_a_decision_of_another_numerics_version_is_left(palinode, hosts):
    palinode("run", "x.toml", "--detach")
    store = Store("runs")
    fsio.write_table(store.plan_path(NAME), {**fsio.read_table(store.plan_path(NAME)), "numerics_version": 99})
    output = palinode("worker")
    assert "numerics version 99 decides, and this host has" in output.err
    assert store.plan_path(NAME).exists()


def test_a_decision_that_is_impossible_is_told_once_and_left(palinode, hosts):
    Path("x.toml").write_text(TUNED)
    palinode("run", "x.toml", "--detach")
    shutil.rmtree("runs/audits")
    Path("text.txt").unlink()
    output = palinode("worker")
    assert output.code in (1, 5), output.err
    assert "text.txt" in output.err


def test_changed_settings_leave_nothing_of_the_earlier_runs_to_workers(palinode, hosts):
    palinode("run", "x.toml", "--detach")
    store = Store("runs")
    before = {one.run_id for one in store.queue(store.entry("tiny"))}
    for how in ((), ("--detach",)):
        assert palinode("run", "x.toml", "--set", "recipe.steps=3", *how).code == 0
        now = {one.run_id for one in store.queue(store.entry("tiny"))}
        assert not before & now
        assert not store.plan_path(NAME).exists()
