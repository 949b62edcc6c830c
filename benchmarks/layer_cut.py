"""Time of the layer cut against its parts and against separate evaluations.

The models are untrained, because weights do not change the work.
The parts are one pass of the stack, and one pass of head and scoring for each number of blocks. Separate evaluations means a whole
evaluation of every shortened model. All three are timed one after the other, with one thread, in both directions.
Run: python benchmarks/layer_cut.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from machine import machine_facts
from palinode.base import fsio
from palinode.base.example import SpecialTokens, Windows
from palinode.base.seeds import generator
from palinode.evaluate.layer_cut import cut_layers
from palinode.evaluate.losses import Scoring, Sums, evaluate, evaluating, evaluation_passes
from palinode.models import DecoderConfig, gpt2, read
from palinode.models.base import LanguageModel
from palinode.objectives import LtrObjective

RESULT = Path(__file__).parent / "results" / "layer_cut.json"
BYTES, GPT2 = 256, 50257
WINDOW = 128
REPEATS = 7
MOST_COST, LEAST_SPEEDUP = 1.1, 4.0


@dataclass(frozen=True)
class Case:
    """A model, and how many windows it scores."""

    name: str
    config: DecoderConfig
    vocabulary: int
    windows: int


CASES = (
    Case("16 x 128, bytes", gpt2(layers=16, width=128, heads=4), BYTES, 16),
    Case("16 x 256, bytes", gpt2(layers=16, width=256, heads=4), BYTES, 8),
    Case("4 x 128, bytes", gpt2(layers=4, width=128, heads=4), BYTES, 32),
    Case("8 x 256, GPT-2 vocabulary", gpt2(layers=8, width=256, heads=4), GPT2, 2),
)


class Bench:
    """The work that is timed for one case."""

    def __init__(self, case: Case):
        self.specials = SpecialTokens(case.vocabulary)
        self.config, self.model = case.config, self.build(case.config)
        tokens = torch.randint(0, case.vocabulary, (case.windows, WINDOW), generator=generator(0, "windows"))
        self.windows = Windows(tokens)
        self.passes = evaluation_passes(LtrObjective(), ("ltr", "rtl"))
        self.scoring = Scoring(self.specials, np.ones(case.vocabulary, dtype=np.int64), seed=0)
        self.examples = [example for _, example in self.scoring.examples([self.windows], self.passes)]
        with evaluating(self.model):
            self.states = [read(self.model, example) for example in self.examples]
        self.shorter = [self.cut(blocks) for blocks in range(1, case.config.layers + 1)]

    def build(self, config: DecoderConfig) -> LanguageModel:
        return config.build(self.specials.vocab_size, WINDOW, 0)

    def cut(self, blocks: int) -> LanguageModel:
        model = self.build(self.config)
        model.blocks = model.blocks[:blocks]  # type: ignore[index, assignment]
        return model

    def layer_cut(self) -> None:
        cut_layers(self.model, [self.windows], self.passes, self.scoring)

    def one_by_one(self) -> None:
        for model in self.shorter:
            evaluate(model, [self.windows], self.passes, self.scoring)

    def stack(self) -> None:
        with evaluating(self.model):
            for _, example in self.scoring.examples([self.windows], self.passes):
                read(self.model, example)

    def heads(self) -> None:
        """One pass of head and scoring for each number of blocks."""
        bytes_of = self.scoring.bytes_of_ids()
        with evaluating(self.model):
            for _ in self.shorter:
                for example, states in zip(self.examples, self.states, strict=True):
                    Sums().add(example, states, self.model.logits, bytes_of)


def main() -> None:
    torch.set_num_threads(1)
    rows = [measure(case) for case in CASES]
    targets = {"target_cost": MOST_COST, "target_speedup": LEAST_SPEEDUP}
    fsio.write_json(RESULT, {"rows": rows, **targets, "machine": machine_facts(), "repeats": REPEATS, "window": WINDOW})
    for row in rows:
        print(
            f"{row['case']}: cost {row['cost']['median']:.3f} times its parts, {row['speedup']['median']:.2f} times faster"
        )


def measure(case: Case) -> dict[str, object]:
    """CPU seconds of each kind of work, timed one after the other, and the ratios within each turn."""
    bench = Bench(case)
    work = (bench.layer_cut, bench.stack, bench.heads, bench.one_by_one)
    for each in work:
        each()
    turns = [[seconds(each) for each in work] for _ in range(REPEATS)]
    return {
        "case": case.name,
        "layers": case.config.layers,
        "width": case.config.width,
        "vocabulary": case.vocabulary,
        "slots": 2 * case.windows * WINDOW,
        "layer_cut_seconds": spread([cut for cut, *_ in turns]),
        "parts_seconds": spread([stack + heads for _, stack, heads, _ in turns]),
        "one_by_one_seconds": spread([one_by_one for *_, one_by_one in turns]),
        "cost": spread([cut / (stack + heads) for cut, stack, heads, _ in turns]),
        "speedup": spread([one_by_one / cut for cut, _, _, one_by_one in turns]),
    }


def seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


if __name__ == "__main__":
    main()
