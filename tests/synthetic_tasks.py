"""A results store of runs on associative recall, made without training: accuracy that jumps or never does, and its levels.

Four arms differ in labels and in the objective, three scales in the vocabulary. At vocabularies 10 and 20 all learn the task; at 30
those that train on answers alone stay at the trivial level, but for one seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.results.record import TASK_EVENT, ArmEntry, ChoiceEntry, ExperimentEntry, Result, RunEntry
from palinode.results.rows import METRICS_FILE
from palinode.results.store import Store
from synthetic_store import SyntheticArm, audit_of

SEQUENCES, STEPS, EVERY, BATCH = 1000, 600, 50, 32
LEVELS = {
    10: (0.25, 0.505),
    20: (1 / 9, 0.285),
    30: (1 / 14, 0.202),
}  # vocabulary -> chance, the most frequent in context
RECENT = 0.75  # what the most recent value scores, as a share of the most frequent in context
LENGTHS = {2: 0.7, 4: 0.4, 8: 0.1}  # factor -> the share of what was learned that is kept


@dataclass(frozen=True)
class TaskArm:
    """An arm: which labels it trains on and how it reads."""

    name: str
    labels: str = "all"
    objective: str = "ltr"
    rate: float = 0.0


TASK_ARMS = (
    TaskArm("all"),
    TaskArm("answer", "answer"),
    TaskArm("classifier", objective="masked"),
    TaskArm("masked", objective="masked", rate=0.15),
)


@dataclass(frozen=True)
class SyntheticTask:
    """What to make.

    Attributes:
        levels: False: runs of before levels were measured.
        declared: False: levels of before tasks said what solves them, how a run reads, and what chance is at other lengths.
        scored: what the evaluation scores.
    """

    arms: tuple[TaskArm, ...] = TASK_ARMS
    vocabularies: tuple[int, ...] = (10, 20, 30)
    seeds: tuple[int, ...] = (1, 2, 3)
    metric: str = "validation.own.accuracy"
    scored: str = "answer"
    lengths: bool = True
    levels: bool = True
    declared: bool = True
    goal: float | None = None


def make_task_store(root: Path, wanted: SyntheticTask | None = None) -> Store:
    """Write the runs, audits and the entry of the experiment `recall--laptop`; returns the store."""
    wanted = wanted or SyntheticTask()
    store = Store(root).create()
    runs = []
    for arm in wanted.arms:
        store.write_audit(f"{arm.name:0<16}", audit_of(SyntheticArm(arm.name)))
        for vocabulary in wanted.vocabularies:
            for seed in wanted.seeds:
                run_id = f"{wanted.arms.index(arm):04d}{vocabulary:04d}{seed:08d}"
                runs.append(RunEntry(arm=arm.name, scale=f"v{vocabulary}", seed=seed, run_id=run_id))
                _write_run(store, wanted, arm, vocabulary, seed, run_id)
    store.write_experiment(_entry(wanted, tuple(runs)))
    return store


def final_accuracy(arm: TaskArm, vocabulary: int, seed: int) -> float:
    """What the arm gets right at the end."""
    harder = arm.labels == "answer" or (arm.objective == "masked" and not arm.rate)
    learned = vocabulary < 30 or not harder or seed == 2
    own = 0.001 * len(arm.name) + 0.002 * seed * (1 + arm.rate * 10)
    return (0.985 if learned else LEVELS[vocabulary][1]) - own


def _entry(wanted: SyntheticTask, runs: tuple[RunEntry, ...]) -> ExperimentEntry:
    scales = tuple(f"v{vocabulary}" for vocabulary in wanted.vocabularies)
    rates = ChoiceEntry(
        arm="all",
        scale=scales[0],
        field="recipe.learning_rate",
        values=(1e-3, 2e-3),
        scores=(0.9, 0.98),
        chosen=2e-3,
        runs=(),
    )
    better = "higher" if wanted.metric.endswith("accuracy") else "lower"
    return ExperimentEntry(
        name="recall",
        size="laptop",
        question="Does training on all tokens beat training on the answer alone?",
        created="2026-01-05T09:30:00+00:00",
        decision={"metric": wanted.metric, "baseline": wanted.arms[0].name, "better": better},
        arms=tuple(ArmEntry(name=arm.name) for arm in wanted.arms),
        scales=scales,
        seeds=wanted.seeds,
        runs=runs,
        audits={arm.name: dict.fromkeys(scales, f"{arm.name:0<16}") for arm in wanted.arms},
        choices=(rates,),
    )


def _write_run(store: Store, wanted: SyntheticTask, arm: TaskArm, vocabulary: int, seed: int, run_id: str) -> None:
    store.write_spec(run_id, _spec(wanted, arm, vocabulary, seed))
    way = arm.objective
    last, jump = final_accuracy(arm, vocabulary, seed), 120 + 6 * vocabulary + 20 * seed
    rows: list[dict[str, Any]] = []
    for step in range(EVERY, STEPS + 1, EVERY):
        low = LEVELS[vocabulary][0] + (LEVELS[vocabulary][1] - LEVELS[vocabulary][0]) * min(1.0, step / 100)
        right = low + max(0.0, last - low) / (1 + math.exp(-(step - jump) / 15))
        counters = _counters(step, way)
        nats = {way: 0.9 + 1.6 * (1 - right)}
        rows.append({"event": "train", "attempt": 1, **counters, "nats_by_group": nats, "learning_rate": 1e-3})
        scores = {way: _scores(last if step == STEPS else right)}
        rows.append(
            {"event": "eval", "attempt": 1, "split": "validation", "final": step == STEPS, "scores": scores, **counters}
        )
    if wanted.levels:
        table = {
            "levels": _levels(wanted, way, vocabulary),
            "by_pass": {way: _by_pass(last)},
            "lengths": _lengths(wanted, way, last, vocabulary),
        }
        rows.append({"event": TASK_EVENT, "attempt": 1, "step": STEPS, "split": "validation", "final": True, **table})
    fsio.rewrite_lines(store.run_directory(run_id) / METRICS_FILE, rows)
    counters = {
        "tokens_scored_ltr": 0,
        **_counters(STEPS, way),
        "tokens_scored_rtl": STEPS if way == "rtl" else 0,
        "optimizer_steps": STEPS,
        "passes": STEPS,
        "evaluations": 12,
    }
    store.write_result(
        Result(
            run_id=run_id,
            outcome="done",
            scores={"validation": {way: _scores(last)}},
            counters=counters,
            parameters={"total": 100_000, "non_embedding": 98_000},
        )
    )


def _spec(wanted: SyntheticTask, arm: TaskArm, vocabulary: int, seed: int) -> dict[str, Any]:
    without_direction = {
        "masked": {"kind": "masked", "hide_answers": True, "rate": arm.rate},
        "bottleneck": {"kind": "bottleneck", "sealed": False},
    }
    place = wanted.arms.index(arm)
    return {
        "version": 1,
        "seed": seed,
        "data": {
            "task": {"kind": "associative-recall", "vocabulary": vocabulary, "length": 20},
            "train_sequences": None,
            "validation_sequences": SEQUENCES,
        },
        "model": {"kind": "decoder", "layers": 2, "width": 64, "heads": 1},
        "objective": without_direction.get(arm.objective, {"kind": "ltr", "direction_token": True}),
        "labels": arm.labels,
        "recipe": {
            "kind": "gpt2-adamw",
            "steps": STEPS,
            "batch_windows": BATCH,
            "learning_rate": 1e-3 * (1 + place) * vocabulary,  # tuned
            **({} if wanted.goal is None else {"stop_at_accuracy": wanted.goal}),
        },
        "evaluation": {"labels": wanted.scored, "directions": ["ltr"]},
    }


def _counters(step: int, way: str) -> dict[str, Any]:
    read = step * BATCH * 23
    return {
        "step": step,
        "window_tokens": read,
        "tokens_read": read,
        "tokens_scored_ltr": read if way == "ltr" else 0,
        "train_flops": 1e6 * read,
        "seconds": 0.01 * step,
    }


def _scores(accuracy: float) -> dict[str, Any]:
    hits, nats = round(SEQUENCES * accuracy), -math.log(min(accuracy, 0.999))
    scores = {"tokens_scored": SEQUENCES, "hits": hits, "nats_sum": nats * SEQUENCES, "bytes_scored": SEQUENCES}
    return scores | {
        "accuracy": hits / SEQUENCES,
        "nats_per_token": nats,
        "bits_per_byte": nats,
        "perplexity": math.exp(nats),
    }


def _levels(wanted: SyntheticTask, way: str, vocabulary: int) -> dict[str, Any]:
    chance, in_context = LEVELS[vocabulary]
    trivial = {"uniform": chance, "unigram": chance, "bigram": chance - 0.005, "copy_last": 0.0}
    trivial |= {"most_recent_value": RECENT * in_context, "in_context_mode": in_context, "cache_1": 1.0, "cache_2": 0.0}
    result = {
        "chance": chance,
        "best": 1.0,
        "entropy_nats_per_token": 0.85,
        "floor_nats_all_tokens": 0.9,
        "trivial": trivial,
    }
    if not wanted.declared:
        return result
    lengths = {str(factor): chance for factor in LENGTHS} if wanted.lengths else {}
    reading = "ltr" if way == "ltr" else "prompt"
    return {**result, "reading": reading, "solved_by": ["cache_1", "cache_2", "cache_3"], "chance_by_length": lengths}


def _by_pass(accuracy: float) -> dict[str, Any]:
    gaps = [
        {"value": gap, "sequences": 250, "tokens_scored": 250, "hits": round(250 * accuracy) + move}
        for gap, move in ((3, 2), (7, 0), (11, -1), (15, -1))
    ]
    one = [{"value": 1, "sequences": SEQUENCES, "tokens_scored": SEQUENCES, "hits": round(SEQUENCES * accuracy)}]
    return {"exact_match": accuracy, "sequences": SEQUENCES, "slices": {"gap": gaps, "triggers": one}}


def _lengths(wanted: SyntheticTask, way: str, accuracy: float, vocabulary: int) -> dict[str, Any]:
    chance = LEVELS[vocabulary][0]
    kept = {factor: chance + share * (accuracy - chance) for factor, share in LENGTHS.items()}
    return {str(factor): {way: _scores(right)} for factor, right in kept.items()} if wanted.lengths else {}
