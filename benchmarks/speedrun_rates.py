"""Are the rates of `speedrun` well chosen for small models? Each is halved and doubled alone; beside them, those for 124 M.

Problem and model: those of time_to_loss.py's challenger, modern(2 layers, 64 wide, 2 heads), to its end. The number is the final
validation loss less that of the defaults at the same seed, in nats; mean, lowest and highest over the seeds.
Run: PALINODE_DATA=... python benchmarks/speedrun_rates.py
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from machine import described
from palinode import MuonAdamW, Speedrun, modern
from palinode.base import fsio
from palinode.base.config import encode
from palinode.train.schedule import WarmDown
from shakespeare import no_data, settings, trained

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
    if no_data("speedrun_rates"):
        return 0
    losses: dict[str, list[float]] = {}
    for name, recipe in variants().items():
        losses[name] = [final_nats(recipe, seed) for seed in SEEDS]
        print(name, [round(value, 4) for value in losses[name]], flush=True)
    rows = [
        {"name": name, "recipe": encode(recipe), **compared(losses[name], losses["defaults"])}
        for name, recipe in variants().items()
    ]
    fsio.write_json(RESULT, {"rows": rows, "seeds": list(SEEDS), "machine": described()})
    return 0


def variants() -> dict[str, Speedrun]:
    """Recipes by what differs from the defaults."""
    found = {"defaults": Speedrun(), "published for 124 M": Speedrun(optimizer=PUBLISHED)}
    for field in DOUBLED:
        for factor in FACTORS:
            rate = getattr(MuonAdamW(), field) * factor
            found[f"{field} x {factor:g}"] = Speedrun(optimizer=MuonAdamW().with_(**{field: rate}))
    for momentum in (0.7, 0.95):
        found[f"momentum {momentum:g}"] = Speedrun(optimizer=MuonAdamW(momentum=momentum))
    for share in (0.25, 1.0):
        found[f"warm-down over {share:.0%}"] = Speedrun(schedule=WarmDown(share=share))
    return found


def final_nats(recipe: Speedrun, seed: int) -> float:
    found = trained(settings(modern(layers=2, width=64, heads=2), recipe), seed, THREADS, evaluations=1)
    return float(found["evaluations"][-1]["nats_per_token"])


def compared(found: list[float], defaults: list[float]) -> Row:
    differences = [mine - theirs for mine, theirs in zip(found, defaults, strict=True)]
    return {
        "nats_per_token": statistics.fmean(found),
        "difference": {"mean": statistics.fmean(differences), "lowest": min(differences), "highest": max(differences)},
    }


if __name__ == "__main__":
    sys.exit(main())
