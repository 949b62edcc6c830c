"""C7: did an auxiliary term fall because two states came to agree, or because both states vanished?

The score of pairs means something only next to the score of the same pairs shuffled: affinity = 1 - value / shuffled. Two forms:

- before training, `probe_collapse` trains the arm's own term on two unrelated random states, new ones at every step. Each state
  goes through a trainable linear map, and both share one trainable vector, as they would through a residual stream. The two states
  cannot come to agree, so a term that still vanishes here will also vanish in a run;
- after training, `check_collapse` reads the record that the run kept of each term, at every step that the run logged.

A term has collapsed at a step when its value fell below 0.01 of the first value, and the score of shuffled pairs, or the mean gain
of a norm that feeds the term, fell below 0.05 of its first value: the value then fell for another reason than the pairing. One such
step is enough, because the collapsed term trained the run even if it recovered later. A collapse is no leak: the losses of the run
are honest, but the value of the term is misleading. Legend: B rows, T slots, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from palinode.base.finding import Finding
from palinode.base.measures import affinity
from palinode.base.seeds import generator
from palinode.checks.laws import finding, outcome_of

FALLEN = 0.01  # as a share of the first value
VANISHED = 0.05  # as a share of the first score of shuffled pairs, or of the first gain
LEAST_ROWS = 3  # the smallest number of a run's metrics rows that contain the term
PROBE_ROWS, PROBE_SLOTS = 8, 32
PROBE_STEPS = 2000
PROBE_LEARNING_RATE = 9e-4
# Standard deviation of the shared vector, as a share of that of the states: training cannot start from zero.
PROBE_SHARED = 0.1
PROBE_LOOKS_EVERY = 100  # the number of steps between two tests of the probe
CAUSAL_TOLERANCE = 1e-9  # the largest difference in float64 of values around 1

Scores = Mapping[str, float]


@dataclass(frozen=True)
class PairScore:
    """An auxiliary term that compares two states. The checks train or change its parameters, so the caller gives a copy.

    Attributes:
        width: D of both states.
        parameters: the parameters of the term.
        score: maps two (B, T, D) states to the value to minimise, with gradient, and to scalars by name for the record (`shuffled`:
            the value with pairs shuffled across rows; `gain`: the mean |gain| of the norms that feed the term).
        aggregated: maps a (B, T, D) state to the (B, T, D) state that the term compares with the other state.
    """

    width: int
    parameters: Sequence[nn.Parameter]
    score: Callable[[Tensor, Tensor], tuple[Tensor, Mapping[str, Tensor]]]
    aggregated: Callable[[Tensor], Tensor]


def check_collapse(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """C7.collapse: judge each auxiliary term in the metrics rows of a run; one finding for each term."""
    with_terms = [row for row in rows if row.get("event") == "train" and row.get("auxiliary")]
    names = dict.fromkeys(name for row in with_terms for name in row["auxiliary"])
    findings = []
    for name in names:
        mine = [row for row in with_terms if name in row["auxiliary"]]
        series = [row["auxiliary"][name] for row in mine]
        collapsed = [index for index, scores in enumerate(series) if _has_collapsed(series[0], scores)]
        shown = collapsed[-1] if collapsed else len(series) - 1
        where = f"step {mine[shown].get('step')}"
        where += f" and {len(collapsed) - 1} more of {len(series)} logged" if len(collapsed) > 1 else ""
        findings.append(_judged("C7.collapse", name, series[: shown + 1], where, enough=len(series) >= LEAST_ROWS))
    return findings


def probe_collapse(name: str, term: PairScore, seed: int, *, steps: int = PROBE_STEPS) -> Finding:
    """C7.probe, before any training: train the term alone on two unrelated random states.

    Args:
        name: the name of the term in the finding.
        term: the auxiliary term; the probe trains its parameters.
        seed: the seed of the random states and of the maps.
        steps: the number of steps of Adam with the rate 9e-4; the probe stops earlier when the term collapses.
    """
    rng, shape = generator(seed, "audit", "collapse"), (PROBE_ROWS, PROBE_SLOTS, term.width)
    maps = [nn.Parameter(torch.eye(term.width)) for _ in range(2)]
    shared = nn.Parameter(PROBE_SHARED * torch.randn(term.width, generator=rng))
    optimizer = torch.optim.Adam([*term.parameters, *maps, shared], lr=PROBE_LEARNING_RATE)
    series: list[Scores] = []
    for step in range(steps + 1):
        left, right = (torch.randn(shape, generator=rng) @ each + shared for each in maps)
        value, recorded = term.score(left, right)
        if step % PROBE_LOOKS_EVERY == 0 or step == steps:
            scores = {"value": value.detach(), **recorded}
            series.append({key: float(number) for key, number in scores.items()})
        if _has_collapsed(series[0], series[-1]) or not value.requires_grad:
            break
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
    return _judged("C7.probe", name, series, f"step {step} on unrelated noise", enough=True)


def check_aggregated(name: str, term: PairScore, seed: int, *, slots: int = 33) -> Finding:
    """C9.auxiliary_causal: the state that a slot is compared with is causal, and a shorter row gives the same state.

    A sum divided by the length of the row is no leak, but a shorter row does not give the same state.

    Args:
        name: the name of the term in the finding.
        term: the auxiliary term, with float64 parameters.
        seed: the seed of the random states.
        slots: the length of the row in slots; the term must accept it.
    """
    rng = generator(seed, "audit", "aggregated")
    differences = []
    with torch.no_grad():
        for parameter in term.parameters:  # equal parameters would hide a fault that depends on them
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))
        x = torch.randn(1, slots, term.width, generator=rng, dtype=torch.float64)
        whole = term.aggregated(x)
        for slot in range(slots):
            changed = x.clone()
            changed[:, slot:] += torch.randn(slots - slot, term.width, generator=rng, dtype=torch.float64)
            ahead = _largest(term.aggregated(changed)[:, :slot] - whole[:, :slot])
            shorter = _largest(term.aggregated(x[:, : slot + 1]) - whole[:, : slot + 1])
            differences += [(ahead, f"a slot before slot {slot} reads that slot or a later one")]
            differences += [(shorter, f"the state is different in a row of {slot + 1} slots")]
    worst, place = max(differences, key=lambda difference: difference[0])
    failed = worst > CAUSAL_TOLERANCE
    return finding(
        "C9.auxiliary_causal",
        outcome_of(wrong=failed, can_tell=True),
        f"{name}: {place}" if failed else f"{name}: no slot of {slots} depends on a later one",
        {"largest_change": worst},
        CAUSAL_TOLERANCE,
        reproduce={"seed": seed, "slots": slots},
    )


def _judged(check: str, name: str, series: Sequence[Scores], where: str, *, enough: bool) -> Finding:
    first, last = series[0], series[-1]
    agreement = affinity(last["value"], last["shuffled"]) if "shuffled" in last else None
    collapsed = _has_collapsed(first, last)
    numbers: dict[str, float | int | str | None] = {"affinity": agreement, "looks": len(series)}
    for key in ("value", "shuffled", "gain", "least_gain", "variance"):
        numbers |= {f"first_{key}": first.get(key), f"last_{key}": last.get(key)}
    return finding(
        check,
        outcome_of(wrong=collapsed, can_tell=enough and agreement is not None),
        f"{name} at {where}: {_sentence(first, last, agreement, collapsed, enough)}",
        numbers,
        FALLEN,
        reproduce={"term": name},
    )


def _has_collapsed(first: Scores, last: Scores) -> bool:
    fell = last["value"] < FALLEN * first["value"]
    return fell and any(key in first and last[key] < VANISHED * first[key] for key in ("shuffled", "gain"))


def _sentence(first: Scores, last: Scores, agreement: float | None, collapsed: bool, enough: bool) -> str:
    fell = last["value"] < first["value"]
    values = f"{first['value']:.3g} fell to {last['value']:.2g}" if fell else f"{last['value']:.3g}"
    if collapsed:
        reason = f"shuffled pairs score {last.get('shuffled', 0):.2g} and the gain is {last.get('gain', 1):.2g}"
        return f"collapsed: {values}, but {reason}"
    if "shuffled" not in last:
        return f"{values}; the model does not say what shuffled pairs score"
    if agreement is None:
        return f"{values}; shuffled pairs score {last['shuffled']:.2g}, too little to compare with"
    return f"{values}, affinity {agreement:.3f}{'' if enough else '; recorded too few times to judge'}"


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max()) if difference.numel() else 0.0
