"""Forward and backward of the decoder against the same architecture written in plain PyTorch: what the rooms cost.

Shape: nanoGPT's CPU quickstart (4 layers, 128 wide, 4 heads, 64 slots, batch 12, 65 characters). Steps of the two alternate, the
first of each pair in turn, in one process for each thread count; the ratio is the median over pairs. Ours goes through an
objective's Example, `models.direction.read` and `weighted_nats`; theirs is module, view, cross_entropy. CPU seconds are given
beside wall seconds: they hold on a shared machine. Run: python benchmarks/model_overhead.py
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palinode.base import fsio
from palinode.base.example import SPECIAL_NAMES, Draw, SpecialTokens
from palinode.base.seeds import generator
from palinode.models import gpt2, read
from palinode.objectives import LtrObjective
from palinode.objectives.loss import weighted_nats

RESULT = Path(__file__).parent / "results" / "model_overhead.json"
LAYERS, WIDTH, HEADS, SLOTS, ROWS, VOCABULARY = 4, 128, 4, 64, 12, 65
PAIRS, WARM_UP = 150, 5
TARGET = 1.05


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_norm = nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.second_norm = nn.LayerNorm(WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, slots, width = x.shape
        heads = (part.view(rows, slots, HEADS, -1).transpose(1, 2) for part in self.qkv(self.first_norm(x)).chunk(3, 2))
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, slots, width))
        return x + self.down(F.gelu(self.up(self.second_norm(x))))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(SLOTS, WIDTH)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(inputs) + self.position(torch.arange(inputs.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--threads", type=int, help="measure with this many threads here and print it as JSON")
    given = arguments.parse_args()
    if given.threads:
        print(json.dumps(measure(given.threads)))
        return
    rows = [in_fresh_process(threads) for threads in (1, 2)]
    machine = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    fsio.write_json(RESULT, {"rows": rows, "target": TARGET, "pairs": PAIRS, "machine": machine})
    for row in rows:
        print(
            f"{row['threads']} threads: plain {row['plain_wall_ms']:.1f} ms, ours {row['ours_wall_ms']:.1f} ms, "
            f"ratio {row['wall_ratio']:.3f} wall, {row['cpu_ratio']:.3f} CPU (s.e. {row['cpu_ratio_standard_error']:.3f})"
        )


def in_fresh_process(threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--threads", str(threads)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(threads: int) -> dict[str, float]:
    """Median milliseconds of a step of each, and the median ratios over pairs."""
    torch.set_num_threads(threads)
    specials = SpecialTokens(VOCABULARY - len(SPECIAL_NAMES))
    windows = torch.randint(0, specials.first_id, (ROWS, SLOTS), generator=generator(0, "windows"))
    example = LtrObjective().example(windows, Draw(), specials)
    plain = Plain()
    ours = gpt2(layers=LAYERS, width=WIDTH, heads=HEADS).build(VOCABULARY, SLOTS, 0)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())

    def plain_step() -> None:
        plain.zero_grad(set_to_none=True)
        plain(example.inputs, example.targets).backward()

    def our_step() -> None:
        ours.zero_grad(set_to_none=True)
        loss = weighted_nats(example, read(ours, example), ours.logits)
        (loss.total / example.denominator).backward()

    for _ in range(WARM_UP):
        plain_step(), our_step()
    pairs = [timed_pair(plain_step, our_step, ours_first=bool(index % 2)) for index in range(PAIRS)]
    wall = [our_wall / plain_wall for plain_wall, our_wall, _, _ in pairs]
    cpu = sorted(our_cpu / plain_cpu for _, _, plain_cpu, our_cpu in pairs)
    middle = cpu[PAIRS // 10 : -PAIRS // 10]
    return {
        "threads": threads,
        "plain_wall_ms": 1000 * statistics.median(pair[0] for pair in pairs),
        "ours_wall_ms": 1000 * statistics.median(pair[1] for pair in pairs),
        "wall_ratio": statistics.median(wall),
        "cpu_ratio": statistics.median(cpu),
        "cpu_ratio_standard_error": 1.25 * statistics.pstdev(middle) / len(middle) ** 0.5,
    }


def timed_pair(
    plain: Callable[[], None], ours: Callable[[], None], *, ours_first: bool
) -> tuple[float, float, float, float]:
    """(plain wall, our wall, plain CPU, our CPU) seconds of one step each."""
    if ours_first:
        our_wall, our_cpu = timed(ours)
        plain_wall, plain_cpu = timed(plain)
    else:
        plain_wall, plain_cpu = timed(plain)
        our_wall, our_cpu = timed(ours)
    return plain_wall, our_wall, plain_cpu, our_cpu


def timed(step: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
