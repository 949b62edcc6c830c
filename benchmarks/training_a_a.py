"""Does the verdict rule see differences where there are none? Two identical arms are trained with different seeds, 40 times.

Both arms are a decoder of 2 layers that reads the Python documentation left to right, like the arm `ltr` of experiments/demo.py.
The first arm has the seeds 6k + 1 to 6k + 3 and the second arm the seeds 6k + 4 to 6k + 6, so the two arms differ by nothing but
chance. The verdict is the one of a family of one
comparison with a smallest effect of 0, which says "better" or "worse" as soon as the interval excludes 0.

The scores are written to results/training_a_a.json as they come. A program that was stopped goes on where it stopped.
Run: python benchmarks/training_a_a.py --processes 2      (about an hour on two cores)
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from machine import machine_facts
from palinode import DataConfig, EvaluationConfig, LtrObjective, RunSettings, Speedrun, modern
from palinode.analysis.intervals import t_interval
from palinode.base import fsio
from palinode.base.config import content_hash, encode
from palinode.data.store import prepare
from palinode.run.scoring import evaluate_split
from palinode.train.loop import take_step
from shakespeare import as_trained, new_training

RESULT = Path(__file__).parent / "results" / "training_a_a.json"
SETTINGS = RunSettings(
    data=DataConfig(corpus="python-docs", tokenizer="byte", window_tokens=128),
    model=modern(layers=2, width=64, heads=2),
    objective=LtrObjective(),
    recipe=Speedrun(steps=200, batch_windows=16),
    evaluation=EvaluationConfig(max_tokens=30_000, directions=("ltr",)),
)
PAIRS = 40
SEEDS_OF_AN_ARM = 3
CONFIDENCE = 0.95
MOST_WRONG = 5  # of 40; with an error of 5 % each, more than 5 come in 1.4 % of such benchmarks

Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="training processes of one thread each")
    processes = parser.parse_args().processes
    scores = stored_scores(RESULT)
    missing = [seed for seed in every_seed() if seed not in scores]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for seed, nats in pool.imap_unordered(seed_and_nats, missing):
            scores[seed] = nats
            fsio.write_json(RESULT, result(scores))
    fsio.write_json(RESULT, result(scores))
    print(json.dumps({name: value for name, value in result(scores).items() if name not in ("nats", "pairs")}))
    return 0


def every_seed() -> range:
    return range(1, 2 * SEEDS_OF_AN_ARM * PAIRS + 1)


def stored_scores(path: Path) -> dict[int, float]:
    """The scores by seed that an earlier call wrote with the same settings."""
    if not path.exists():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["settings_hash"] != content_hash(encode(SETTINGS)):
        return {}
    return {int(seed): nats for seed, nats in stored["nats"].items()}


def seed_and_nats(seed: int) -> tuple[int, float]:
    """The seed, and the validation loss in nats a token at the end of its run."""
    torch.set_num_threads(1)
    data = prepare(SETTINGS.data)
    training = new_training(SETTINGS, data, seed)
    training.model.train()
    while not training.finished:
        take_step(training)
    return seed, evaluate_split(as_trained(SETTINGS, training, data), "validation").scores["ltr"].nats_per_token


def result(scores: Mapping[int, float]) -> Row:
    """All scores, the interval of each whole pair of arms, and how many intervals exclude 0."""
    pairs = [row for pair in range(PAIRS) if (row := pair_row(pair, scores)) is not None]
    return {
        "settings_hash": content_hash(encode(SETTINGS)),
        "steps": SETTINGS.recipe.steps,
        "confidence": CONFIDENCE,
        "seeds_of_an_arm": SEEDS_OF_AN_ARM,
        "planned_pairs": PAIRS,
        "complete_pairs": len(pairs),
        "better_or_worse": sum(row["outcome"] != "cannot tell" for row in pairs),
        "target_most": MOST_WRONG,
        "nats": {str(seed): scores[seed] for seed in sorted(scores)},
        "pairs": pairs,
        "machine": machine_facts(),
    }


def pair_row(pair: int, scores: Mapping[int, float]) -> Row | None:
    """The interval of one pair of arms and its outcome; None while a run is missing. Below 0 the first arm is better."""
    first = [2 * SEEDS_OF_AN_ARM * pair + 1 + place for place in range(SEEDS_OF_AN_ARM)]
    couples = [(seed, seed + SEEDS_OF_AN_ARM) for seed in first]
    if any(seed not in scores for couple in couples for seed in couple):
        return None
    interval = t_interval([scores[one] - scores[other] for one, other in couples], CONFIDENCE)
    assert interval is not None
    outcome = "better" if interval.high < 0 else "worse" if interval.low > 0 else "cannot tell"
    return {"pair": pair, "low": interval.low, "high": interval.high, "outcome": outcome}


if __name__ == "__main__":
    sys.exit(main())
