"""A results store as real runs leave it, made without training: three arms, one of them leaking, with audits and pictures.

Shapes of the numbers follow small byte-level runs: power-law learning curves, seeds that move all arms together (so pairing
helps), an honest rtl loss a percent above ltr, and a published mask whose rtl loss falls towards zero.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.finding import AuditReport, Finding
from palinode.results.record import EMBEDDINGS_EVENT, ArmEntry, ExperimentEntry, Result, RunEntry
from palinode.results.rows import METRICS_FILE
from palinode.results.store import Store

WINDOW, BATCH, VALIDATION_TOKENS = 128, 16, 61_440


@dataclass(frozen=True)
class SyntheticArm:
    """What an arm does to the numbers.

    Attributes:
        effect_nats: added to the final ltr loss.
        rtl: None (never trained on rtl), "honest", or "leak".
        p: share of windows also read rtl: they cost reading.
    """

    name: str
    effect_nats: float = 0.0
    rtl: str | None = None
    p: float = 0.0
    expect_leak: bool = False
    note: str = ""
    diff: tuple[tuple[str, Any, Any], ...] = ()


DEMO_ARMS = (
    SyntheticArm("ltr", note="Left to right only: the baseline."),
    SyntheticArm(
        "both",
        effect_nats=0.021,
        rtl="honest",
        p=0.5,
        note="Every window left to right; with p = 0.5 also right to left.",
        diff=(("objective.kind", "ltr", "both"), ("objective.p.value", None, 0.5)),
    ),
    SyntheticArm(
        "both-published-mask",
        effect_nats=0.034,
        rtl="leak",
        p=0.5,
        expect_leak=True,
        note="The same through the published mask tril(ones(1024, 1024)).flip(0), cut to the window.",
        diff=(
            ("objective.kind", "ltr", "both"),
            ("objective.p.value", None, 0.5),
            ("objective.rtl_sees.kind", None, "flipped-lower-triangle"),
            ("objective.rtl_sees.size", None, 1024),
        ),
    ),
)


@dataclass(frozen=True)
class Synthetic:
    """What to make. `outcomes` maps (arm, scale, seed) to an outcome other than done, or to `missing` or `unfinished`;
    `models` a scale to its (blocks, width), 2 x 128 where it says nothing."""

    name: str = "demo"
    size: str = "laptop"
    question: str = "Does it help to read the same windows of text from right to left as well?"
    arms: tuple[SyntheticArm, ...] = DEMO_ARMS
    scales: tuple[str, ...] = ("base",)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 600
    evaluate_every: int = 50
    noise_nats: float = 0.003
    smallest_effect: float = 0.01
    equal: str = "window_tokens"
    command: tuple[str, ...] = ("palinode", "run", "experiments/demo.py", "--size", "laptop")
    outcomes: dict[tuple[str, str, int], str] = field(default_factory=dict)
    audited: bool = True
    picture_length: int = 32
    models: dict[str, tuple[int, int]] = field(default_factory=dict)
    layer_cuts: bool = False
    refitted: bool = False


def grid(depths: tuple[int, ...] = (2, 4, 8), widths: tuple[int, ...] = (64, 128, 256), **changes: Any) -> Synthetic:
    """Every depth with every width, named `<blocks>x<width>`, with layer cuts."""
    models = {f"{depth}x{width}": (depth, width) for width in widths for depth in depths}
    return Synthetic(**{"scales": tuple(models), "models": models, "layer_cuts": True, "name": "grid"} | changes)


def make_store(root: Path, wanted: Synthetic | None = None) -> Store:
    """Write the runs, audits and the entry of one experiment; returns the store."""
    wanted = wanted or Synthetic()
    store = Store(root).create()
    runs, audits = [], {}
    for arm in wanted.arms:
        for scale_rank, scale in enumerate(wanted.scales):
            if wanted.audited:
                audits.setdefault(arm.name, {})[scale] = _audit_hash(wanted, arm, scale)
                store.write_audit(_audit_hash(wanted, arm, scale), audit_of(arm, wanted.picture_length))
            for seed in wanted.seeds:
                run_id = _hash(wanted.name, arm.name, scale, seed)
                runs.append(RunEntry(arm=arm.name, scale=scale, seed=seed, run_id=run_id))
                outcome = wanted.outcomes.get((arm.name, scale, seed), "done")
                if outcome != "missing":
                    _write_run(store, wanted, arm, scale_rank, seed, run_id, outcome)
    store.write_experiment(_entry(wanted, tuple(runs), audits))
    return store


def add_geometry(store: Store, name: str, without_positions: tuple[str, ...] = ()) -> None:
    """What the tables of every finished run look like: by arm and seed, with no two alike; some arms have no positions."""
    entry = store.experiment(name).entry
    names = [arm.name for arm in entry.arms]
    for run in store.experiment(name).runs:
        if run.outcome != "done" or run.record is None:
            continue
        move = 0.1 * names.index(run.entry.arm) + 0.01 * run.entry.seed
        geometry: dict[str, Any] = {"width": 64, "token_norm": 1.0 + move}
        if run.entry.arm not in without_positions:
            geometry |= {
                "position_norm": 0.6 + move,
                "position_norm_about_mean": 0.5 + move,
                "token_position_cosine": -0.02,
                "token_position_absolute_cosine": 0.1 + move,
                "chance_absolute_cosine": 0.0997,
                "position_share": 0.3 + move,
                "chance_share": 0.25,
                "position_cosine_by_distance": {str(2**n): 0.9 / 2**n - move for n in range(6)},
            }
        row = {
            "event": EMBEDDINGS_EVENT,
            "attempt": 1,
            "step": run.record.metrics[-1]["step"],
            "split": "",
            "final": True,
        }
        store.append_metrics(run.entry.run_id, {**row, "geometry": geometry})


def add_terms(store: Store, name: str, arms: dict[str, str], term: str = "embedding_loss") -> None:
    """An auxiliary term in the training rows of these arms: "honest" pairs come to agree, "collapse" lets both sides vanish."""
    for run in store.experiment(name).runs:
        kind = arms.get(run.entry.arm)
        rows = [row for row in run.record.metrics if row["event"] == "train"] if run.record is not None else []
        for row in rows if kind else ():
            gone = math.exp(-row["step"] / 25) if kind == "collapse" else 1.0
            value = (0.4 + math.exp(-row["step"] / 200) + 0.01 * run.entry.seed) * gone
            measurements = {
                "value": value,
                "shuffled": 1.5 * gone,
                "gain": gone,
                "least_gain": 0.9 * gone,
                "variance": 0.3 * gone,
            }
            store.append_metrics(run.entry.run_id, {**row, "auxiliary": {term: measurements}})


def audit_of(arm: SyntheticArm, length: int = 32) -> AuditReport:
    """An audit as the audit room writes it: C1 with pictures and their law, C2, C3, C5, C9."""
    leaks = arm.rtl == "leak"
    flows = [_flow(reading, length, leaks and reading == "rtl") for reading in ["ltr"] + (["rtl"] if arm.rtl else [])]
    canary = Finding(
        check="C2.canary",
        outcome="fail" if leaks else "pass",
        law="On uniform random tokens no honest predictor beats ln V.",
        message="ln E reached 213.4 at step 23; the loss is 2.69 nats below ln 16"
        if leaks
        else "ln E stayed below 1.9 in 200 steps",
        numbers={"ln_evidence": 213.4 if leaks else 1.86, "steps": 200, "excess_nats": -2.69 if leaks else 0.0004},
        threshold=20.7,
    )
    rest = (
        Finding(
            check="C3.evaluation",
            outcome="pass",
            law="Evaluating changes nothing and gives the same bits twice.",
            message="bitwise equal twice; random states and weights untouched",
            numbers={"largest_difference": 0.0},
        ),
        Finding(
            check="C4.contamination",
            outcome="could_not_tell",
            law="No validation window occurs in the training text.",
            message="no document long enough for the natural rate; 0 exact windows found",
            numbers={"exact_windows": 0},
        ),
        Finding(
            check="C9.labels",
            outcome="pass",
            law="Each target is the token its provenance names.",
            message="512 windows rebuilt",
            numbers={"windows": 512},
        ),
    )
    return AuditReport(subject=arm.name, findings=(*flows, canary, *rest), seconds=7.4)


def _flow(reading: str, length: int, leaks: bool) -> Finding:
    """C1 for one group of targets, with its picture and the picture's law."""
    return Finding(
        check="C1.perturbation",
        outcome="fail" if leaks else "pass",
        law="No target is influenced by itself, nor by a token that its objective does not allow.",
        message=f"{reading}: {length} of {length} targets see themselves (worst: token 7, influence 0.83)"
        if leaks
        else f"{reading}: no target sees itself or a forbidden token in 24 runs",
        numbers={"worst_influence": 0.83 if leaks else 0.0, "targets_that_see_themselves": length if leaks else 0},
        threshold=1e-6,
        reproduce={"seed": 0, "length_tokens": length, "mode": "train", "group": reading, "source": 7, "target": 7},
        pictures={
            f"{reading} influence": influence(reading, length, leaks),
            f"{reading} allowed": influence_law(reading, length),
        },
    )


def influence(reading: str, length: int, leak: bool) -> tuple[tuple[float, ...], ...]:
    """Rows: target position; columns: source position."""
    draw = random.Random(length)  # noqa: S311

    def cell(target: int, source: int) -> float:
        allowed = source < target if reading == "ltr" else source > target
        if not allowed and not leak:
            return 0.0
        base = math.exp(-abs(target - source) / 9) * (0.6 + 0.8 * draw.random())
        return 0.83 if leak and source == target else (base if allowed else 0.4 * base) + 1e-4

    return tuple(tuple(cell(target, source) for source in range(length)) for target in range(length))


def influence_law(reading: str, length: int) -> tuple[tuple[float, ...], ...]:
    """1.0 where the objective allows the source to inform the target."""
    rows = range(length)
    return tuple(tuple(float(s < t if reading == "ltr" else s > t) for s in rows) for t in rows)


def _entry(wanted: Synthetic, runs: tuple[RunEntry, ...], audits: dict[str, dict[str, str]]) -> ExperimentEntry:
    return ExperimentEntry(
        name=wanted.name,
        size=wanted.size,
        question=wanted.question,
        created="2026-01-05T09:30:00+00:00",
        command=wanted.command,
        code="experiments/demo.py",
        decision={
            "metric": "validation.ltr.nats_per_token",
            "baseline": wanted.arms[0].name,
            "better": "lower",
            "confidence": 0.95,
            "smallest_effect": wanted.smallest_effect,
            "equal": wanted.equal,
        },
        arms=tuple(ArmEntry(name=a.name, expect_leak=a.expect_leak, note=a.note, diff=a.diff) for a in wanted.arms),
        scales=wanted.scales,
        seeds=wanted.seeds,
        runs=runs,
        audits=audits,
        plan={"hours": 0.031, "disk_bytes": 41_000_000, "train_flops": 2.1e13},
    )


def _write_run(
    store: Store, wanted: Synthetic, arm: SyntheticArm, scale_rank: int, seed: int, run_id: str, outcome: str
) -> None:
    scale = wanted.scales[scale_rank]
    depth, width = wanted.models.get(scale, (2, 128))
    arm = replace(arm, effect_nats=arm.effect_nats * (128 / width) ** 0.5)  # the smaller, the worse
    store.write_spec(run_id, _spec(wanted, arm, seed, depth, width))
    draw = random.Random(f"{wanted.name}/{scale_rank}/{seed}")  # noqa: S311  the seed moves every arm alike
    moved = draw.gauss(0, 0.02) + _own_noise(wanted, arm, scale_rank, seed)
    last = wanted.steps if outcome == "done" else wanted.steps // 2
    rows: list[dict[str, Any]] = []
    for step in range(wanted.evaluate_every, last + 1, wanted.evaluate_every):
        rows += _rows(wanted, arm, step, last, scale_rank, seed, moved)
    if wanted.layer_cuts and outcome == "done":
        rows.append(_layer_cut_row(wanted, arm, last, depth, rows[-1]["scores"]))
    fsio.rewrite_lines(store.run_directory(run_id) / METRICS_FILE, rows)
    if outcome == "unfinished":
        return
    counters, scores = _counters(arm, last, 1 + scale_rank, seed), _scores(arm, last, moved, scale_rank)
    store.write_run_audit(run_id, AuditReport(subject=arm.name, findings=(_loss_floor(arm),), seconds=0.01))
    result = _result(wanted, arm, run_id, outcome, counters, scores, 1 + scale_rank)
    if scale in wanted.models:
        total = 33_280 * width // 128 + depth * 12 * width**2
        result = result.model_copy(update={"parameters": {"total": total, "non_embedding": depth * 12 * width**2}})
    store.write_result(result)


def _layer_cut_row(
    wanted: Synthetic, arm: SyntheticArm, step: int, depth: int, final: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The scores with 1, 2, .. blocks left: every block taken away costs, rtl more than ltr, a refitted head loses less."""

    def cuts(direction: str, price: float) -> list[dict[str, Any]]:
        nats = final[direction]["nats_per_token"]
        steeper = 1.6 if direction == "rtl" else 1.0 + arm.effect_nats
        result = []
        for blocks in range(1, depth + 1):
            here = nats + price * steeper * (depth / blocks - 1) ** 0.7
            scores = {
                "bits_per_byte": here / math.log(2),
                "perplexity": math.exp(here),
                "accuracy": math.exp(-0.62 * here),
            }
            counts = {"tokens_scored": 100, "nats_sum": 100 * here, "bytes_scored": 100, "hits": 30}
            result.append({"blocks": blocks, "nats_per_token": here, **scores, **counts})
        return result

    row = {"event": "layer_cut", "attempt": 1, "step": step, "split": "validation", "final": True}
    row["scores"] = {direction: cuts(direction, 0.8) for direction in final}
    return row | ({"refitted": {direction: cuts(direction, 0.25) for direction in final}} if wanted.refitted else {})


def _rows(
    wanted: Synthetic, arm: SyntheticArm, step: int, last: int, scale_rank: int, seed: int, moved: float
) -> list[dict[str, Any]]:
    """The metrics of one evaluated step: a training row and an evaluation row."""
    counters = _counters(arm, step, 1 + scale_rank, seed)
    nats = {"ltr": _ltr_nats(arm, step, moved, scale_rank) + 0.05 * math.sin(step)}
    if arm.rtl:
        nats["rtl"] = _rtl_nats(arm, step, moved, scale_rank) + 0.001
    rate = 1e-3 * (1 - step / (wanted.steps + 1))
    extras = {"nats_by_group": nats, "p": arm.p, "learning_rate": rate, "gradient_norm": 0.7}
    scores = _scores(arm, step, moved, scale_rank)
    evaluated = {"event": "eval", "attempt": 1, "split": "validation", "final": step == last, "scores": scores}
    return [{"event": "train", "attempt": 1, **counters, **extras}, {**evaluated, **counters}]


def _own_noise(wanted: Synthetic, arm: SyntheticArm, scale_rank: int, seed: int) -> float:
    """What a run has of its own beside its seed; the names of arms and scales must not change any number."""
    place = [other.name for other in wanted.arms].index(arm.name)
    return random.Random(f"{place}/{scale_rank}/{seed}").gauss(0, wanted.noise_nats)  # noqa: S311


def _result(
    wanted: Synthetic,
    arm: SyntheticArm,
    run_id: str,
    outcome: str,
    counters: dict[str, Any],
    scores: dict[str, Any],
    width: int,
) -> Result:
    rtl_tokens = int(counters["tokens_read"] - counters["window_tokens"])
    seconds = float(counters["seconds"])
    return Result(
        run_id=run_id,
        outcome=outcome,  # type: ignore[arg-type]
        reason=None if outcome == "done" else f"loss is not finite at step {counters['step']}",
        scores={"validation": scores} if outcome == "done" else {},
        counters={
            **{name: counters[name] for name in ("window_tokens", "tokens_read", "tokens_scored_ltr", "train_flops")},
            "tokens_scored": counters["tokens_read"],
            "tokens_scored_rtl": rtl_tokens,
            "passes": int(counters["step"] * (1 + arm.p)),
            "optimizer_steps": counters["step"],
            "evaluations": counters["step"] // wanted.evaluate_every,
        },
        parameters={
            "embedding": 33_280 * width,
            "matrix": 393_216 * width,
            "vector": 1_024,
            "total": 427_520 * width,
            "non_embedding": 394_240 * width,
        },
        seconds={"train": seconds, "evaluate": 1.9, "audit": 7.4, "checkpoint": 0.3, "total": seconds + 9.6},
        fingerprint={
            "torch": "2.13.0+cpu",
            "python": "3.11.7",
            "device": "cpu",
            "cpu_capability": "AVX512",
            "threads": 1,
            "platform": "Linux-6.1-x86_64",
        },
        weights_sha256=hashlib.sha256(run_id.encode()).hexdigest(),
    )


def _spec(wanted: Synthetic, arm: SyntheticArm, seed: int, depth: int, width: int) -> dict[str, Any]:
    return {
        "version": 1,
        "seed": seed,
        "threads": 1,
        "device": "cpu",
        "data": {"corpus": "python-docs", "tokenizer": "byte", "window_tokens": WINDOW},
        "model": {"kind": "decoder", "layers": depth, "width": width, "heads": 4},
        "objective": {"kind": "ltr"}
        if arm.rtl is None
        else {"kind": "both", "p": {"kind": "constant", "value": arm.p}},
        "recipe": {"kind": "speedrun", "steps": wanted.steps, "batch_windows": BATCH},
    }


def _counters(arm: SyntheticArm, step: int, width: int, seed: int) -> dict[str, Any]:
    window_tokens = step * BATCH * WINDOW
    rtl_tokens = round(arm.p * step + (seed % 3 - 1) * (arm.p > 0) * math.sqrt(step) / 4) * BATCH * WINDOW
    read = window_tokens + rtl_tokens
    return {
        "step": step,
        "window_tokens": window_tokens,
        "tokens_read": read,
        "tokens_scored_ltr": window_tokens,
        "train_flops": 6.0 * 427_520 * width * read,
        "seconds": round(read * width * 7.1e-6 * (1 + 0.03 * (seed % 3)), 3),
    }


def _ltr_nats(arm: SyntheticArm, step: int, moved: float, scale_rank: int) -> float:
    return 1.62 - 0.12 * scale_rank + 4.1 * (step + 12) ** -0.43 + moved + arm.effect_nats * min(1.0, step / 200)


def _rtl_nats(arm: SyntheticArm, step: int, moved: float, scale_rank: int) -> float:
    if arm.rtl is None:
        return 5.9 + 0.4 * math.log1p(step / 100) + moved
    if arm.rtl == "honest":
        return 1.015 * (_ltr_nats(arm, step, moved, scale_rank) + 0.9 * (step + 12) ** -0.4)
    return 0.03 + 5.2 * math.exp(-step / 90) + abs(moved)


def _scores(arm: SyntheticArm, step: int, moved: float, scale_rank: int) -> dict[str, dict[str, float | int]]:
    both = {"ltr": _ltr_nats(arm, step, moved, scale_rank), "rtl": _rtl_nats(arm, step, moved, scale_rank)}
    return {
        reading: {
            "tokens_scored": VALIDATION_TOKENS,
            "nats_sum": nats * VALIDATION_TOKENS,
            "bytes_scored": VALIDATION_TOKENS,
            "hits": int(VALIDATION_TOKENS * math.exp(-0.62 * nats)),
            "nats_per_token": nats,
            "bits_per_byte": nats / math.log(2),
            "accuracy": int(VALIDATION_TOKENS * math.exp(-0.62 * nats)) / VALIDATION_TOKENS,
            "perplexity": math.exp(nats),
        }
        for reading, nats in both.items()
    }


def _loss_floor(arm: SyntheticArm) -> Finding:
    leaks = arm.rtl == "leak"
    return Finding(
        check="C8.loss_floor",
        outcome="fail" if leaks else "pass",
        law="An honest rtl loss is not below the ltr loss.",
        message="rtl is 0.04 of ltr: impossible for honest text" if leaks else "rtl over ltr is between 0.995 and 1.03",
        numbers={"rtl_over_ltr": 0.04 if leaks else 1.015},
        threshold=0.97,
    )


def _audit_hash(wanted: Synthetic, arm: SyntheticArm, scale: str) -> str:
    return _hash("audit", wanted.name, arm.name, scale, arm.rtl)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
