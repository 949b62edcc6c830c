"""Are the rates of the recipe `speedrun` good for small models? Each is halved and doubled alone; one row has the rates for 124 M.

Problem and model are those of the challenger in time_to_loss.py, modern(2 layers, 64 wide, 2 heads), to its end. Each row has the
final validation loss minus that of the defaults at the same seed, in nats, as mean, lowest and highest over the seeds.
Run: PALINODE_DATA=... python benchmarks/speedrun_rates.py
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from machine import machine_facts
from palinode import MuonAdamW, Speedrun, modern
from palinode.base import fsio
from palinode.base.config import encode
from palinode.train.schedule import WarmDown
from shakespeare import data_is_missing, settings, train_and_score

RESULT = Path(__file__).parent / "results" / "speedrun_rates.json"
SEEDS = (1, 2, 3)
THREADS = 1
FACTORS = (0.5, 2.0)
DOUBLED = (
    "matrix_learning_rate",
    "embedding_learning_rate",
    "head_learning_rate",
    "vector_learning_rate",
    "weight_decay",
)
# The track-3 recipe of modded-nanogpt, where this one comes from: 124 M parameters, 524 288 tokens a step.
PUBLISHED = MuonAdamW(
    matrix_learning_rate=0.025,
    momentum=0.95,
    embedding_learning_rate=0.7,
    head_learning_rate=0.004,
    vector_learning_rate=0.015,
)

Row = dict[str, Any]


def main() -> int:
    if data_is_missing("speedrun_rates"):
        return 0
    losses: dict[str, list[float]] = {}
    for name, recipe in variants().items():
        losses[name] = [final_nats(recipe, seed) for seed in SEEDS]
        print(name, [round(value, 4) for value in losses[name]], flush=True)
    rows = [
        {"name": name, "recipe": encode(recipe), **comparison(losses[name], losses["defaults"])}
        for name, recipe in variants().items()
    ]
    fsio.write_json(RESULT, {"rows": rows, "seeds": list(SEEDS), "machine": machine_facts()})
    return 0


def variants() -> dict[str, Speedrun]:
    """Recipes by the name of what differs from the defaults."""
    recipes = {"defaults": Speedrun(), "published for 124 M": Speedrun(optimizer=PUBLISHED)}
    for field in DOUBLED:
        for factor in FACTORS:
            rate = getattr(MuonAdamW(), field) * factor
            recipes[f"{field} x {factor:g}"] = Speedrun(optimizer=MuonAdamW().with_(**{field: rate}))
    for momentum in (0.7, 0.95):
        recipes[f"momentum {momentum:g}"] = Speedrun(optimizer=MuonAdamW(momentum=momentum))
    for share in (0.25, 1.0):
        recipes[f"warm-down over {share:.0%}"] = Speedrun(schedule=WarmDown(share=share))
    return recipes


def final_nats(recipe: Speedrun, seed: int) -> float:
    run = train_and_score(settings(modern(layers=2, width=64, heads=2), recipe), seed, THREADS, evaluations=1)
    return float(run["evaluations"][-1]["nats_per_token"])


def comparison(nats: list[float], defaults: list[float]) -> Row:
    differences = [mine - theirs for mine, theirs in zip(nats, defaults, strict=True)]
    return {
        "nats_per_token": statistics.fmean(nats),
        "difference": {"mean": statistics.fmean(differences), "lowest": min(differences), "highest": max(differences)},
    }


if __name__ == "__main__":
    sys.exit(main())
