"""Is .004 a good rate for the hlb recipe at the laptop sizes of experiments/mask.py? It is halved and doubled at three of them.

The settings are those of the experiment's arm that reads left to right only, on WikiText-2, to the end of its tokens. Each row has
the final validation loss in nats a token, and the difference from the loss at the experiment's own rate and the same seed, as mean,
lowest and highest.
Run: PALINODE_DATA=... python benchmarks/mask_rates.py      (about half an hour on one quiet core)
To try it: python benchmarks/mask_rates.py --tokens 4096     (stops early, and writes nothing)
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from machine import machine_facts
from palinode import RunSettings
from palinode.base import fsio
from palinode.data.store import prepare
from palinode.run.scoring import evaluate_split
from palinode.spec.load import load
from palinode.train.loop import DivergedError, take_step
from palinode.train.optim import HlbAdamW
from palinode.train.recipe import Hlb
from shakespeare import as_trained, data_is_missing, new_training

RESULT = Path(__file__).parent / "results" / "mask_rates.json"
EXPERIMENT = Path(__file__).parent.parent / "experiments" / "mask.py"
CORPUS = "data:wikitext-2"
SCALES = ("2x64", "2x256", "8x64")
FACTORS = (1.0, 0.5, 2.0)  # of the experiment's own rate, which comes first
SEEDS = (1, 2, 3)
THREADS = 1

Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, help="stop each run after this many tokens, and write nothing")
    tokens = parser.parse_args().tokens
    if data_is_missing("mask_rates", "wikitext-2"):
        return 0
    torch.set_num_threads(THREADS)
    rows = [row for scale in SCALES for row in rows_at(scale, SEEDS if tokens is None else SEEDS[:1], tokens)]
    if tokens is None:
        fsio.write_json(RESULT, {"rows": rows, "seeds": list(SEEDS), "machine": machine_facts()})
    return 0


def rows_at(scale: str, seeds: tuple[int, ...], tokens: int | None) -> list[Row]:
    """One row for each rate at this size."""
    chosen = settings(scale, tokens)
    nats: dict[float, list[float | None]] = {}
    for factor in FACTORS:
        with_this_rate = with_rate(chosen, factor)
        nats[factor] = [final_nats(with_this_rate, seed) for seed in seeds]
        print(scale, rate_of(with_this_rate), nats[factor], flush=True)
    return [
        {"scale": scale, "learning_rate": rate_of(with_rate(chosen, factor)), **comparison(nats[factor], nats[1.0])}
        for factor in FACTORS
    ]


def settings(scale: str, tokens: int | None) -> RunSettings:
    """The settings of the experiment's `ltr` arm at this size, with the loss as its only score."""
    changes: dict[str, Any] = {
        "data.corpus": CORPUS,
        "evaluation.layer_cut_refit_steps": 0,
        "evaluation.layer_cut": False,
    }
    if tokens is not None:
        changes |= {"recipe.max_tokens_read": tokens, "recipe.max_ltr_tokens": tokens, "evaluation.max_tokens": 2000}
    resolved = load(EXPERIMENT).resolve("laptop", changes, None)
    own = resolved.settings("ltr", scale)
    return own.with_(evaluation=own.evaluation.with_(directions=("ltr",)))


def with_rate(chosen: RunSettings, factor: float) -> RunSettings:
    recipe = chosen.recipe
    assert isinstance(recipe, Hlb)
    optimizer = recipe.optimizer.with_(learning_rate=rate_of(chosen) * factor)
    return chosen.with_(recipe=recipe.with_(optimizer=optimizer))


def rate_of(chosen: RunSettings) -> float:
    optimizer = chosen.recipe.optimizer
    assert isinstance(optimizer, HlbAdamW)
    assert optimizer.learning_rate is not None
    return optimizer.learning_rate


def final_nats(chosen: RunSettings, seed: int) -> float | None:
    """The validation loss at the end; None where training diverged."""
    data = prepare(chosen.data)
    training = new_training(chosen, data, seed)
    training.model.train()
    try:
        while not training.finished:
            take_step(training)
    except DivergedError:
        return None
    scores = evaluate_split(as_trained(chosen, training, data), "validation").scores
    return scores["ltr"].nats_per_token


def comparison(nats: list[float | None], own: list[float | None]) -> Row:
    """The mean loss and the spread of the differences; None where a run diverged."""
    pairs = [(mine, theirs) for mine, theirs in zip(nats, own, strict=True) if mine is not None and theirs is not None]
    diverged = sum(value is None for value in nats)
    if diverged or len(pairs) < len(nats):
        return {"nats_per_token": None, "difference": None, "diverged": diverged}
    differences = [mine - theirs for mine, theirs in pairs]
    return {
        "nats_per_token": statistics.fmean(mine for mine, _ in pairs),
        "difference": {"mean": statistics.fmean(differences), "lowest": min(differences), "highest": max(differences)},
        "diverged": 0,
    }


if __name__ == "__main__":
    sys.exit(main())
