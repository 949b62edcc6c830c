"""Begins a longer run with the checkpoint of a shorter one, which has the same bits (`spec/longer.py` says up to which step)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.config import encode
from palinode.base.errors import Damaged
from palinode.results.files import read_table
from palinode.results.holds import Hold, take
from palinode.results.rows import ATTEMPT_EVENT, FROM_THE_START, Row, RowsSeal, metrics_path, read_rows, up_to_step
from palinode.results.store import Store
from palinode.results.verify import problem_of_tensors
from palinode.spec.longer import shared_steps, stable_step
from palinode.spec.run_spec import RunSpec
from palinode.train.checkpoint import CHECKPOINTS, MANIFEST_FILE, MODEL_FILE, OPTIMIZER_FILE, newest_first, newest_saved


def begin_with(short: RunSpec, longer: RunSpec, store: Store) -> int:
    """Copy the newest checkpoint of a run that is also one of a longer run, with its rows of metrics.

    The rows are written first and the manifest last. If this process is killed, the longer run begins at its start, or this
    function copies again.

    Args:
        short, longer: specs that differ only in `recipe.steps`.

    Returns:
        the step of the newest checkpoint that the longer run then has; 0 if it has none and trains from the start.
    """
    directory = store.run_directory(longer.run_id)
    own = newest_saved(directory / CHECKPOINTS)
    has = own.step if own is not None else 0
    if store.ended(longer.run_id) is not None:
        return has
    found = _usable(short, longer, store.run_directory(short.run_id))
    if found is None or found[0]["step"] <= has:
        return has
    store.write_spec(longer.run_id, encode(longer))
    hold = take(directory)
    if hold is None:  # somebody trains the run already
        return has
    with hold:
        manifest, rows, files = found
        _write(longer, store, hold, manifest, rows, files)
    return int(manifest["step"])


Usable = tuple[Mapping[str, Any], Sequence[Row], Mapping[str, bytes]]


def _usable(short: RunSpec, longer: RunSpec, directory: Path) -> Usable | None:
    """The manifest, the rows of metrics and the tensor files of the newest checkpoint that both runs have, or None."""
    recipe, shared = short.recipe, shared_steps(short, longer.recipe.steps)
    every = recipe.evaluate_every_steps
    try:
        rows, damaged = read_rows(directory)
    except Damaged:
        return None
    for place in newest_first(directory / CHECKPOINTS) if damaged is None else ():
        step = int(place.name.removeprefix("step-"))
        if step > shared or (step == recipe.steps and every and step % every == 0):
            continue  # after its last step, a run makes no evaluation of those in the middle of training
        before = up_to_step(rows, step)
        try:
            manifest = read_table(place / MANIFEST_FILE)
            whole = all(problem_of_tensors(place / name) is None for name in (MODEL_FILE, OPTIMIZER_FILE))
            if whole and manifest.get("rows") == RowsSeal.of(before).stored():
                files = {name: (place / name).read_bytes() for name in (MODEL_FILE, OPTIMIZER_FILE)}
                return manifest, [row for row in before if _is_due(row, recipe.log_every_steps)], files
        except (Damaged, OSError):
            continue
    return None


def _is_due(row: Row, log_every_steps: int) -> bool:
    """Whether a longer run writes this row too. A run also logs its last step, which need not be due."""
    return row.get("event") != "train" or row["step"] == 1 or row["step"] % log_every_steps == 0


def _write(
    longer: RunSpec,
    store: Store,
    hold: Hold,
    manifest: Mapping[str, Any],
    rows: Sequence[Row],
    files: Mapping[str, bytes],
) -> None:
    first = {"event": ATTEMPT_EVENT, "attempt": hold.number, "from_step": FROM_THE_START, "rows": RowsSeal().stored()}
    fsio.rewrite_lines(metrics_path(hold.directory, hold.number), [first, *rows])
    fsio.crash_point("extend.rows_written")
    step = int(manifest["step"])
    place = store.own_path(f"{longer.run_id}/{CHECKPOINTS}/step-{step}")
    for name, content in files.items():
        fsio.write_bytes(place / name, content)
    fsio.crash_point("extend.tensors_written")
    changed = {"run_id": longer.run_id, "rows": RowsSeal.of(rows).stored(), "stable": step == stable_step(longer)}
    fsio.write_table(place / MANIFEST_FILE, {**manifest, **changed})
