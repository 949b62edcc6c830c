"""Peak memory of head and loss, forward and backward, at GPT-2's vocabulary: `weighted_nats` against the naive form.

Each case runs in a fresh process. Its peak is the high-water mark of resident memory (VmHWM) while head and loss run forward and
backward, minus what was resident before. It holds the logits, their gradient, and the gradients of head and states. The naive form
computes all logits and calls cross_entropy. Linux only (/proc/self). Run: python benchmarks/loss_memory.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from machine import machine_facts
from palinode.base import fsio
from palinode.base.example import SPECIAL_NAMES, Draw, Example, SpecialTokens
from palinode.base.head import LinearHead
from palinode.base.seeds import generator
from palinode.objectives import LtrObjective
from palinode.objectives.loss import weighted_nats

RESULT = Path(__file__).parent / "results" / "loss_memory.json"
VOCABULARY, SLOTS = 50257, 1024
WIDTHS = (384, 768)
REPEATS = 3
TARGET = 0.4  # of the naive form's peak


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--case", choices=("naive", "chunked"), help="run this case here and print it as JSON")
    arguments.add_argument("--width", type=int, default=WIDTHS[0])
    given = arguments.parse_args()
    if given.case:
        print(json.dumps(measure(given.case, given.width)))
        return
    rows = [compare(width) for width in WIDTHS]
    fsio.write_json(RESULT, {"rows": rows, "target": TARGET, "machine": machine_facts(), "repeats": REPEATS})
    for row in rows:
        print(
            f"width {row['width']}: naive {row['naive_peak_mib']:.0f} MiB, chunked {row['chunked_peak_mib']:.0f} MiB, "
            f"ratio {row['ratio']:.3f}"
        )


def compare(width: int) -> dict[str, float]:
    """The row of one width, with the smallest naive peak and the largest chunked peak."""
    naive = [in_fresh_process("naive", width) for _ in range(REPEATS)]
    chunked = [in_fresh_process("chunked", width) for _ in range(REPEATS)]
    lowest = min(case["peak_mib"] for case in naive)
    highest = max(case["peak_mib"] for case in chunked)
    return {
        "vocabulary": VOCABULARY,
        "slots": SLOTS,
        "width": width,
        "naive_peak_mib": lowest,
        "chunked_peak_mib": highest,
        "ratio": highest / lowest,
        "naive_cpu_seconds": min(case["cpu_seconds"] for case in naive),
        "chunked_cpu_seconds": min(case["cpu_seconds"] for case in chunked),
        "relative_loss_difference": abs(naive[0]["loss"] - chunked[0]["loss"]) / naive[0]["loss"],
        "relative_gradient_difference": abs(naive[0]["gradient_norm"] - chunked[0]["gradient_norm"])
        / naive[0]["gradient_norm"],
    }


def in_fresh_process(case: str, width: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, "--width", str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return cast(dict[str, float], json.loads(done.stdout))


def measure(case: str, width: int) -> dict[str, float]:
    """Peak MiB above what was resident before, CPU seconds, and the numbers in which both forms must agree."""
    torch.set_num_threads(1)
    run(case, *problem(slots=64, vocabulary=512, width=width), chunk_slots=32)  # loads the code
    hidden, head, example = problem(SLOTS, VOCABULARY, width)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is resident now
    before, start = status_mib("VmRSS"), time.process_time()
    loss = run(case, hidden, head, example)
    seconds = time.process_time() - start
    assert head.grad is not None
    return {
        "peak_mib": status_mib("VmHWM") - before,
        "cpu_seconds": seconds,
        "loss": loss,
        "gradient_norm": head.grad.norm().item(),
    }


def problem(slots: int, vocabulary: int, width: int) -> tuple[Tensor, Tensor, Example]:
    """Random states (1, T, D), a head (V, D), and an Example with targets."""
    specials = SpecialTokens(vocabulary - len(SPECIAL_NAMES))
    windows = torch.randint(0, specials.first_id, (1, slots), generator=generator(0, "windows"))
    hidden = torch.randn(1, slots, width, generator=generator(0, "hidden")).requires_grad_()
    head = (torch.randn(vocabulary, width, generator=generator(0, "head")) * 0.02).requires_grad_()
    return hidden, head, LtrObjective().example(windows, Draw(), specials)


def run(case: str, hidden: Tensor, head: Tensor, example: Example, chunk_slots: int | None = None) -> float:
    """Mean nats, after a forward and a backward pass."""
    if case == "naive":
        loss = F.cross_entropy(F.linear(hidden, head).flatten(0, 1), example.targets.flatten())
    else:
        scored = weighted_nats(example, hidden, LinearHead(head), chunk_slots)
        loss = scored.total / example.denominator
    torch.autograd.backward(loss)
    return loss.item()


def status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024


if __name__ == "__main__":
    main()
