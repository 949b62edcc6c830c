"""Seconds and peak memory of a training step at long rows: Hyena, long convolution and H3 against attention, on the CPU.

The model is a decoder of 2 layers without positions, and the batch is one row. Each case runs in a fresh process. Its peak is the
high-water mark of resident memory (VmHWM) during the steps, minus what was resident before the model was made. The exponent of
growth is log2 of the ratio of the peaks of two lengths; it is 1 for memory that grows in proportion to T. Attention is measured
twice: with PyTorch's fused kernel, which stores no square of scores, and with its plain one, which does. Linux only (/proc/self).
Run: python benchmarks/long_context.py
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from machine import machine_facts
from palinode.base import fsio
from palinode.base.example import Draw, SpecialTokens
from palinode.base.seeds import generator
from palinode.models import DecoderConfig, LanguageModel, read
from palinode.models.mixers import MIXERS
from palinode.objectives import LtrObjective
from palinode.objectives.loss import weighted_nats
from palinode.train.optim import AdamW, build_optimizers

RESULT = Path(__file__).parent / "results" / "long_context.json"
LENGTHS = (1024, 2048, 4096, 8192)
LAYERS, WIDTH, HEADS, VOCABULARY = 2, 32, 2, 40
STEPS = 3
TARGET_EXPONENT = 1.15  # O(T), with some room for measurement noise
CASES: Mapping[str, tuple[str, SDPBackend]] = {
    "hyena": ("hyena", SDPBackend.FLASH_ATTENTION),
    "long_conv": ("long_conv", SDPBackend.FLASH_ATTENTION),
    "h3": ("h3", SDPBackend.FLASH_ATTENTION),
    "attention, fused": ("attention", SDPBackend.FLASH_ATTENTION),
    "attention, plain": ("attention", SDPBackend.MATH),
}
JUDGED = ("hyena", "long_conv", "h3")

Row = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--case", choices=CASES, help="run this case here and print it as JSON")
    arguments.add_argument("--length", type=int, default=LENGTHS[0])
    arguments.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=LENGTHS,
        help="lengths of the table; with other lengths nothing is written",
    )
    given = arguments.parse_args()
    if given.case:
        print(json.dumps(measure(given.case, given.length)))
        return
    rows = [in_fresh_process(case, length) for case in CASES for length in given.lengths]
    result = {"rows": rows, "exponents": {case: exponent(rows, case) for case in CASES}}
    model = {"layers": LAYERS, "width": WIDTH, "vocabulary": VOCABULARY, "judged": JUDGED}
    if tuple(given.lengths) == LENGTHS:
        fsio.write_json(RESULT, {**result, **model, "target_exponent": TARGET_EXPONENT, "machine": machine_facts()})
    for row in rows:
        print(f"{row['case']}, {row['length']}: {row['peak_mib']:.0f} MiB, {row['seconds']:.2f} s")


def in_fresh_process(case: str, length: int) -> Row:
    command = [sys.executable, __file__, "--case", case, "--length", str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return cast(Row, json.loads(done.stdout))


def exponent(rows: list[Row], case: str) -> float | None:
    """Mean over the doublings of the length from the second on; in the first, memory that is allocated once hides the growth."""
    own = [row for row in rows if row["case"] == case][1:]
    if len(own) < 2:
        return None
    grown = math.log2(own[-1]["peak_mib"] / own[0]["peak_mib"])
    return grown / math.log2(own[-1]["length"] / own[0]["length"])


def measure(case: str, length: int) -> Row:
    """Peak MiB above what was resident before, wall and CPU seconds of the fastest step, and the first and last loss."""
    torch.set_num_threads(1)
    kind, backend = CASES[case]
    step_of(kind, backend, 64)()  # loads the code before memory is measured
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is resident now
    step = step_of(kind, backend, length)
    timed, losses = [], []
    for _ in range(STEPS):
        wall, cpu = time.perf_counter(), time.process_time()
        losses.append(step())
        timed.append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        "case": case,
        "length": length,
        "peak_mib": status_mib("VmHWM") - before,
        "seconds": min(wall for wall, _ in timed),
        "cpu_seconds": min(cpu for _, cpu in timed),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def step_of(kind: str, backend: SDPBackend, length: int) -> Step:
    specials = SpecialTokens(VOCABULARY)
    config = DecoderConfig(layers=LAYERS, width=WIDTH, heads=HEADS, position="none", mixer=MIXERS[kind]())
    return Step(config.build(specials.vocab_size, length, 0), specials, length, backend)


class Step:
    """One training step on one row: pass, loss, gradients, AdamW. The call returns the mean loss before the step."""

    def __init__(self, model: LanguageModel, specials: SpecialTokens, length: int, backend: SDPBackend):
        self.model, self.backend = model, backend
        windows = torch.randint(0, specials.first_id, (1, length - 1), generator=generator(0, "windows"))
        self.example = LtrObjective().example(windows, Draw(), specials)
        self.optimizers = build_optimizers(AdamW(), model, model.parameter_groups())

    def __call__(self) -> float:
        with cast(AbstractContextManager[None], sdpa_kernel(self.backend)):
            hidden = read(self.model, self.example)
            loss = weighted_nats(self.example, hidden, self.model.logits_map()).total / self.example.denominator
            torch.autograd.backward(loss)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()


def status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024


if __name__ == "__main__":
    main()
