"""The part of the battery about runs that several processes share: each start of the real command ends, with one result."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from trials import SMALL, Place, State, Tally

WAYS = ("ddp", "fsdp2")
STEPS = 10  # rounding grows with the steps: two ways to share a run differ by 1e-6 after 5 of them, by 1e-3 after 50
EQUAL_WITHIN = 1e-5  # of the loss
LONGEST_SECONDS = 600.0  # a start takes half a minute on a busy machine with two cores
COMMAND = ("run", "one.toml", "--quiet")


def processes(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """One run on two processes, with `ddp` and `fsdp2` in turn. Each must end by itself, and all with one loss to within 1e-5."""
    alone = _place(folder / "processes", None)
    code, _, err = alone.call(*COMMAND)
    if code:
        sys.exit(f"the run in one process ended with exit {code}: {err[-500:]}")
    losses = {"one process": _loss(alone)}
    for number in range(count):
        way = WAYS[number % len(WAYS)]
        place = _place(folder / f"processes-{number}", alone.folder)
        has_ended = _ends(place, way, tally, f"processes {number}")
        tally["tried"] += 1  # a trial that is interrupted, as by Ctrl-C, does not count
        if has_ended:
            losses[f"{number} {way}"] = loss = _loss(place)
            tally[f"{way} ended with exit 0"] += 1
            tally["silent"] += abs(loss - losses["one process"]) > EQUAL_WITHIN * losses["one process"]
        else:
            tally["lost"] += 1
        shutil.rmtree(place.folder)
    print(f"  losses: {losses}", file=sys.stderr)


def _place(folder: Path, audited: Path | None) -> Place:
    """A place with one arm and one seed of the battery's experiment, in parts that two processes can share."""
    place = Place(folder, audited)
    text = (SMALL / "idea.toml").read_text().partition('[[arms]]\nname = "both"')[0]
    for before, after in (
        ("seeds = [1, 2]", "seeds = [1]"),
        ("steps = 60", f"steps = {STEPS}\nmicro_batches = 2"),
        ("checkpoint_every_steps = 10", "checkpoint_every_steps = 4"),
        ("evaluate_every_steps = 20", "evaluate_every_steps = 4"),
    ):
        assert before in text
        text = text.replace(before, after)
    (folder / "one.toml").write_text(text + '[decision]\nbaseline = "ltr"\n')
    return place


def _ends(place: Place, way: str, tally: Tally, what: str) -> bool:
    """Whether the command ends by itself, with exit 0. All its processes are killed when it does not."""
    process = place.start(*COMMAND, "--processes", "2", "--parallel", way)
    try:
        _, err = process.communicate(timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, err = process.communicate()
        print(f"  {what} {way}: it does not end", file=sys.stderr)
    tally.read(err, what)
    if process.returncode:
        print(f"  {what} {way}: exit {process.returncode}: {err[-500:]}", file=sys.stderr)
    return process.returncode == 0


def _loss(place: Place) -> float:
    (record,) = place.store.records()
    assert record.result is not None
    return float(record.result.scores["validation"]["ltr"]["nats_per_token"] or 0.0)
