"""Time to loss: how much sooner the `speedrun` recipe reaches the loss at which `gpt2-adamw` ends.

Data: tinyshakespeare, characters, first 90 % train, the other 111 540 validation ($PALINODE_DATA/tinyshakespeare/input.txt).
Baseline: nanoGPT's CPU quickstart, recipe `gpt2-adamw` at its defaults: gpt2(4 layers, 128 wide, 4 heads), context 64, batch 12,
2000 steps, 1e-3 cosine to 1e-4, no dropout. Challengers: recipe `speedrun` at its defaults on modern(2 layers, 64 wide, 2 heads),
for which its steps were chosen; on modern(4 layers, 128 wide, 4 heads), which separates the recipe from the size; and on the same
model with a convolution of three tokens in place of attention in every second layer, whose wider MLP brings it to the same size
(.1 % more parameters). The steps of the last two were chosen at this size, with seed 1 (180 steps) and the seeds 11 and 12 (140
steps): 12 windows a step, and the rate falls over the last .7. All train and are scored on windows of 64 targets after a direction
token, without overlap, on the whole validation split. The last 63 targets of a window count: the first one has no context.
(nanoGPT's own code ended at 1.892 nats on the whole validation split.)

A round trains every arm at one seed, in one fresh process, in turns: each arm takes a thirty-fifth of its steps, then the next one.
So the arms of a ratio meet the same conditions; when they ran one after the other, the seconds of a step of one arm differed by a
third between two rounds. Seconds are those of the training steps; preparing data, building and evaluating are left out for all. As
in a run, one thread computes and memory stays in the process. CPU seconds are given as well as wall seconds: on a busy machine wall
time is in part waiting.

Run: PALINODE_DATA=... python benchmarks/time_to_loss.py --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from machine import machine_facts
from palinode import Gpt2AdamW, Speedrun, gpt2, modern
from palinode.base import fsio
from palinode.base.config import encode
from palinode.base.memory import keep_memory, with_huge_pages
from palinode.models import DecoderConfig
from palinode.models.mixers import AttentionConfig, BaseConvConfig
from palinode.train.recipe import Recipe
from palinode.train.schedule import WarmDown
from shakespeare import data_is_missing, settings, train_in_turns

RESULT = Path(__file__).parent / "results" / "time_to_loss.json"
SHAPES: dict[str, tuple[DecoderConfig, Recipe]] = {
    "gpt2-adamw": (gpt2(layers=4, width=128, heads=4), Gpt2AdamW()),
    "speedrun": (modern(layers=2, width=64, heads=2), Speedrun()),
    "speedrun at the same size": (
        modern(layers=4, width=128, heads=4),
        Speedrun(steps=180, batch_windows=12, schedule=WarmDown(share=0.7)),
    ),
    "speedrun with convolutions": (
        modern(layers=4, width=128, heads=4).with_(mixers=(BaseConvConfig(), AttentionConfig()), mlp_mult=4.75),
        Speedrun(steps=140, batch_windows=12, schedule=WarmDown(share=0.7)),
    ),
}
ARMS = {name: settings(model, recipe) for name, (model, recipe) in SHAPES.items()}
BASELINE, *CHALLENGERS = ARMS
EVALUATIONS = 35  # of a challenger, evenly spread, so that its time is up to a thirty-fifth of a run too long
TARGET = 8.0  # times less wall time at the same size

Row = dict[str, Any]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--seed", type=int, help="train every arm here with this seed and print them as JSON")
    given = arguments.parse_args()
    if data_is_missing("time_to_loss"):
        return 0
    if given.seed is not None:
        keep_memory()
        evaluations = {name: 1 if name == BASELINE else EVALUATIONS for name in ARMS}
        print(json.dumps(train_in_turns(ARMS, given.seed, given.threads, evaluations, turns=EVALUATIONS)))
        return 0
    rounds = []
    for seed in range(1, given.rounds + 1):
        rounds.append(comparison(seed, in_fresh_process(seed, given.threads)))
        print(as_text(rounds[-1]), flush=True)
    fsio.write_json(RESULT, {"rounds": rounds, **summary(rounds), **conditions(given.threads)})
    return 0


def in_fresh_process(seed: int, threads: int) -> dict[str, Row]:
    command = [sys.executable, __file__, "--seed", str(seed), "--threads", str(threads)]
    environment = with_huge_pages(os.environ)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return cast(dict[str, Row], json.loads(done.stdout))


def comparison(seed: int, runs: dict[str, Row]) -> Row:
    """One round: what each challenger used until it reached the final loss of the baseline, and for its whole run."""
    end = runs[BASELINE]["evaluations"][-1]
    against = {name: against_baseline(end, runs[name]["evaluations"]) for name in CHALLENGERS}
    return {"seed": seed, "target_nats_per_token": end["nats_per_token"], "runs": runs, "against": against}


def against_baseline(end: Row, evaluations: list[Row]) -> Row:
    """Ratios baseline / challenger when the challenger first reaches the baseline's final loss (None if never), and at its end."""
    reached = next((row for row in evaluations if row["nats_per_token"] <= end["nats_per_token"]), None)
    whole = ratios(end, evaluations[-1])
    return {
        "reached": reached,
        "ratios": None if reached is None else ratios(end, reached),
        "ratios_of_whole_runs": whole,
    }


def ratios(baseline: Row, challenger: Row) -> Row:
    return {name: baseline[name] / challenger[name] for name in ("seconds", "cpu_seconds", "tokens_read", "step")}


def summary(rounds: list[Row]) -> Row:
    """Medians and ranges over rounds. When a challenger missed the baseline's loss in a round, its ratios at that loss are None."""
    ends = {arm: medians([row["runs"][arm]["evaluations"][-1] for row in rounds]) for arm in ARMS}
    parameters = {arm: rounds[0]["runs"][arm]["parameters"] for arm in ARMS}
    against = {}
    for name in CHALLENGERS:
        rows = [row["against"][name] for row in rounds]
        kinds = {kind: medians([row[kind] for row in rows]) for kind in ("reached", "ratios", "ratios_of_whole_runs")}
        against[name] = {"reached_in": sum(row["reached"] is not None for row in rows), **kinds}
    return {"target_wall_ratio": TARGET, "parameters": parameters, "ends": ends, "against": against}


def medians(rows: list[Row | None]) -> Row | None:
    present = [row for row in rows if row is not None]
    if len(present) < len(rows):
        return None
    return {name: spread([row[name] for row in present]) for name in present[0]}


def spread(values: list[float]) -> Row:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def conditions(threads: int) -> Row:
    settings = {name: encode(arm) for name, arm in ARMS.items()}
    return {"settings": settings, "threads": threads, "machine": machine_facts()}


def as_text(row: Row) -> str:
    end = row["runs"][BASELINE]["evaluations"][-1]
    lines = [f"seed {row['seed']}: {BASELINE} ends at {end['nats_per_token']:.4f} nats after {end['seconds']:.1f} s"]
    for name, against in row["against"].items():
        if (there := against["reached"]) is None:
            lines.append(f"  {name}: not reached")
            continue
        times = against["ratios"]
        lines.append(
            f"  {name}: reached after {there['seconds']:.1f} s, {times['seconds']:.1f} times less wall, "
            f"{times['cpu_seconds']:.1f} CPU, {times['tokens_read']:.1f} tokens"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
