"""Deletes runs and experiments (`palinode rm`), and files that nothing needs any more (`palinode gc`). torch is not imported.

A directory is renamed before it is deleted, and a manifest is written before a file that it named is deleted. So a command that is
killed leaves no half of a run or of a checkpoint. The next `palinode gc` deletes what is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.errors import BadInput, Damaged
from palinode.data.cache import MANIFEST as CACHE_MANIFEST
from palinode.data.cache import cache_directory
from palinode.results.files import bytes_of, read_table
from palinode.results.holds import Watch, holder
from palinode.results.record import SPEC_FILE, ExperimentEntry
from palinode.results.store import Store
from palinode.results.verify import CHECKPOINTS, MANIFEST_FILE, problem_of_tensors

UNREAD_DAYS = 7  # a token cache that was read later is kept: a run of another store may be reading it
SECONDS_PER_DAY = 86_400
MODEL_FILE, OPTIMIZER_FILE = (
    "model.safetensors",
    "optimizer.safetensors",
)  # of `train/checkpoint.py`, which imports torch
OPTIMIZER_STATE, CHECKPOINT, TOKEN_CACHE, REST = "optimizer state", "checkpoint", "token cache", "rest of a deletion"


@dataclass(frozen=True)
class Leftover:
    """A file or a directory that nothing needs.

    Attributes:
        kind: `optimizer state`, `checkpoint`, `token cache` or `rest of a deletion`.
        why: what makes it needless, in words.
        run_id: the run that it belongs to; None for a token cache.
    """

    kind: str
    path: Path
    bytes: int
    why: str
    run_id: str | None = None


# --- palinode gc -------------------------------------------------------------------------------------------------------


def leftovers(store: Store, cache: Path | None = None) -> list[Leftover]:
    """What `palinode gc` deletes. Runs that are not done, are damaged, or are held keep everything.

    A run that is done keeps its last checkpoint without the state of the optimizer, and keeps whole the stable checkpoint (from
    which a longer run may go on) and the checkpoints that `start_from` of another run names.

    Args:
        cache: the folder of token caches; None: the user's.
    """
    specs = _specs(store)
    named = _named_steps(specs)
    found = [_of_kind(REST, path, "its deletion was interrupted") for path in _rests(store, cache)]
    for run_id in store.run_ids():
        result = store.ended(run_id)
        directory = store.run_directory(run_id)
        if result is not None and result.outcome == "done" and holder(directory, Watch())[0] is None:
            steps = int(result.counters.get("optimizer_steps") or 0)
            found += (replace(one, run_id=run_id) for one in _of_run(directory, steps, named.get(run_id, set())))
    return [*found, *_token_caches(specs.values(), cache_directory(cache) / "tokens")]


def delete(leftover: Leftover) -> None:
    """Delete a leftover. The manifest of a checkpoint is written before the state of its optimizer is deleted.

    Raises:
        EnvironmentProblem: the disk refuses.
        Damaged: the manifest of the checkpoint cannot be read any more.
    """
    if leftover.kind != OPTIMIZER_STATE:
        fsio.remove_directory(leftover.path)
        return
    path = leftover.path.with_name(MANIFEST_FILE)
    manifest = read_table(path)
    files = {name: entry for name, entry in manifest["files"].items() if name != OPTIMIZER_FILE}
    fsio.write_table(path, {**manifest, "files": files})
    fsio.crash_point("gc.manifest_written")
    fsio.remove(leftover.path)


def _of_run(directory: Path, steps: int, named: set[int]) -> Iterator[Leftover]:
    """The needless files of the checkpoints of a run that ended after `steps` steps."""
    root = directory / CHECKPOINTS
    checkpoints = {} if root.is_symlink() else {step: path for path in root.glob("step-*") if (step := _step(path))}
    if steps not in checkpoints or not _has_good_weights(checkpoints[steps]):
        return  # whatever is left may be the best that there is
    for step, path in sorted(checkpoints.items()):
        manifest = _table(path / MANIFEST_FILE)
        if manifest.get("stable") is True or step in named:
            continue
        if step != steps:
            yield _of_kind(CHECKPOINT, path, "the run is done, and this is not its last checkpoint")
        elif (path / OPTIMIZER_FILE).is_file() and not (path / OPTIMIZER_FILE).is_symlink():
            yield _of_kind(OPTIMIZER_STATE, path / OPTIMIZER_FILE, "the run is done")


def _step(path: Path) -> int | None:
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() and path.is_dir() and not path.is_symlink() else None


def _table(path: Path) -> Mapping[str, Any]:
    """The table in a file of the store; empty if it cannot be read."""
    try:
        return read_table(path)
    except Damaged:
        return {}


def _has_good_weights(checkpoint: Path) -> bool:
    return bool(_table(checkpoint / MANIFEST_FILE)) and problem_of_tensors(checkpoint / MODEL_FILE) is None


def _rests(store: Store, cache: Path | None) -> list[Path]:
    """The directories whose deletion was interrupted."""
    tokens = cache_directory(cache) / "tokens"
    roots = (store.root, tokens, *(store.run_directory(run_id) / CHECKPOINTS for run_id in store.run_ids()))
    found = (path for root in roots if not root.is_symlink() for path in root.glob(f"{fsio.REMOVED_MARK}*"))
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def _token_caches(specs: Iterable[Mapping[str, Any]], tokens: Path) -> list[Leftover]:
    """The token caches that no run of the store names, and that nobody has read for UNREAD_DAYS.

    A spec that was never pinned to the content of its corpus may mean any cache, so none is listed then.
    """
    used = {
        _of_data(spec["data"]) for spec in specs if isinstance(spec.get("data"), dict) and "task" not in spec["data"]
    }
    if ("None", "None") in used:
        return []
    found = []
    for path in sorted(tokens.glob("*")):
        manifest_path = path / CACHE_MANIFEST
        if path.is_symlink() or not manifest_path.is_file():
            continue
        try:
            manifest = fsio.read_json(manifest_path)
            name = (str(manifest["corpus_sha256"]), str(manifest["tokenizer"]["sha256"]))
        except (Damaged, KeyError, TypeError):
            continue  # a cache that is being written, or of another version
        if name not in used and _unread_days(path) > UNREAD_DAYS:
            found.append(_of_kind(TOKEN_CACHE, path, f"no run here names it; unread for {UNREAD_DAYS} days"))
    return found


def _of_data(data: Mapping[str, Any]) -> tuple[str, str]:
    return str(data.get("corpus_sha256")), str(data.get("tokenizer_sha256"))


def _unread_days(directory: Path) -> float:
    """The days since the tokens in this directory were last read or written, as far as the disk records it.

    The manifest does not count, because `gc` reads it.
    """
    files = (path.stat() for path in directory.iterdir() if path.name != CACHE_MANIFEST)
    times = (max(status.st_atime, status.st_mtime) for status in files)
    return (time.time() - max(times, default=0.0)) / SECONDS_PER_DAY


def _of_kind(kind: str, path: Path, why: str) -> Leftover:
    return Leftover(kind, path, bytes_of(path), why)


# --- palinode rm -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Removal:
    """What `palinode rm` deletes.

    Attributes:
        runs: the runs that are deleted.
        kept: run of the experiment -> why it stays.
        entry: the experiment that is deleted; None for a single run.
        member_of: the experiment whose verdict loses a single run; empty for an experiment, and for a run of no experiment.
    """

    runs: tuple[str, ...]
    kept: Mapping[str, str]
    entry: ExperimentEntry | None = None
    member_of: str = ""


def removal_of_run(store: Store, run_id: str) -> Removal:
    """What the deletion of one run deletes.

    Raises:
        BadInput: several experiments or the `start_from` of another run use the run, or a process holds it.
        Damaged: an experiment cannot be read, so nobody can say whether it uses the run.
    """
    _refuse_unknown_users(store)
    users = _users(store, run_id)
    if len(users) > 1:
        raise BadInput(f"run {run_id} is used by {len(users)} experiments: {', '.join(users)}", field="NAME")
    if dependents := _starting_from(_specs(store), run_id, leaving_out=set()):
        raise BadInput(f"run {run_id} is used by start_from of run {dependents[0]}", field="NAME")
    _refuse_held(store, [run_id])
    return Removal((run_id,), {}, member_of="".join(users))


def removal_of_experiment(store: Store, entry: ExperimentEntry) -> Removal:
    """What the deletion of an experiment deletes: its entry, seals, looks and report, and the runs that nothing else uses.

    Raises:
        BadInput: a process holds one of the runs.
        Damaged: another experiment cannot be read, so nobody can say whether it uses the runs.
    """
    _refuse_unknown_users(store)
    held = set(store.run_ids())
    own = [run_id for run_id in _runs_named_by(store, entry) if run_id in held]
    specs, kept = _specs(store), dict[str, str]()
    others = [other for other in store.experiments() if other.full_name != entry.full_name]
    for other in others:
        kept |= {run_id: f"{other.full_name} uses it" for run_id in _runs_named_by(store, other) if run_id in own}
    while True:  # a run that stays keeps the run that it started from
        deleted = {run_id for run_id in own if run_id not in kept}
        needed = {one: users for one in deleted if (users := _starting_from(specs, one, leaving_out=deleted))}
        if not needed:
            break
        kept |= {one: f"start_from of {users[0]} uses it" for one, users in needed.items()}
    runs = tuple(run_id for run_id in own if run_id not in kept)
    _refuse_held(store, runs)
    return Removal(runs, kept, entry)


def remove(removal: Removal, store: Store) -> None:
    """Delete what a removal names. The entry of an experiment is deleted last, so that the same command goes on after a crash.

    Raises:
        BadInput: a process has taken one of the runs meanwhile.
        EnvironmentProblem: the disk refuses.
    """
    for run_id in removal.runs:
        _refuse_held(store, [run_id])
        fsio.remove_directory(store.own_path(run_id))
    if removal.entry is not None:
        fsio.remove_directory(store.report_directory(removal.entry))
        for path in store.files_of(removal.entry):
            fsio.remove(path)


def _specs(store: Store) -> dict[str, Mapping[str, Any]]:
    """Run id -> its spec as plain data; empty for a spec that cannot be read."""
    return {run_id: _table(store.run_directory(run_id) / SPEC_FILE) for run_id in store.run_ids()}


def _source(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table `start_from` of a spec; empty for a run that starts from random weights."""
    source = spec.get("start_from")
    return source if isinstance(source, dict) else {}


def _named_steps(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, set[int]]:
    """Run id -> the steps of its checkpoints that other runs start from."""
    steps: dict[str, set[int]] = {}
    for source in map(_source, specs.values()):
        if isinstance(source.get("step"), int):
            steps.setdefault(str(source.get("run")), set()).add(source["step"])
    return steps


def _starting_from(specs: Mapping[str, Mapping[str, Any]], run_id: str, *, leaving_out: set[str]) -> list[str]:
    """The runs that start from this run's weights, without some runs."""
    return [one for one, spec in specs.items() if _source(spec).get("run") == run_id and one not in leaving_out]


def _runs_named_by(store: Store, entry: ExperimentEntry) -> list[str]:
    """The runs of an experiment and of its trials, each once."""
    of_trials = (run_id for choice in entry.choices for run_id in choice.runs)
    return list(dict.fromkeys([*(run.run_id for run in store.queue(entry)), *of_trials]))


def _users(store: Store, run_id: str) -> list[str]:
    return [entry.full_name for entry in store.experiments() if run_id in _runs_named_by(store, entry)]


def _refuse_unknown_users(store: Store) -> None:
    for damage in store.damaged_experiments():
        raise damage


def _refuse_held(store: Store, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        owner, _ = holder(store.run_directory(run_id), Watch())
        if owner is not None:
            hint = "`palinode stop`, or wait until it has ended"
            raise BadInput(f"{owner} is working on run {run_id}", field="NAME", hint=hint)
