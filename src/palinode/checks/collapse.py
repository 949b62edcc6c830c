"""C7: did an auxiliary term fall because two states came to agree, or because both vanished?

A score of pairs says something only beside the same score on shuffled pairs: affinity = 1 - value / shuffled. Two forms:

- before training, `probe_collapse` trains the arm's own term on two unrelated random states, new ones at every step (each through
  a trainable linear map, plus one trainable vector that both share as they would through a residual stream). They cannot come to
  agree, so a term that still vanishes will do so in a run;
- after training, `check_collapse` reads what the run recorded of each term, at every step that it logged.

A term has collapsed when it fell below .01 of its first value and the score of shuffled pairs below .05 of its first, or the mean
gain of a norm that feeds it below .05 of its first: the value fell, but not because of the pairing. One such step is enough: a run
that recovered has still been driven by it. A collapse is no leak: the losses of the run are honest, the term's value is not what it
is taken for.
Legend: R rows, S slots, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from palinode.base.affinity import affinity
from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome
from palinode.base.seeds import generator
from palinode.models.auxiliary import PairTerm
from palinode.models.mixers.base import Reading

FALLEN = 0.01  # of the first value
VANISHED = 0.05  # of the first score of shuffled pairs, or of the first gain
LEAST_ROWS = 3  # of a run's metrics with the term in them
LAW = "an auxiliary term falls because its pairs come to agree, not because both sides vanish"
CAUSAL_LAW = "what a slot is compared with depends on no later slot, and not on the length of the row"
PROBE_ROWS, PROBE_SLOTS = 8, 32
PROBE_STEPS = 2000
PROBE_LEARNING_RATE = 9e-4
PROBE_SHARED = 0.1  # standard deviation of the vector that both sides share, of theirs: what training has to start from
PROBE_LOOKS_EVERY = 100  # steps
CAUSAL_TOLERANCE = 1e-9  # float64; of values around 1

Measured = Mapping[str, float]


def check_collapse(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """C7 on the metrics rows of a run: one finding for each auxiliary term that they hold."""
    with_terms = [row for row in rows if row.get("event") == "train" and row.get("auxiliary")]
    names = dict.fromkeys(name for row in with_terms for name in row["auxiliary"])
    findings = []
    for name in names:
        mine = [row for row in with_terms if name in row["auxiliary"]]
        series = [row["auxiliary"][name] for row in mine]
        fallen = [index for index, found in enumerate(series) if _has_collapsed(series[0], found)]
        told = fallen[-1] if fallen else len(series) - 1
        where = f"step {mine[told].get('step')}"
        where += f" and {len(fallen) - 1} more of {len(series)} logged" if len(fallen) > 1 else ""
        findings.append(_judged("collapse", name, series[: told + 1], where, enough=len(series) >= LEAST_ROWS))
    return findings


def probe_collapse(name: str, term: PairTerm, seed: int, *, steps: int = PROBE_STEPS) -> Finding:
    """C7 before any training: the term alone, on two unrelated random states. The module given is trained: hand over a copy.

    Args:
        steps: of Adam, rate 9e-4; fewer when it has collapsed before.
    """
    rng, shape = generator(seed, "audit", "collapse"), (PROBE_ROWS, PROBE_SLOTS, term.width)
    maps = [nn.Parameter(torch.eye(term.width)) for _ in range(2)]
    shared = nn.Parameter(PROBE_SHARED * torch.randn(term.width, generator=rng))
    optimizer = torch.optim.Adam([*term.parameters(), *maps, shared], lr=PROBE_LEARNING_RATE)
    reading, series = Reading("causal"), []
    term.train()
    for step in range(steps + 1):
        left, right = (torch.randn(shape, generator=rng) @ each + shared for each in maps)
        found = term(left, right, reading)
        if step % PROBE_LOOKS_EVERY == 0 or step == steps:
            measured = {"value": found.value.detach(), **found.measured}
            series.append({key: float(value) for key, value in measured.items()})
        if _has_collapsed(series[0], series[-1]) or not found.value.requires_grad:
            break
        optimizer.zero_grad()
        torch.autograd.backward(found.value)
        optimizer.step()
    return _judged("probe", name, series, f"step {step} on unrelated noise", enough=True)


def check_aggregated(name: str, term: PairTerm, seed: int, *, slots: int = 33) -> Finding:
    """C9: what a slot is compared with is causal, and the same in a shorter row (a sum divided by the row's length is not).

    Args:
        slots: of the row; the term must take so many.
    """
    term = term.double()
    rng = generator(seed, "audit", "aggregated")
    with torch.no_grad():
        for parameter in term.parameters():  # weights that are all equal would hide what depends on them
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))
        x = torch.randn(1, slots, term.width, generator=rng, dtype=torch.float64)
        whole, worst, place = term.aggregated(x, Reading("causal")), 0.0, ""
        for slot in range(slots):
            changed = x.clone()
            changed[:, slot:] += torch.randn(slots - slot, term.width, generator=rng, dtype=torch.float64)
            ahead = _largest(term.aggregated(changed, Reading("causal"))[:, :slot] - whole[:, :slot])
            shorter = _largest(term.aggregated(x[:, : slot + 1], Reading("causal")) - whole[:, : slot + 1])
            for found, what in (
                (ahead, f"reads slot {slot} or later before it"),
                (shorter, f"is another in a row of {slot + 1}"),
            ):
                if found > worst:
                    worst, place = found, what
    outcome: CheckOutcome = "fail" if worst > CAUSAL_TOLERANCE else "pass"
    return Finding(
        check="C9.auxiliary_causal",
        outcome=outcome,
        law=CAUSAL_LAW,
        message=f"{name}: {place}" if outcome == "fail" else f"{name}: no slot of {slots} depends on a later one",
        numbers={"largest_change": worst},
        threshold=CAUSAL_TOLERANCE,
        reproduce={"seed": seed, "slots": slots},
    )


def _judged(check: str, name: str, series: Sequence[Measured], where: str, *, enough: bool) -> Finding:
    first, last = series[0], series[-1]
    found = affinity(last["value"], last["shuffled"]) if "shuffled" in last else None
    collapsed = _has_collapsed(first, last)
    outcome: CheckOutcome = "fail" if collapsed else "pass" if enough and found is not None else "could_not_tell"
    numbers: dict[str, float | int | str | None] = {"affinity": found, "looks": len(series)}
    for key in ("value", "shuffled", "gain", "least_gain", "variance"):
        numbers |= {f"first_{key}": first.get(key), f"last_{key}": last.get(key)}
    return Finding(
        check=f"C7.{check}",
        outcome=outcome,
        law=LAW,
        message=f"{name} at {where}: {_said(first, last, found, collapsed, enough)}",
        numbers=numbers,
        threshold=FALLEN,
        reproduce={"term": name},
    )


def _has_collapsed(first: Measured, last: Measured) -> bool:
    fell = last["value"] < FALLEN * first["value"]
    return fell and any(key in first and last[key] < VANISHED * first[key] for key in ("shuffled", "gain"))


def _said(first: Measured, last: Measured, found: float | None, collapsed: bool, enough: bool) -> str:
    values = (
        f"{first['value']:.3g} fell to {last['value']:.2g}"
        if last["value"] < first["value"]
        else f"{last['value']:.3g}"
    )
    if collapsed:
        beside = f"shuffled pairs score {last.get('shuffled', 0):.2g} and the gain is {last.get('gain', 1):.2g}"
        return f"collapsed: {values}, but {beside}"
    if "shuffled" not in last:
        return f"{values}; the model does not say what shuffled pairs score"
    if found is None:
        return f"{values}; shuffled pairs score {last['shuffled']:.2g}, too little to compare with"
    return f"{values}, affinity {found:.3f}{'' if enough else '; recorded too few times to judge'}"


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max()) if difference.numel() else 0.0
