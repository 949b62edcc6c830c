"""What the audits of the demo compute: CPU seconds by part, and how many of them the audited models and their training take.

Every audit of the demo is measured in one process with one thread: that of each arm before training, and that of the trained
weights of one run of each arm, which the demo makes once a seed. A run trains for a few steps alone, because what an audit computes
does not depend on their number. The time of the models is that of forward passes, of reading on from a state, of backward passes
and of optimizer steps. A faster audit that makes the same passes takes at least this long. Run: python benchmarks/audit_cost.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import palinode
from machine import machine_facts
from palinode.audit.arms import audit_arm
from palinode.audit.palinode_models import PalinodeState
from palinode.audit.runs import audit_trained
from palinode.base import fsio
from palinode.checks.subject import Subject
from palinode.results.store import Store
from palinode.run.one import run_one
from palinode.run.trained import load_trained
from palinode.spec.load import load

try:
    from palinode.experiment.cells import pinned
except ImportError:  # the tree of before, which before_after.py measures
    from palinode.spec.pin import pinned  # type: ignore[no-redef]

RESULT = Path(__file__).parent / "results" / "audit_cost.json"
DEMO = Path(palinode.__file__).parents[2] / "experiments" / "demo.py"  # of the tree whose audits are measured
SHORT = {"recipe.steps": 20, "recipe.evaluate_every_steps": 10}
SEEDS = 3  # the demo's
TARGET_CPU_SECONDS = 15.0
# Where the computing of the models happens. None of these calls another one.
OF_MODELS: tuple[tuple[Any, str], ...] = (
    (Subject, "logits"),
    (PalinodeState, "extend"),
    (torch.Tensor, "backward"),
    (torch.autograd, "grad"),
    (torch.optim.AdamW, "step"),
)

Seconds = dict[str, float]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    rounds = [one_round() for _ in range(given.rounds)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    result = {
        "medians": medians,
        "rounds": rounds,
        "target_cpu_seconds": TARGET_CPU_SECONDS,
        "machine": machine_facts(),
    }
    fsio.write_json(RESULT, result)
    print(json.dumps(medians, indent=2))


def one_round() -> Seconds:
    """The audits of the demo in a new store: CPU seconds in all, and of the models, before and after training."""
    demo = pinned(load(DEMO).experiment.resolve(None, SHORT, (1,)))
    seconds = Counter[str]()
    with tempfile.TemporaryDirectory() as temporary, torch.random.fork_rng():
        store = Store(Path(temporary))
        for run in demo.runs:
            with measured(seconds, "before"):
                audit_arm(run.spec.settings, name=run.arm, store=store)
        for run in demo.runs:
            run_one(run.spec, store)
            trained = load_trained(run.spec, store)
            rows = store.record(run.spec.run_id).metrics
            with measured(seconds, "after"):
                audit_trained(trained, rows, store)
    of_models = seconds["before, models"] + SEEDS * seconds["after, models"]
    whole = seconds["before"] + SEEDS * seconds["after"]
    return {**seconds, "all": whole, "all, models": of_models, "share_of_models": of_models / whole}


@contextmanager
def measured(seconds: Counter[str], part: str) -> Iterator[None]:
    """Add the CPU seconds of the block to `part`, and those inside the models to `part, models`."""
    inside = Counter[str]()
    with ExitStack() as patches:
        for owner, name in OF_MODELS:
            patches.enter_context(patch.object(owner, name, timed(getattr(owner, name), inside)))
        began = time.process_time()
        yield
        seconds[part] += time.process_time() - began
    seconds[f"{part}, models"] += inside["models"]


def timed(function: Callable[..., Any], seconds: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        began = time.process_time()
        try:
            return function(*arguments, **options)
        finally:
            seconds["models"] += time.process_time() - began

    return call


if __name__ == "__main__":
    main()
