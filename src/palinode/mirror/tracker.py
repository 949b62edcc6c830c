"""The process that writes to a tracker. It imports the tracker's package, and nothing else in this program does.

It reads batches as JSON lines from standard input, and answers each batch with a line when the tracker has taken it. If the tracker
fails, the process ends with the tracker's error. If the tracker hangs, the process is killed (`sender.py`).

    {"run": {...}, "rows": [{"step": 40, "seconds": 9.5, "values": {"train/nats_by_group.ltr": 2.1}}], "close": false}

`close` says that no row of this run follows in this process. Run: python -m palinode.mirror.tracker TRACKER DIRECTORY [--online]
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Json = Mapping[str, Any]
NOT_IN_A_FOLDER = re.compile(r"[^\w.+=,@() -]|^[. -]")
LONGEST_FOLDER_CHARACTERS = 60  # of up to four bytes each


class Tracker(Protocol):
    """What takes the rows of runs."""

    def send(self, run: Json, rows: Sequence[Json], *, close: bool) -> None: ...
    def end(self) -> None: ...


class TensorBoard:
    """Writes an event file for each run, `<experiment>/<arm>/<scale>/seed-<seed>/events...`.

    TensorBoard's own writer needs neither torch nor TensorFlow. Its second thread flushes every two minutes; here each batch is
    flushed, so the thread need not. An event has the time at which training had reached the row, so that TensorBoard's relative
    axis shows seconds of training.
    """

    def __init__(self, directory: Path, *, online: bool):
        self.directory = directory
        self.writers: dict[str, Any] = {}

    def send(self, run: Json, rows: Sequence[Json], *, close: bool) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if run["id"] not in self.writers:
            folder = self.directory.joinpath(*map(folder_name, run["place"]))
            self.writers[run["id"]] = EventFileWriter(str(folder), flush_secs=3600)
        writer = self.writers[run["id"]]
        for row in rows:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row["values"].items()]
            event = Event(wall_time=run["began"] + row["seconds"], step=row["step"], summary=Summary(value=values))
            writer.add_event(event)
        writer.flush()
        if close:
            self.writers.pop(run["id"]).close()

    def end(self) -> None:
        for writer in self.writers.values():
            writer.close()


class WeightsAndBiases:
    """Writes each run into a run of W&B: the project is the experiment, the group the arm, the job type the scale.

    The settings of the run are its config. Output, code, packages, git and measurements of the machine are not collected.
    """

    def __init__(self, directory: Path, *, online: bool):
        self.directory, self.online = directory, online
        self.runs: dict[str, Any] = {}

    def send(self, run: Json, rows: Sequence[Json], *, close: bool) -> None:
        if run["id"] not in self.runs:
            self.runs[run["id"]] = self._begin(run)
        opened = self.runs[run["id"]]
        for row in rows:
            opened.log(row["values"], step=row["step"])
        if close:
            self.runs.pop(run["id"]).finish()

    def _begin(self, run: Json) -> Any:
        import wandb

        experiment, arm, scale, seed = run["place"]
        settings = wandb.Settings(
            mode="online" if self.online else "offline",
            silent=True,
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        return wandb.init(
            project=experiment,
            group=arm,
            job_type=scale,
            name=" ".join((arm, scale, seed)),
            id=run["id"],
            config=dict(run["config"]),
            dir=str(self.directory),
            resume="allow" if self.online else None,
            reinit="create_new",
            settings=settings,
        )

    def end(self) -> None:
        for run in self.runs.values():
            run.finish()


TRACKERS: Mapping[str, type[TensorBoard] | type[WeightsAndBiases]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def folder_name(name: str) -> str:
    """A name as the name of a folder. A stranger's store may have names that lead elsewhere; they get others, which differ, too."""
    changed = NOT_IN_A_FOLDER.sub("_", name)[:LONGEST_FOLDER_CHARACTERS]
    return name if name and changed == name else f"{changed}-{hash_of_name(name)}"


def hash_of_name(name: str) -> str:
    """Eight hexadecimal digits that stand for a name."""
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]


def main(arguments: Sequence[str]) -> None:
    """Send the batches on standard input to a tracker until the input ends."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a tracker prints is no answer
        tracker: Tracker = TRACKERS[arguments[0]](Path(arguments[1]), online="--online" in arguments)
        for line in sys.stdin:
            batch = json.loads(line)
            tracker.send(batch["run"], batch["rows"], close=batch["close"])
            answers.write("taken\n")
            answers.flush()
        tracker.end()


if __name__ == "__main__":
    main(sys.argv[1:])
