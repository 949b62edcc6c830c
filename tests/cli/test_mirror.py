"""`palinode mirror`: each number of each run reaches the tracker once, and a tracker that fails or hangs is left behind.

TensorBoard and W&B are the real packages, except where a test needs one that fails.
"""

import json
import os
import signal
import struct
import threading
from pathlib import Path

import pytest

import palinode
from palinode.cli import mirror as command
from palinode.mirror import sender
from palinode.mirror.mirror import Mirror
from palinode.mirror.sent import Sent
from palinode.mirror.tracker import folder_name
from palinode.results.holds import locked
from synthetic_store import Synthetic, make_store

SMALL = Synthetic(seeds=(1,), steps=200)


@pytest.fixture
def store(here):
    return make_store(Path("runs"), SMALL)


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of each event, as TensorBoard itself reads the folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def expected(store, run_id) -> dict[str, list[tuple[int, float]]]:
    """The same from `palinode.read`: all numbers but those in lists, and the counters of the rows of training alone."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in palinode.read(run_id, store).iter_rows(named=True):
        kind = "/".join(part for part in (row["event"], row["split"]) if part)
        if row["name"] != "attempt" and (row["event"] == "train" or "." in row["name"]):
            found.setdefault(f"{kind}/{row['name']}", []).append((row["step"], row["value"]))
    return found


def in_float32(values: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, struct.unpack("f", struct.pack("f", value))[0]) for step, value in values]


def test_tensorboard_gets_every_number_once(palinode, store):
    told = palinode("mirror", "runs", "--to", "tensorboard")
    assert told.code == 0, told.err
    assert told.out.splitlines()[-1] == "look:  tensorboard --logdir mirror/tensorboard"
    assert "demo--laptop, ltr, base, seed 1: done" in told.err
    folder = Path("mirror/tensorboard/demo--laptop")
    for run in store.entry("demo").runs:
        seen, wanted = scalars(folder / run.arm / "base" / "seed-1"), expected(store, run.run_id)
        in_columns = {f"train/{name}" for name in ("seconds", "tokens_read", "train_flops")}
        numbers = {tag: values for tag, values in seen.items() if tag not in in_columns}
        assert numbers == {tag: in_float32(values) for tag, values in wanted.items()}
        assert in_columns <= seen.keys()
        assert seen["eval/validation/scores.ltr.nats_per_token"][-1][0] == SMALL.steps
    before = sorted(path.stat().st_size for path in folder.rglob("events*"))
    again = palinode("mirror", "runs", "--to", "tensorboard")
    assert (again.code, again.out.splitlines()[0]) == (0, "nothing new for mirror/tensorboard")
    assert sorted(path.stat().st_size for path in folder.rglob("events*")) == before


def test_what_a_run_writes_later_is_sent_later_and_a_second_experiment_has_the_shared_run(palinode, here):
    store = make_store(Path("runs"), Synthetic(seeds=(1,), outcomes={("both", "base", 1): "unfinished"}))
    run = next(run for run in store.entry("demo").runs if run.arm == "both")
    folder = Path("mirror/tensorboard/demo--laptop/both/base/seed-1")
    assert palinode("mirror", "runs", "--to", "tensorboard", "--quiet").code == 0
    first = scalars(folder)["train/nats_by_group.ltr"]
    assert first[-1][0] == 300
    row = {"event": "train", "attempt": 1, "seconds": 9.0, "nats_by_group": {"ltr": 0.5}}
    for step in (300, 350):  # the first is of an attempt that goes on from before it
        store.append_metrics(run.run_id, {**row, "step": step})
    entry = store.entry("demo")
    store.write_experiment(entry.with_(name="second", runs=(run,), arms=entry.arms[:2], audits={}, comparison=""))
    assert palinode("mirror", "runs", "--to", "tensorboard", "-q").out == ""
    assert scalars(folder)["train/nats_by_group.ltr"] == [*first, (350, 0.5)]
    assert (
        len(scalars("mirror/tensorboard/second--laptop/both/base/seed-1")["train/nats_by_group.ltr"]) == len(first) + 1
    )


def test_follow_ends_with_the_experiment_and_at_ctrl_c(palinode, store, monkeypatch):
    output = palinode("mirror", "runs", "--to", "tensorboard", "--experiment", "demo", "--follow")
    assert (output.code, "of 3 runs sent" in output.out) == (0, True), output.err
    before = signal.getsignal(signal.SIGTERM)
    looks = []

    def interrupted(self, **_):
        looks.append(1)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Mirror, "look", interrupted)
    assert palinode("mirror", "runs", "--to", "tensorboard", "--follow").code == 143
    assert (len(looks), signal.getsignal(signal.SIGTERM)) == (1, before)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("nowhere", "--to", "tensorboard"), "nowhere: there is no results store here"),
        (("runs",), "palinode mirror: Missing option '--to'."),
        (
            ("runs", "--to", "tensorbord"),
            "--to: 'tensorbord' is none of tensorboard, wandb (did you mean 'tensorboard'?)",
        ),
        (("runs", "--to", "tensorboard", "--online"), "--online: is an option of --to wandb"),
        (("runs", "--to", "wandb", "--experiment", "dmo"), "NAME: no experiment 'dmo' in runs (did you mean 'demo'?)"),
        (("runs", "--to", "tensorboard", "--dir", "text.txt"), "text.txt: --dir: is not a directory"),
        (
            ("runs", "--to", "tensorboard", "--dir", "runs/tb"),
            "runs/tb: --dir: lies in the store (name a directory outside)",
        ),
    ],
)
def test_bad_input_is_one_line(palinode, store, arguments, line):
    before = set(Path().rglob("*"))
    told = palinode("mirror", *arguments)
    assert (told.code, told.out) == (2, "")
    [only] = told.err.splitlines()
    assert only.startswith(line)
    assert set(Path().rglob("*")) == before


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(palinode, store, monkeypatch):
    Path("wandb").mkdir()  # what W&B writes is no package
    monkeypatch.syspath_prepend(str(Path.cwd()))
    for tracker in ("tensorboard", "wandb"):
        monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
        monkeypatch.delitem(command.sys.modules, tracker, raising=False)
        told = palinode("mirror", "runs", "--to", tracker)
        assert told.code == 5
        assert told.err == f"--to: {tracker} is not installed (`pip install 'palinode[{tracker}]'`)\n"


def test_two_mirrors_into_one_directory_are_refused(palinode, store):
    Path("there").mkdir()
    with locked(Path("there")):
        told = palinode("mirror", "runs", "--to", "tensorboard", "--dir", "there")
    assert told.code == 2
    assert told.err == "there: --dir: another process mirrors into this directory\n"


def test_names_of_a_stranger_lead_nowhere():
    names = ["../../out", "/etc", "a:b", "a/b", "..", ".", "", "a" * 300, "a" * 301, "\ud800", "-x", "a\n", "_etc"]
    folders = [folder_name(name) for name in names]
    for folder in folders:
        assert Path("here", folder).resolve().parent == Path("here").resolve()
        assert len(os.fsencode(folder)) < 255
    assert len(set(folders)) == len(names)
    assert [folder_name(name) for name in ("both(p=0.5)", "ltr at 0.01", "größer")] == [
        "both(p=0.5)",
        "ltr at 0.01",
        "größer",
    ]


# --- trackers that fail ---------------------------------------------------------------------------------------------------

FAKE = """
import json, time
class Settings:
    def __init__(self, **given): pass
class Run:
    def __init__(self, given): self.given = given
    def log(self, values, step):
        if self.given["group"] in FAILS: ACT()
        open("taken.txt", "a").write(json.dumps([self.given["group"], step]) + "\\n")
    def finish(self): pass
def init(**given): return Run(given)
"""


@pytest.fixture
def fake(here, monkeypatch):
    """A package `wandb` that acts in some way on the runs of some arms."""

    def make(fails: tuple[str, ...], act: str) -> None:
        package = here / "packages" / "wandb"
        package.mkdir(parents=True)
        lines = f"FAILS = {fails!r}\ndef ACT():\n    {act}\n"
        (package / "__init__.py").write_text(f"import time, sys\n{lines}{FAKE}")
        monkeypatch.syspath_prepend(str(package.parent))
        monkeypatch.delitem(command.sys.modules, "wandb", raising=False)
        monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)

    return make


class WhenItHangs(threading.Thread):
    """Stands for the timer of the sender: its time is up when the tracker says that it hangs, however slow the machine is."""

    def __init__(self, seconds, kill, arguments):
        super().__init__(daemon=True)
        self.kill, self.arguments, self.ended = kill, arguments, threading.Event()

    def run(self):
        while not self.ended.wait(0.02):
            if Path("hangs").exists():
                Path("hangs").unlink()
                self.kill(*self.arguments)
                return

    def cancel(self):
        self.ended.set()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("open('hangs', 'w').close(); time.sleep(1000)", "wandb has not answered for 120 s"),
        ("raise ValueError('no space in the cloud')", "wandb failed: ValueError: no space in the cloud"),
        pytest.param("sys.exit(0)", "wandb failed: exit code 0", marks=pytest.mark.nightly),
    ],
)
def test_a_tracker_that_hangs_or_fails_on_a_run_is_one_warning_and_the_others_go_on(
    palinode, store, fake, monkeypatch, act, words
):
    monkeypatch.setattr(sender.threading, "Timer", WhenItHangs)
    fake(("both",), act)
    told = palinode("mirror", "runs", "--to", "wandb", "--quiet")
    assert told.code == 5
    assert told.err == f"warning: demo--laptop, both, base, seed 1 is left out: {words}\n"
    taken = Path("taken.txt").read_text()
    assert {arm for arm in ("ltr", "both", "both-published-mask") if f'"{arm}"' in taken} == {
        "ltr",
        "both-published-mask",
    }
    Path("packages/wandb/__init__.py").write_text(f"FAILS = ()\n{FAKE}")
    Path("taken.txt").unlink()
    assert palinode("mirror", "runs", "--to", "wandb", "--quiet").code == 0
    assert set(Path("taken.txt").read_text().split('"')[1::2]) == {"both"}


def test_a_tracker_that_always_fails_ends_the_mirror_after_three_runs(palinode, store, fake):
    fake(tuple(arm.name for arm in SMALL.arms), "raise ValueError('no')")
    told = palinode("mirror", "runs", "--to", "wandb")
    assert (told.code, told.out, len(told.err.splitlines())) == (5, "", 3)
    assert "on 3 runs in a row; what it printed is in mirror/wandb/wandb.log" in told.err


def test_a_mirror_that_is_killed_repeats_one_batch_at_most(palinode, store, fake, monkeypatch):
    fake((), "pass")
    record = Sent.record

    def killed(self, run, position):
        if Path("taken.txt").exists():
            raise KeyboardInterrupt
        record(self, run, position)

    with monkeypatch.context() as patched:
        patched.setattr(Sent, "record", killed)
        assert palinode("mirror", "runs", "--to", "wandb").code == 130
    first = Path("taken.txt").read_text().splitlines()
    assert palinode("mirror", "runs", "--to", "wandb").code == 0
    lines = Path("taken.txt").read_text().splitlines()
    assert lines[: 2 * len(first)] == first * 2
    assert '"ltr"' not in "".join(lines[2 * len(first) :])


def test_a_damaged_run_or_file_of_what_was_sent_is_named(palinode, store, fake):
    fake((), "pass")
    run = store.entry("demo").runs[0]
    (store.run_directory(run.run_id) / "result.json").write_text("{")
    (store.root / "experiments" / "broken--x.json").write_text("{")
    told = palinode("mirror", "runs", "--to", "wandb", "--quiet")
    assert (told.code, len(told.err.splitlines())) == (4, 2)
    assert f"left out: runs/{run.run_id}/result.json" in told.err
    assert "left out: runs/experiments/broken--x.json" in told.err
    assert set(Path("taken.txt").read_text().split('"')[1::2]) == {"both", "both-published-mask"}
    with Path("mirror/wandb/sent-to-wandb.jsonl").open("a") as file:
        file.write("garbage\n")
    told = palinode("mirror", "runs", "--to", "wandb")
    assert told.code == 4
    assert "sent-to-wandb.jsonl: line 3 is damaged (delete the directory" in told.err


# --- W&B ------------------------------------------------------------------------------------------------------------------


def records_of(path: Path):
    """The records of a .wandb file, which is a log of LevelDB after 7 bytes: blocks of 32 KiB with pieces of records."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, joined = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        joined += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            record = Record()
            record.ParseFromString(joined)
            yield record
            joined = b""


@pytest.mark.nightly
def test_wandb_offline_holds_every_number_and_sends_nothing(palinode, here, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")  # the command's own option counts
    store = make_store(Path("runs"), Synthetic(seeds=(1,), steps=100, arms=SMALL.arms[:1]))
    told = palinode("mirror", "runs", "--to", "wandb")
    assert told.code == 0, told.err
    assert told.out.splitlines()[-1] == "send them to a server:  wandb sync mirror/wandb/wandb/offline-run-*"
    [run] = store.entry("demo").runs
    [path] = Path("mirror/wandb/wandb").glob("offline-run-*/*.wandb")
    records = list(records_of(path))
    [begun] = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (begun.project, begun.run_group, begun.job_type, begun.display_name) == (
        *("demo--laptop", "ltr", "base"),
        "ltr base seed-1",
    )
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (config["arm"], config["seed"]) == ("ltr", 1)
    seen: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                seen.setdefault(name, []).append((row["_step"], value))
    wanted = expected(store, run.run_id)
    assert {name: seen[name] for name in wanted} == wanted
    assert not Path("mirror/wandb/wandb/latest-run/files/requirements.txt").exists()
