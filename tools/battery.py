"""Tries to make the real command lose, double or change a result, and counts how often it did: `make battery`.

Every part compares with one sweep that nothing disturbed: the hash of each run's final weights, its scores, and its rows of
metrics without clock times. `python tools/battery.py kill corrupt_store --share 0.1` runs two parts at a tenth of their size.
Results go to benchmarks/results/reliability.json, a part at a time, and docs/reliability.md is written from that file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hosts
import planted
import shared
from trials import (
    LONGEST_SECONDS,
    RUN,
    RUN_ALONE,
    SMALL,
    Place,
    State,
    Tally,
    descendants,
    finish,
    kill_process,
    wait_for_orphans,
)

from palinode.base import fsio
from palinode.base.errors import Damaged

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
COLUMNS = ("planned", "tried", "lost", "doubled", "silent", "traceback", "minutes")
INTRODUCTION = """
# Reliability

## How a store protects itself

- A process that works on a run holds its directory: it has created the largest `hold-N.json` there. The next process creates
  `hold-(N+1).json`, and only one process can. A process that finds a larger number than its own has lost the run, and writes
  nothing more. The same files guard audits, below `audits/holds`.
- Each attempt writes its rows of metrics into a file of its own, `metrics-N.jsonl`. Each row has a checksum. A checkpoint and a
  result know how many rows were before them, and their hash. Training goes on from a checkpoint only if those rows are there.
- Each JSON file holds the hash of its own content, and a manifest holds the hashes of the tensors. Readers check them.
  `palinode ls --verify` reads every file of a store. It names the files that are damaged, and those that an older version wrote
  without a hash.
- A directory of the store that is a link is neither written through nor deleted through.

## What was tried

`make battery` made this table (`python tools/battery.py [part ...]`, from `benchmarks/results/reliability.json`). Each part
disturbs the real command on a sweep of four runs. It compares the end with a sweep that nothing disturbed: the hash of the
weights, the scores, the rows of metrics, the verdict. The targets: nothing is lost, doubled or different without a word, and no
traceback is printed. `planned` is the number of trials of a whole battery, `tried` that of the last one.
"""


# --- parts --------------------------------------------------------------------------------------------------------


def kill(folder: Path, reference: State, seconds: float, tally: Tally, count: int, chance: random.Random) -> None:
    """kill -9 at random moments: of the whole tree, of the driver alone, or of one worker. Then the same command again."""
    audited = Place(folder / "audited", folder / "reference")
    began = time.monotonic()
    finish(audited, tally, "a sweep whose audits are there")
    seconds_audited = time.monotonic() - began
    done = 0
    while done < count:
        is_audited = chance.random() < 0.7
        place = Place(folder / f"kill-{done}", audited.folder if is_audited else None)
        victims: list[str] = []
        for _ in range(12):
            process = place.start(*RUN)
            time.sleep(chance.uniform(0.1, seconds_audited if is_audited else seconds))
            if process.poll() is not None or done + len(victims) == count:
                process.communicate()
                break
            victim = chance.choice(("tree", "driver", "worker"))
            victims.append(f"killed: {victim}")
            tree = descendants(process.pid)
            if victim == "worker" and tree:
                kill_process(chance.choice(tree))
                _, err = process.communicate(timeout=LONGEST_SECONDS)
                tally.read(err, f"kill {done + len(victims)}")
            else:
                for pid in [process.pid, *(tree if victim == "tree" else ())]:
                    kill_process(pid)
                process.communicate()
                wait_for_orphans(tree)
        done += len(victims)
        finish(place, tally, f"kill {done}")
        tally.judge(place, reference, f"kill {done}", len(victims))
        tally.update(victims)
        shutil.rmtree(place.folder)


def corrupt_store(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """One file of a finished store is damaged; the commands that read it must name it, or say what they said before."""
    whole = Place(folder / "finished", folder / "reference")
    finish(whole, tally, "the store that is damaged")
    readers = (("compare", "battery", "--json"), ("show", "battery"), ("ls", "--runs", "--json"))
    expected = {arguments: whole.call(*arguments) for arguments in readers}
    for number in range(count):
        place = Place(folder / "damaged")
        shutil.rmtree(place.folder)
        shutil.copytree(whole.folder, place.folder, symlinks=True)
        by_kind: dict[str, list[Path]] = {}
        for one in _files(place.folder / "runs"):
            by_kind.setdefault(_kind(one), []).append(one)
        kind = chance.choice(sorted(by_kind.keys() - {".gitignore"}))
        path = chance.choice(by_kind[kind])
        harm = _harm(path, chance)
        tally["tried"] += 1
        what = f"{path.relative_to(place.folder)} {harm}"
        verified, _, verify_err = place.call("ls", "--verify")
        tally.read(verify_err, what)
        for arguments in (readers[number % len(readers)],):
            code, out, err = place.call(*arguments)
            tally.read(err, what)
            if (code, out) == expected[arguments][:2]:
                tally["same answer"] += 1
            elif code == Damaged.exit_code or (
                code == 0 and (str(path.relative_to(place.folder)) in out + err or "damaged" in out)
            ):
                tally["named"] += 1
            elif (
                code == 0 and path.name == "result.json" and not path.exists() and not _is_done(place, path.parent.name)
            ):
                tally["a run without its result counts as unfinished"] += 1
            elif code == 0 and arguments[0] == "ls" and kind == "experiments/NAME.json" and not path.exists():
                tally["runs whose experiment was deleted are listed without its name"] += 1
            elif code == 0:
                tally["silent"] += 1
                print(f"  {what}: {arguments[0]} answers otherwise, exit 0", file=sys.stderr)
            else:
                tally["other exit codes"] += 1
                print(f"  {what}: {arguments[0]} exit {code}: {err[-300:]}", file=sys.stderr)
        noticed = "noticed" if verified == Damaged.exit_code else "not noticed"
        tally[f"{kind} {'deleted' if harm == 'delete' else 'altered'}: {noticed} by ls --verify"] += 1
    shutil.rmtree(whole.folder)


def corrupt_resumed(
    folder: Path, reference: State, seconds: float, tally: Tally, count: int, chance: random.Random
) -> None:
    """One file of an interrupted store or of the token cache is damaged; the same command must end with the same results."""
    broken_off = Place(folder / "interrupted", folder / "reference")
    _interrupt(broken_off, "step-30", finished=2)
    for number in range(count):
        place = Place(folder / "resumed")
        shutil.rmtree(place.folder)
        shutil.copytree(broken_off.folder, place.folder, symlinks=True)
        path = chance.choice(_files(place.folder / ("cache" if number % 5 == 4 else "runs")))
        what = f"{path.relative_to(place.folder)} {_harm(path, chance)}"
        finish(place, tally, what, RUN if number % 10 == 0 else RUN_ALONE)  # a report costs half as much as the rest
        tally.judge(place, reference, what)


def fail(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """The N-th write of every process fails, N = 1, 2, ...; then, with nothing in the way, the same command again."""
    for number in range(1, count + 1):
        name = ("ENOSPC", "EIO", "EACCES")[number % 3]
        # Every second time the audits are measured, too: their writes fail then.
        place = Place(folder / f"fail-{number}", folder / "reference" if number % 2 else None)
        code, _, err = place.call(*RUN, PALINODE_CRASH_POINT=f"{number}:{name}")
        tally.read(err, f"write {number} {name}")
        tally[f"exit {code}"] += 1
        finish(place, tally, f"write {number} {name}")
        tally.judge(place, reference, f"write {number} {name}")
        shutil.rmtree(place.folder)


def full(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """A real disk that is too small. Then it gets room, and the same command goes on."""
    disk = folder / "disk"
    disk.mkdir()
    for kilobytes in [200, 400, 800, 1200][:count]:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(disk)], capture_output=True
        )
        if mounted.returncode:
            tally["not tried: no right to mount a disk"] += 1
            return
        try:
            place = Place(disk / "full")
            code, _, err = place.call(*RUN)
            tally.read(err, f"disk of {kilobytes} kB")
            tally[f"exit {code}"] += 1
            subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
            finish(place, tally, f"disk of {kilobytes} kB")
            tally.judge(place, reference, f"disk of {kilobytes} kB")
        finally:
            subprocess.run(["umount", str(disk)], check=False)


def stop(folder: Path, reference: State, seconds: float, tally: Tally, count: int, chance: random.Random) -> None:
    """SIGSTOP on the whole tree at a random moment, a second driver meanwhile, then SIGCONT."""
    for number in range(count):
        place = Place(folder / f"stop-{number}", folder / "reference")
        first = place.start(*RUN)
        time.sleep(chance.uniform(0.3, seconds))
        tree = [first.pid, *descendants(first.pid)]
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        second = place.start(*RUN)
        time.sleep(2.0)
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for process in (first, second):
            _, err = process.communicate(timeout=LONGEST_SECONDS)
            tally.read(err, f"stop {number}")
        finish(place, tally, f"stop {number}")
        tally.judge(place, reference, f"stop {number}")
        shutil.rmtree(place.folder)


def clock(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """An interrupted store whose files are a day younger than the clock says, as after a clock was set back."""
    for number in range(count):
        place = Place(folder / f"clock-{number}", folder / "reference")
        _interrupt(place, "step-*")
        tomorrow = time.time() + 86400
        for path in (place.folder / "runs").rglob("*"):
            os.utime(path, (tomorrow, tomorrow))
        finish(place, tally, f"clock {number}")
        tally.judge(place, reference, f"clock {number}")
        shutil.rmtree(place.folder)


def drivers(folder: Path, reference: State, tally: Tally, count: int, chance: random.Random) -> None:
    """Four drivers on one store at the same moment, two of them of an experiment that shares two runs with the first."""
    for number in range(count):
        place = Place(folder / f"drivers-{number}", folder / "reference")
        shared = (
            (SMALL / "idea.toml")
            .read_text()
            .replace('name = "battery"', 'name = "shared"')
            .replace("seeds = [1, 2]", "seeds = [1]")
        )
        (place.folder / "shared.toml").write_text(shared)
        files = ("idea.toml", "shared.toml", "idea.toml", "shared.toml")
        processes = [place.start("run", file, "--workers", "1") for file in files]
        for process in processes:
            _, err = process.communicate(timeout=LONGEST_SECONDS)
            tally.read(err, f"drivers {number}")
            tally["drivers that ended well"] += process.returncode == 0
        attempts = [len(list(path.glob("hold-*.json"))) for path in (place.folder / "runs").iterdir() if path.is_dir()]
        tally["runs trained twice"] += sum(holds > 1 for holds in attempts)
        tally.judge(place, reference, f"drivers {number}")
        shutil.rmtree(place.folder)


PARTS: dict[str, tuple[Callable[..., None], int]] = {
    "kill": (kill, 300),
    "corrupt_store": (corrupt_store, 700),
    "corrupt_resumed": (corrupt_resumed, 300),
    "fail": (fail, 50),
    "full": (full, 4),
    "stop": (stop, 10),
    "clock": (clock, 3),
    "drivers": (drivers, 10),
    "hosts": (hosts.killed, 50),
    "ray": (hosts.ray_nodes, 20),
    "slurm": (hosts.preempted, 10),
    "names": (hosts.names, 5),
    "paused": (hosts.paused, 10),
    "race": (hosts.race, 300),
    "processes": (shared.processes, 20),
}
WITHOUT_REFERENCE = ("race", "processes")  # parts that compare with nothing but themselves
AUDIT = "audit"
AUDITS_INTRODUCTION = """
## The audit: defects caught, clean twins passed

`python tools/battery.py audit` made this table. Each defect is planted in a small model, objective or state, and each stands in the
tests beside a clean twin. A defect is caught if a check that was named before fails. A twin passes if no check fails. Models that
others wrote are in [the census](census.md).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run these parts, or all; returns 1 if anything was lost, doubled or changed without a word, or a traceback was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [AUDIT, *PARTS]
    parser.add_argument("parts", nargs="*", choices=[*names, []], help="names of parts; all without a name")
    parser.add_argument("--share", type=float, default=1.0, help="of the number of trials of each part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--add", action="store_true", help="add to the counts of earlier trials; give another --seed then"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a part, as Ctrl-C does
    chosen = options.parts or names
    bad = _audits(options.share) if AUDIT in chosen else 0
    if stores := [name for name in chosen if name != AUDIT]:
        with tempfile.TemporaryDirectory(prefix="palinode-battery-") as temporary:
            bad += _stores(Path(temporary), stores, options)
    fsio.write_text(PAGE, page(json.loads(RESULTS.read_text(encoding="utf-8"))))
    return int(bad > 0)


def _audits(share: float) -> int:
    """The part `audit`: every planted defect and its clean twin; how many were missed or accused."""
    began = time.monotonic()
    counts, wrong = planted.count(share)
    print(*wrong, sep="\n", file=sys.stderr)
    kinds = {kind: dict(counted) for kind, counted in counts.items()}
    _keep(AUDIT, {"kinds": kinds, "share": share, "wrong": wrong, "minutes": _minutes_since(began)})
    print(AUDIT, json.dumps(kinds))
    return len(wrong)


def _stores(folder: Path, names: Sequence[str], options: argparse.Namespace) -> int:
    """The parts that disturb a store; how much was lost, doubled, different without a word, or ended in a traceback."""
    bad, seconds, reference = 0, 0.0, State()
    if not set(names) <= set(WITHOUT_REFERENCE):
        reference_place, began = Place(folder / "reference"), time.monotonic()
        code, _, err = reference_place.call(*RUN)
        seconds = time.monotonic() - began
        if code:
            sys.exit(f"the undisturbed sweep ended with exit {code}: {err[-500:]}")
        reference = reference_place.state()
    for name in names:
        part, planned = PARTS[name]
        tally, began = Tally(), time.monotonic()
        more = {"seconds": seconds} if "seconds" in part.__annotations__ else {}
        count = max(1, round(planned * options.share))
        chance = random.Random(f"{name} {options.seed}")
        with contextlib.suppress(KeyboardInterrupt):  # the trials until then count
            part(folder, reference, tally=tally, count=count, chance=chance, **more)
        before = _kept().get(name, {}) if options.add else {}
        counts = Counter({key: value for key, value in before.items() if key not in ("planned", "minutes")}) + tally
        minutes = round(before.get("minutes", 0) + _minutes_since(began), 1)
        _keep(name, {"planned": planned, "minutes": minutes, **dict(sorted(counts.items()))})
        print(name, json.dumps(counts))
        bad += sum(tally[name] for name in ("lost", "doubled", "silent", "traceback"))
    return bad


def page(results: dict[str, Any]) -> str:
    """docs/reliability.md."""
    lines = [*INTRODUCTION.strip().splitlines(), "", *_store_table(results), "", "What else was counted:", ""]
    for name in PARTS:
        more = [f"{key}: {value}" for key, value in results.get(name, {}).items() if key not in COLUMNS]
        lines += [f"- `{name}`: {'; '.join(more)}."] if more else []
    if AUDIT in results:
        lines += ["", *AUDITS_INTRODUCTION.strip().splitlines(), "", *_audit_table(results[AUDIT])]
    return "\n".join(lines) + "\n"


def _store_table(results: dict[str, Any]) -> list[str]:
    rows = [
        "| part | what is done | planned | tried | lost | doubled | silently different | tracebacks | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (part, _) in PARTS.items():
        if name in results:
            counts = " | ".join(str(results[name].get(key, 0)) for key in COLUMNS)
            rows.append(f"| `{name}` | {(part.__doc__ or '').strip()} | {counts} |")
    return rows


def _audit_table(result: dict[str, Any]) -> list[str]:
    rows = ["| defects | planted | caught | clean twins | passed |", "|---|---|---|---|---|"]
    for kind, counts in result["kinds"].items():
        numbers = " | ".join(str(counts.get(key, 0)) for key in ("planted", "caught", "twins", "passed"))
        rows.append(f"| {kind} | {numbers} |")
    return rows + [f"- {line}" for line in ["", *result["wrong"]] if line]


# --- inside -------------------------------------------------------------------------------------------------------


def _kept() -> dict[str, Any]:
    """The results so far, by part."""
    return dict(json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else {}


def _keep(name: str, row: dict[str, Any]) -> None:
    fsio.write_json(RESULTS, {**_kept(), name: row})


def _minutes_since(began: float) -> float:
    return round((time.monotonic() - began) / 60, 1)


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size
    )


def _is_done(place: Place, run_id: str) -> bool:
    return any(run.entry.run_id == run_id and run.outcome == "done" for run in place.store.experiment("battery").runs)


def _kind(path: Path) -> str:
    """What sort of file of a store this is."""
    if "reports" in path.parts:
        return "a report's page, figure or table"
    name = f"{path.parent.name}/NAME.json" if path.parent.name in ("experiments", "audits") else path.name
    return re.sub("[0-9]+", "N", name)


def _harm(path: Path, chance: random.Random) -> str:
    """Damage a file in one of eight ways; returns which."""
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content))
    lines = bytes(content).splitlines(keepends=True)
    harm = chance.choice(
        ("flip a bit", "cut", "empty", "delete", "zero a page", "change a digit", "double a line", "drop a line")
    )
    if harm == "flip a bit":
        content[at] ^= 1 << chance.randrange(8)
    elif harm == "cut":
        content = content[:at]
    elif harm == "empty":
        content = bytearray()
    elif harm == "zero a page":
        content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    elif harm == "change a digit" and (digits := [i for i, byte in enumerate(content) if byte in b"0123456789"]):
        place = chance.choice(digits)
        content[place] = ord(str((int(chr(content[place])) + chance.randint(1, 9)) % 10))
    elif harm in ("double a line", "drop a line"):
        which = chance.randrange(len(lines))
        lines[which : which + 1] = [lines[which]] * (2 if harm == "double a line" else 0)
        content = bytearray(b"".join(lines))
    if harm == "delete":
        path.unlink()
    else:
        path.write_bytes(content)
    return harm


def _interrupt(place: Place, checkpoint: str, finished: int = 0) -> None:
    """Start the command, and kill its whole tree as soon as so many runs have ended and another has this checkpoint."""
    process = place.start(*RUN)
    runs = place.folder / "runs"
    while process.poll() is None:
        ended = {path.parent for path in runs.glob("*/result.json")}
        saved = {path.parent.parent for path in runs.glob(f"*/ckpt/{checkpoint}")}
        if len(ended) >= finished and saved - ended:
            break
        time.sleep(0.02)
    for pid in [process.pid, *descendants(process.pid)]:
        kill_process(pid)
    process.communicate()


if __name__ == "__main__":
    sys.exit(main())
