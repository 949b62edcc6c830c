"""Time of a training step of Palinode against the same architecture and step written in plain PyTorch.

The shape is that of nanoGPT's CPU quickstart (4 layers, 128 wide, 4 heads, 64 slots, 65 characters). There are three cases: a whole
step (data, forward, backward, clip, fused AdamW, the loss as a number) at batch 12, the same at batch 1, and forward with
backward alone at batch 12. Steps of the two programs alternate in one process, and each is first in every second pair. The ratio is
the median over pairs. CPU seconds are given as well as wall seconds, because other programs change them less.
Run: python benchmarks/step_time.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from machine import machine_facts
from palinode import Gpt2AdamW, LtrObjective, gpt2
from palinode.base import fsio
from palinode.base.example import SPECIAL_NAMES, Draw, Example, SpecialTokens
from palinode.base.seeds import generator
from palinode.data.windows import TrainWindows
from palinode.models import LanguageModel, read
from palinode.objectives.loss import weighted_nats
from palinode.train.loop import Training, take_step
from palinode.train.optim import build_optimizers
from plain import HEADS, LAYERS, SLOTS, VOCABULARY, WIDTH, Plain, PlainLoop, forward_and_backward

RESULT = Path(__file__).parent / "results" / "step_time.json"
CASES = {"training step, batch 12": 12, "training step, batch 1": 1, "forward and backward, batch 12": 12}
PAIRS, WARM_UP = 300, 10
TARGET = 1.05  # the whole step at batch 12

Row = dict[str, Any]
Step = Callable[[], object]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--case", choices=tuple(CASES), help="measure this case here and print it as JSON")
    arguments.add_argument("--threads", type=int, default=1)
    given = arguments.parse_args()
    if given.case:
        print(json.dumps(measure(given.case, given.threads)))
        return
    rows = [in_fresh_process(case, threads) for case in CASES for threads in (1, 2)]
    fsio.write_json(RESULT, {"rows": rows, "target_ratio": TARGET, "pairs": PAIRS, "machine": machine_facts()})
    for row in rows:
        print(
            f"{row['case']}, {row['threads']} threads: plain {row['plain_wall_ms']:.2f} ms, ours {row['ours_wall_ms']:.2f} ms, "
            f"ratio {row['wall_ratio']:.3f} wall, {row['cpu_ratio']:.3f} CPU (s.e. {row['cpu_ratio_standard_error']:.3f})"
        )


def in_fresh_process(case: str, threads: int) -> Row:
    command = [sys.executable, __file__, "--case", case, "--threads", str(threads)]
    return cast(Row, json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))


def measure(case: str, threads: int) -> Row:
    """Median milliseconds of a step of each program, and the median ratios over pairs."""
    torch.set_num_threads(threads)
    plain, ours = steps_of(case)
    for _ in range(WARM_UP):
        plain()
        ours()
    pairs = [timed_pair(plain, ours, ours_first=bool(index % 2)) for index in range(PAIRS)]
    wall = [our_wall / plain_wall for plain_wall, our_wall, _, _ in pairs]
    cpu = sorted(our_cpu / plain_cpu for _, _, plain_cpu, our_cpu in pairs)
    middle = cpu[PAIRS // 10 : -PAIRS // 10]
    return {
        "case": case,
        "threads": threads,
        "plain_wall_ms": 1000 * statistics.median(pair[0] for pair in pairs),
        "ours_wall_ms": 1000 * statistics.median(pair[1] for pair in pairs),
        "wall_ratio": statistics.median(wall),
        "cpu_ratio": statistics.median(cpu),
        "cpu_ratio_standard_error": 1.25 * statistics.pstdev(middle) / len(middle) ** 0.5,
    }


def steps_of(case: str) -> tuple[Step, Step]:
    """(plain, ours): two functions; each call is one step."""
    rows = CASES[case]
    specials = SpecialTokens(VOCABULARY - len(SPECIAL_NAMES))
    model = gpt2(layers=LAYERS, width=WIDTH, heads=HEADS).build(VOCABULARY, SLOTS, 0)
    tokens = torch.randint(0, specials.first_id, (1_000_000,), generator=generator(0, "windows"))
    if case.startswith("training step"):
        loop = PlainLoop(tokens, rows, steps=2000)
        assert count(loop.model) == count(model), "the two must be the same architecture"
        training = new_training(model, tokens, rows, specials)
        return loop.step, lambda: take_step(training)
    example = LtrObjective().example(tokens[: rows * SLOTS].view(rows, SLOTS), Draw(), specials)
    return forward_and_backward(Plain(), example.inputs, example.targets), our_forward_and_backward(model, example)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def new_training(model: LanguageModel, tokens: torch.Tensor, rows: int, specials: SpecialTokens) -> Training:
    recipe = Gpt2AdamW(batch_windows=rows)
    return Training(
        model=model.train(),
        optimizers=build_optimizers(recipe.optimizer, model, model.parameter_groups()),
        objective=LtrObjective(),
        recipe=recipe,
        windows=TrainWindows(tokens.numpy(), SLOTS, seed=0),
        specials=specials,
        seed=0,
        device=torch.device("cpu"),
    )


def our_forward_and_backward(model: LanguageModel, example: Example) -> Step:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss = weighted_nats(example, read(model, example), model.logits)
        torch.autograd.backward(loss.total / example.denominator)

    return step


def timed_pair(plain: Step, ours: Step, *, ours_first: bool) -> tuple[float, float, float, float]:
    """(plain wall, our wall, plain CPU, our CPU) seconds of one step each."""
    if ours_first:
        our_wall, our_cpu = time_step(ours)
        plain_wall, plain_cpu = time_step(plain)
    else:
        plain_wall, plain_cpu = time_step(plain)
        our_wall, our_cpu = time_step(ours)
    return plain_wall, our_wall, plain_cpu, our_cpu


def time_step(step: Step) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
