"""How much of the machine's own rate on matrix products a training step reaches, for models and batches of several sizes.

A step of model and optimizer computes a known number of FLOPs. The product rate is the rate of the products of the model's own
matrices alone (`train/product_rate.py`). The share is (FLOPs of a step / its seconds) / product rate. Steps and rounds of products
take turns in one process. Every case has a process of its own, started like a worker: memory stays in the process, in huge pages.
With one thread the seconds are CPU seconds, which other programs change least. With two threads they are wall seconds, because a
thread that waits also uses CPU time. Linux only (/proc/self).

    python benchmarks/step_rate.py
        every case: about 10 minutes on two quiet cores, 15 where bfloat16 is measured too
    python benchmarks/step_rate.py --case "2x64, 16 x 128"
        this case only; its rows replace those in the result
    python benchmarks/step_rate.py --case "2x64, 16 x 128" --against OTHER/src
        steps of another source tree and of this one in turn: the ratio of their CPU seconds. Nothing is written.
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
from typing import Any, NamedTuple, cast

import torch

import palinode
from machine import machine_facts
from palinode import LtrObjective, Speedrun, modern
from palinode.base import fsio
from palinode.base.example import SPECIAL_NAMES, SpecialTokens
from palinode.base.memory import keep_memory, with_huge_pages
from palinode.base.seeds import generator
from palinode.data.windows import TrainWindows
from palinode.train.device import compiled, computes_bfloat16
from palinode.train.loop import Training, take_step
from palinode.train.optim import MuonAdamW, build_optimizers

RESULT = Path(__file__).parent / "results" / "step_rate.json"
VOCABULARY = 259  # the bytes and three special tokens
WARM_UP_STEPS = 10
LEAST_PAIRS, MOST_PAIRS, SECONDS_PER_CASE = 15, 100, 8.0
THREADS = (1, 2)
TARGET_SHARES = {"2x64, 16 x 128": 0.64, "4x128, 16 x 128": 0.77, "2x64, 32 x 20": 0.45}  # one thread, float32
TARGET_PAGE_FAULTS = 50  # a step of any case in float32 makes fewer
TARGET_BFLOAT16 = 1.5  # float32 CPU seconds / bfloat16 CPU seconds, width 256

Row = dict[str, Any]


class Case(NamedTuple):
    layers: int
    width: int
    heads: int
    rows: int
    window_tokens: int

    def modes(self) -> tuple[str, ...]:
        """The ways to compute a step; a compiled step is measured for the smallest model only."""
        return ("float32", "bfloat16", "compiled") if self.width == 64 else ("float32", "bfloat16")


CASES = {
    f"{layers}x{width}, {rows} x {window_tokens}": Case(layers, width, heads, rows, window_tokens)
    for layers, width, heads, batches in (
        (2, 64, 2, ((16, 64), (16, 128), (32, 20), (4, 20))),
        (4, 128, 4, ((16, 64), (16, 128))),
        (6, 256, 4, ((16, 64), (16, 128))),
    )
    for rows, window_tokens in batches
}
WIDE = [name for name, case in CASES.items() if case.width == 256]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--case", choices=tuple(CASES), help="measure this case only")
    arguments.add_argument("--against", type=Path, metavar="SRC", help="the folder src of another checkout")
    arguments.add_argument("--threads", type=int, choices=THREADS, default=1, help="with --against")
    arguments.add_argument(
        "--mode", choices=("float32", "bfloat16", "compiled"), default="float32", help="with --against"
    )
    arguments.add_argument("--part", choices=("row", "steps"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.part == "row":
        print(json.dumps(measure(given.case, given.threads, given.mode)))
    elif given.part == "steps":
        take_steps_as_told(given.case, given.threads, given.mode)
    elif given.against:
        if not given.case or not (given.against / "palinode").is_dir():
            arguments.error("--against needs --case and a folder that holds the package palinode")
        print(json.dumps(against(given.case, given.threads, given.mode, given.against), indent=2))
    else:
        measure_cases((given.case,) if given.case else tuple(CASES))


def measure_cases(names: Sequence[str]) -> None:
    """Measure these cases. Their rows replace those of the same cases in the result."""
    emulated = computes_bfloat16() is False
    before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"rows": [], "bfloat16": []}
    rows = [row for row in before["rows"] if row["case"] not in names]
    pairs = [row for row in before["bfloat16"] if row["case"] not in names]
    for name in names:
        for mode in CASES[name].modes():
            if mode == "bfloat16" and emulated:
                print(f"{name}: bfloat16 is not measured, because this CPU emulates it", flush=True)
                continue
            for threads in THREADS:
                rows.append(in_fresh_process(name, threads, mode))
                print(json.dumps(rows[-1]), flush=True)
        if name in WIDE and not emulated:
            pairs.append({"case": name, **in_turn(Variant(name, 1, "float32"), Variant(name, 1, "bfloat16"))})
    result = {
        "rows": sorted(rows, key=lambda row: list(CASES).index(row["case"])),
        "bfloat16": pairs,
        "bfloat16_is_emulated": emulated,
        "vocabulary": VOCABULARY,
        "target_shares": TARGET_SHARES,
        "target_page_faults": TARGET_PAGE_FAULTS,
        "target_bfloat16": TARGET_BFLOAT16,
        "machine": machine_facts(),
    }
    fsio.write_json(RESULT, result)


def in_fresh_process(name: str, threads: int, mode: str) -> Row:
    command = [*command_of(Variant(name, threads, mode)), "--part", "row"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=with_huge_pages(os.environ))
    return cast(Row, json.loads(done.stdout))


# --- one case, in its own process -------------------------------------------------------------------------------------


def measure(name: str, threads: int, mode: str) -> Row:
    """The row of one case: steps and rounds of products in turn."""
    from palinode.train.product_rate import products_of  # another source tree may not have it

    keep_memory()
    torch.set_num_threads(threads)
    new_training(Case(1, 16, 1, 2, 8), "float32")  # loads the code of models and optimizers
    resident_mib = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is resident now
    training = new_training(CASES[name], mode)
    warm_up(training)
    peak_mib = status_mib("VmHWM") - resident_mib
    products = products_of(training)
    assert products is not None
    clock = time.process_time if threads == 1 else time.perf_counter
    products.rate(clock)
    before, steps, rates = training.counters, list[Step](), list[float]()
    counted = before.train_flops, before.optimizer_flops
    began = time.perf_counter()
    while len(steps) < LEAST_PAIRS or (len(steps) < MOST_PAIRS and time.perf_counter() - began < SECONDS_PER_CASE):
        steps.append(timed_step(training))
        rates.append(products.rate(clock))
    model, optimizer = training.counters.train_flops - counted[0], training.counters.optimizer_flops - counted[1]
    step_flops = (model + optimizer) / len(steps)
    seconds = [step.cpu_seconds if threads == 1 else step.wall_seconds for step in steps]
    shares = [step_flops / each / rate for each, rate in zip(seconds, rates, strict=True)]
    return {
        "case": name,
        "threads": threads,
        "mode": mode,
        "steps": len(steps),
        "cpu_ms": quartiles([1000 * step.cpu_seconds for step in steps]),
        "wall_ms": quartiles([1000 * step.wall_seconds for step in steps]),
        "model_gflop": model / len(steps) / 1e9,
        "optimizer_gflop": optimizer / len(steps) / 1e9,
        "product_gflop_per_second": quartiles([rate / 1e9 for rate in rates]),
        "share": quartiles(shares),
        "page_faults": quartiles([step.page_faults for step in steps]),
        "system_share": sum(step.system_seconds for step in steps) / sum(step.cpu_seconds for step in steps),
        "peak_mib": peak_mib,
        "load_average": round(os.getloadavg()[0], 2),
    }


class Step(NamedTuple):
    """The cost of one training step."""

    wall_seconds: float
    cpu_seconds: float
    system_seconds: float
    page_faults: float


def timed_step(training: Training) -> Step:
    used, cpu, wall = resource.getrusage(resource.RUSAGE_SELF), time.process_time(), time.perf_counter()
    take_step(training)
    wall, cpu, after = time.perf_counter() - wall, time.process_time() - cpu, resource.getrusage(resource.RUSAGE_SELF)
    return Step(wall, cpu, after.ru_stime - used.ru_stime, float(after.ru_minflt - used.ru_minflt))


def new_training(case: Case, mode: str) -> Training:
    """A training on random bytes. In bfloat16 the Newton-Schulz steps of Muon have the same precision as the forward pass."""
    specials = SpecialTokens(VOCABULARY - len(SPECIAL_NAMES))
    model = modern(layers=case.layers, width=case.width, heads=case.heads).build(VOCABULARY, case.window_tokens, 0)
    tokens = torch.randint(0, specials.first_id, (1_000_000,), generator=generator(0, "windows"))
    recipe = Speedrun(batch_windows=case.rows, steps=1000)
    if mode == "bfloat16":
        recipe = recipe.with_(precision="bfloat16", optimizer=MuonAdamW(newton_schulz_precision="bfloat16"))
    return Training(
        model=compiled(model.train()) if mode == "compiled" else model.train(),
        optimizers=build_optimizers(recipe.optimizer, model, model.parameter_groups()),
        objective=LtrObjective(),
        recipe=recipe,
        windows=TrainWindows(tokens.numpy(), case.window_tokens, seed=0),
        specials=specials,
        seed=0,
        device=torch.device("cpu"),
    )


def warm_up(training: Training) -> None:
    for _ in range(WARM_UP_STEPS):
        take_step(training)


# --- two variants in turn, each in its own process --------------------------------------------------------------------


class Variant(NamedTuple):
    """A case as it is computed by the program of one source tree."""

    case: str
    threads: int
    mode: str
    source: Path = Path(palinode.__file__).parents[1]


def against(name: str, threads: int, mode: str, source: Path) -> Row:
    """The CPU milliseconds of a step in the other source tree (`first`) and in this one (`second`), and their ratio."""
    return {"case": name, **in_turn(Variant(name, threads, mode, source), Variant(name, threads, mode))}


def in_turn(first: Variant, second: Variant) -> Row:
    """The CPU milliseconds of steps of two variants, and the ratio first / second over pairs of steps."""
    with stepper(first) as step_first, stepper(second) as step_second:
        pairs, began = list[tuple[float, float]](), time.perf_counter()
        while len(pairs) < LEAST_PAIRS or (
            len(pairs) < MOST_PAIRS and time.perf_counter() - began < 2 * SECONDS_PER_CASE
        ):
            if len(pairs) % 2:  # each is first in every second pair
                after, before = step_second(), step_first()
            else:
                before, after = step_first(), step_second()
            pairs.append((before, after))
    return {
        "threads": first.threads,
        "steps": len(pairs),
        "first_cpu_ms": quartiles([1000 * before for before, _ in pairs]),
        "second_cpu_ms": quartiles([1000 * after for _, after in pairs]),
        "ratio": quartiles([before / after for before, after in pairs]),
        "load_average": round(os.getloadavg()[0], 2),
    }


@contextmanager
def stepper(variant: Variant) -> Iterator[Callable[[], float]]:
    """A process that takes a step for each call; the call returns the CPU seconds of the step."""
    paths = [str(variant.source.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**with_huge_pages(os.environ), "PYTHONPATH": os.pathsep.join(paths)}
    command = [*command_of(variant), "--part", "steps"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        orders, answers = process.stdin, process.stdout

        def step() -> float:
            orders.write("step\n")
            orders.flush()
            return float(answers.readline())

        step()  # waits until the process has warmed up
        yield step
        orders.close()


def take_steps_as_told(name: str, threads: int, mode: str) -> None:
    """Take a step for each line of standard input, and print its CPU seconds."""
    keep_memory()
    torch.set_num_threads(threads)
    training = new_training(CASES[name], mode)
    warm_up(training)
    for _ in sys.stdin:
        print(timed_step(training).cpu_seconds, flush=True)


def command_of(variant: Variant) -> list[str]:
    options = ["--case", variant.case, "--threads", str(variant.threads), "--mode", variant.mode]
    return [sys.executable, __file__, *options]


def quartiles(values: Sequence[float]) -> Row:
    """The median, and the quartiles under the names `lowest` and `highest` that the page prints in brackets."""
    lower, middle, upper = statistics.quantiles(values, n=4)
    return {"median": middle, "lowest": lower, "highest": upper}


def status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024


if __name__ == "__main__":
    main()
