"""A training step, its page faults and the audits of the demo, before the work on speed and after it, taken in one run.

The source tree of before is given: a checkout of the last commit in which memory went back to the system after each use (3bb5884).
Processes of both trees take turns, so both see the same machine. `startup.py` does the same for the start of a worker.

    git worktree add --detach BEFORE 3bb5884
    python benchmarks/before_after.py --before BEFORE/src
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "before_after.json"
NOW = Path(__file__).parents[1] / "src"
SHAPES = {  # layers, width, heads, rows, window tokens
    "2x64, 16 x 128": (2, 64, 2, 16, 128),
    "4x128, 16 x 128": (4, 128, 4, 16, 128),
    "6x256, 16 x 64": (6, 256, 4, 16, 64),
    "2x64, 32 x 20": (2, 64, 2, 32, 20),
}
VOCABULARY = 259
WARM_UP_STEPS, PAIRS, AUDIT_PAIRS = 10, 40, 1

Row = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--before", type=Path, metavar="SRC", help="the folder src of the checkout of before")
    arguments.add_argument("--steps-of", choices=tuple(SHAPES), help=argparse.SUPPRESS)
    arguments.add_argument("--measure", choices=("audits",), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.steps_of:
        take_steps(given.steps_of)
    elif given.measure:
        print(json.dumps(audits()))
    elif given.before is None or not (given.before / "palinode").is_dir():
        arguments.error("--before needs a folder that holds the package palinode")
    else:
        compare(given.before)


def compare(before: Path) -> None:
    from machine import machine_facts
    from palinode.base import fsio

    rows = [row for name in SHAPES for row in steps_of(name, before)]
    rows.append(row_of("audits of the demo", "CPU s", [[once(before), once(NOW)] for _ in range(AUDIT_PAIRS)]))
    print(json.dumps(rows[-1]), flush=True)
    fsio.write_json(RESULT, {"before": commit(before), "rows": rows, "machine": machine_facts()})


def row_of(what: str, unit: str, pairs: Sequence[Sequence[float]]) -> Row:
    """The medians of both trees, and the median ratio of the pairs with its lowest and highest value."""
    ratios = [before / after if after else None for before, after in pairs]
    kept = [ratio for ratio in ratios if ratio is not None]
    return {
        "what": what,
        "unit": unit,
        "pairs": len(pairs),
        "before": statistics.median(before for before, _ in pairs),
        "after": statistics.median(after for _, after in pairs),
        "ratio": {"median": statistics.median(kept), "lowest": min(kept), "highest": max(kept)} if kept else None,
    }


def once(source: Path) -> float:
    command = [sys.executable, __file__, "--measure", "audits"]
    done = subprocess.run(command, env=environment(source), stdout=subprocess.PIPE, check=True)
    return float(json.loads(done.stdout))


def environment(source: Path) -> dict[str, str]:
    """The variables of a process of this tree, huge pages included where the tree asks for them."""
    own = {**os.environ, "PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}
    if not (source / "palinode" / "base" / "memory.py").exists():
        return own
    from palinode.base.memory import with_huge_pages

    return with_huge_pages(own)


def commit(source: Path) -> str:
    command = ["git", "-C", str(source), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


# --- steps in turn ----------------------------------------------------------------------------------------------------


def steps_of(name: str, before: Path) -> Iterator[Row]:
    with stepper(name, before) as step_before, stepper(name, NOW) as step_after:
        pairs = []
        for turn in range(PAIRS):
            if turn % 2:  # each tree is first in every second pair
                after, earlier = step_after(), step_before()
            else:
                earlier, after = step_before(), step_after()
            pairs.append((earlier, after))
    for place, (what, unit) in enumerate((("a step", "CPU ms"), ("page faults of a step", ""))):
        row = row_of(f"{what}, {name}", unit, [(one[place], other[place]) for one, other in pairs])
        print(json.dumps(row), flush=True)
        yield row


@contextmanager
def stepper(name: str, source: Path) -> Iterator[Callable[[], tuple[float, float]]]:
    """A process that takes a step for each call: its CPU milliseconds and page faults."""
    command = [sys.executable, __file__, "--steps-of", name]
    with subprocess.Popen(
        command, env=environment(source), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        orders, answers = process.stdin, process.stdout

        def step() -> tuple[float, float]:
            orders.write("step\n")
            orders.flush()
            milliseconds, faults = json.loads(answers.readline())
            return milliseconds, faults

        step()  # waits until the process has warmed up
        yield step
        orders.close()


def take_steps(name: str) -> None:
    """Take a step for each line of standard input; print its CPU milliseconds and its page faults. Runs in both trees."""
    from palinode.train.loop import take_step

    keep_memory_where_the_tree_does()
    training = training_of(*SHAPES[name])
    for _ in range(WARM_UP_STEPS):
        take_step(training)
    for _ in sys.stdin:
        faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        take_step(training)
        spent = time.process_time() - began
        print(json.dumps([1000 * spent, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults]), flush=True)


def keep_memory_where_the_tree_does() -> None:
    import torch

    try:
        from palinode.base.memory import keep_memory
    except ModuleNotFoundError:  # the tree of before
        return
    finally:
        torch.set_num_threads(1)
    keep_memory()


def training_of(layers: int, width: int, heads: int, rows: int, window_tokens: int) -> Any:
    import torch

    from palinode import LtrObjective, Speedrun, modern
    from palinode.base.example import SPECIAL_NAMES, SpecialTokens
    from palinode.base.seeds import generator
    from palinode.data.windows import TrainWindows
    from palinode.train.loop import Training
    from palinode.train.optim import build_optimizers

    specials = SpecialTokens(VOCABULARY - len(SPECIAL_NAMES))
    model = modern(layers=layers, width=width, heads=heads).build(VOCABULARY, window_tokens, 0)
    tokens = torch.randint(0, specials.first_id, (1_000_000,), generator=generator(0, "windows"))
    recipe = Speedrun(batch_windows=rows, steps=1000)
    return Training(
        model=model.train(),
        optimizers=build_optimizers(recipe.optimizer, model, model.parameter_groups()),
        objective=LtrObjective(),
        recipe=recipe,
        windows=TrainWindows(tokens.numpy(), window_tokens, seed=0),
        specials=specials,
        seed=0,
        device=torch.device("cpu"),
    )


# --- the audits -------------------------------------------------------------------------------------------------------


def audits() -> float:
    """CPU seconds of all audits of the demo, by the same program for both trees."""
    import torch

    from audit_cost import one_round

    torch.set_num_threads(1)
    return one_round()["all"]


if __name__ == "__main__":
    main()
