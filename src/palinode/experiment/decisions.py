"""The decisions of an experiment that one process makes for all hosts: the looks, the values that trials choose, the next seeds.

A driver that leaves its runs to workers writes the experiment into the directory `experiments/<name>--<size>.decide` of the store.
While the driver lives, it has the hold on this directory. Later the first worker that takes the hold decides, when all runs that
are written have ended: it does what the same `palinode run` would do, and so writes the next runs or the last look.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from palinode.base import fsio
from palinode.base.config import decode, encode
from palinode.base.numerics import NUMERICS_VERSION
from palinode.results.holds import Watch, holder, take
from palinode.results.store import Store
from palinode.spec.code import Code, code_for_spec, keep_code
from palinode.spec.experiment import ResolvedExperiment

LOOK_SECONDS = 1.0  # from one look at the hold of another driver to the next


def write_plan(resolved: ResolvedExperiment, store: Store, code: Code | None) -> None:
    """Write what a worker needs to decide. The runs of one seed are enough, as those of other seeds differ only in the seed."""
    full_name = f"{resolved.name}--{resolved.size}"
    keep_code(store.decisions(full_name), code)
    one_seed = resolved.with_(runs=resolved.with_seeds(1).runs)
    store.write_plan(full_name, {"numerics_version": NUMERICS_VERSION, "experiment": encode(one_seed)})


def read_plan(full_name: str, store: Store, *, allow_code: bool) -> tuple[ResolvedExperiment, Code | None]:
    """The experiment of `write_plan`, and the user's code that it needs.

    Raises:
        BadInput: the file does not decode, or its code may not be run.
        Damaged: the file is damaged.
    """
    path = store.plan_path(full_name)
    code = code_for_spec(path, named=None, allow_code=allow_code)
    table = fsio.read_table(path)["experiment"]
    resolved = decode(ResolvedExperiment, table, file=str(path), user_parts=code.user_parts if code else {})
    runs = [run.with_(spec=run.spec.with_(seed=seed)) for seed in resolved.seeds for run in resolved.runs]
    return resolved.with_(runs=tuple(runs)), code


@contextlib.contextmanager
def hold_on_decisions(full_name: str, store: Store, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the decisions of an experiment. While another process decides, wait for its end."""
    directory, watch, told = store.decisions(full_name), Watch(), False
    while True:
        owner, stale = holder(directory, watch)
        if owner is None and (hold := take(directory, stale=stale)) is not None:
            break
        if not told:
            note(f"waiting: {owner or 'another process'} decides for {full_name} now")
            told = True
        time.sleep(LOOK_SECONDS)
    with hold:
        yield
