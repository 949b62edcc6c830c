"""Several runs of one shape in one process with stacked weights; each writes the same files as in a process of its own.

The start of Python and torch, which takes seconds, is shared, and so are the calls of every step (`train/stacked.py`). Sums are
taken in another order than in a separate run, so bits differ: `runs_together` in the fingerprint is the number of stacked runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from palinode.base.config import content_hash, encode
from palinode.results.holds import Hold
from palinode.results.record import Result
from palinode.results.store import Store
from palinode.run.one import Attempt, Event, train_attempts
from palinode.spec.run_spec import RunSpec

FREE = ("seed", "labels")  # runs that differ only in these make the same calls on tensors of the same shapes
FREE_OF_RECIPE = ("optimizer", "schedule")


def stack_key(spec: RunSpec) -> str | None:
    """Runs with the same key may be trained together; None for a run whose step is compiled, which is faster alone."""
    if spec.recipe.compile:
        return None
    plain = encode(spec)
    recipe = {name: value for name, value in plain["recipe"].items() if name not in FREE_OF_RECIPE}
    return content_hash({name: value for name, value in plain.items() if name not in FREE} | {"recipe": recipe})


def run_together(
    specs: Sequence[RunSpec],
    store: Store,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    holds: Mapping[str, Hold] | None = None,
) -> list[Result]:
    """Train, evaluate and record runs that have one `stack_key`, or go on with them; arguments as of `run_one`.

    Every event has its `run_id`. A run that diverges is recorded, and the others go on.

    Args:
        holds: run id -> the hold of this process on its directory; without one, a directory is held until this call ends.
    """
    holds = holds or {}
    results = {spec.run_id: ended for spec in specs if (ended := store.ended(spec.run_id)) is not None}
    left = [spec for spec in specs if spec.run_id not in results]
    attempts: list[Attempt] = []
    try:
        for spec in left:
            emit = _with_run_id(on_event, spec.run_id)
            attempts.append(Attempt.begin(spec, store, emit, holds.get(spec.run_id), len(left)))
        results |= {result.run_id: result for result in train_attempts(attempts, should_stop)}
    finally:
        for attempt in attempts:
            if attempt.spec.run_id not in holds:
                attempt.hold.release()
    return [results[spec.run_id] for spec in specs]


def _with_run_id(on_event: Callable[[Event], None], run_id: str) -> Callable[[Event], None]:
    return lambda event: on_event({**event, "run_id": run_id})
