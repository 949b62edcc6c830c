"""C2, canary training: on tokens whose true probabilities are known, no honest model can beat them; a leaking one soon does.

Canaries are trained on four languages (`languages.py`) and bet on with an exact test (`evidence.py`):

- uniform: i.i.d. tokens, floor ln 16, for each pass of the objective alone (a pass that shares its steps with an honest one is
  caught five times later). Afterwards the weights are frozen and the plain
  loss on fresh tokens must not be below the floor, in eval and in train mode.
- alternating: windows of two ids in turn, bet on as if they were uniform: the power control. A stack that does not alarm within a
  quarter of the canary's steps could not have shown a leak either.
- neighbours: uniform rows among copies of themselves shifted by one token, of which only the rows are bet on: rows that read each
  other show here, and never on independent rows.
- Markov: all passes together, as in training; the floor is the chain's own conditional given all that the objective allows. A
  leak wins as before; and a model that stays above the floor does not use what it is allowed (a wrong shift, a mask too strict).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from palinode.base.example import NO_SOURCE
from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome
from palinode.checks.canary import Canary, CanarySettings, Tiny
from palinode.checks.evidence import ALARM_NATS, plain_margin_nats
from palinode.checks.languages import AlternatingLanguage, ChainLanguage, NeighbourLanguage, UniformLanguage
from palinode.checks.subject import Subject
from palinode.data.tasks.markov import NO_NEIGHBOUR, MarkovChain, asymmetric_chain, symmetric_chain

UNIFORM_LAW = "on i.i.d. uniform tokens no honest model beats ln V: evidence against it stays below e^20.7 (P <= 1e-9)"
FROZEN_LAW = "with frozen weights the mean loss on fresh uniform tokens is not below ln V by more than ln(1e9) / tokens"
NEIGHBOUR_LAW = "no honest model predicts a uniform row better when the batch holds shifted copies of it"
MARKOV_LAW = "no honest model beats the true conditional of a Markov chain given all that it may see"
EXCESS_LAW = "a model that uses all that it may see comes within 0.05 nat of the Markov chain's floor"
MOST_SEPARATE_PASSES = 4  # objectives with more are trained on all of them together
MARKOV_EXCESS_NATS = 0.05
MARKOV_ROUNDS = 3
STUCK_SHARE = 0.75  # an excess that another round does not bring below this share of what it was will not go away
CHAINS = {"symmetric": symmetric_chain, "asymmetric": asymmetric_chain}


@dataclass(frozen=True)
class Report:
    """What the findings of one canary share."""

    canary: Canary
    name: str

    def finding(
        self,
        check: str,
        outcome: CheckOutcome,
        law: str,
        message: str,
        threshold: float,
        extra: Mapping[str, float | int | None],
    ) -> Finding:
        """One finding, with the evidence and the excess over the floor among its numbers."""
        trace = self.canary.trace
        excess = {f"excess_nats_{group}": _finite(value) for group, value in trace.excess_nats.items()}
        numbers = {"evidence_nats": _finite(trace.nats), "updates": trace.updates, **excess, **extra}
        reproduce = {"pass": self.name, "seed": self.canary.subject.seed, "language": self.canary.language.name}
        return Finding(
            check=check,
            outcome=outcome,
            law=law,
            message=f"{self.name}: {message}",
            numbers=numbers,
            threshold=threshold,
            reproduce=reproduce,
        )

    def trouble(self, check: str, law: str) -> list[Finding]:
        """The finding that ends a canary early: an alarm, or a loss that is no number; empty when it went to its end."""
        trace = self.canary.trace
        if trace.alarmed:
            return [self.finding(check, "fail", law, self._alarm_sentence(), ALARM_NATS, {})]
        if not trace.finite:
            message = f"training diverged after {trace.updates} updates"
            return [self.finding(check, "could_not_tell", law, message, ALARM_NATS, {})]
        return []

    def _alarm_sentence(self) -> str:
        """Which pass, how soon, how far below its floor, and where."""
        trace = self.canary.trace
        group, time = trace.richest
        who = "" if group == self.name else f"the pass {group} "
        again = " (a token that the pass predicts again)" if time else ""
        return (
            f"{who}predicts what it cannot know: after {trace.updates} updates ln E = {trace.nats:.1f} (alarm at "
            f"{ALARM_NATS:.1f}), loss {trace.excess_nats[group]:+.3f} nats from its floor on the last batch, most of it at target "
            f"{trace.streams[group, time].richest_position}{again}"
        )


def check_canary(subject: Subject, settings: CanarySettings | None = None) -> tuple[Finding, ...]:
    """All of C2 on one subject: C2.canary, C2.frozen and C2.neighbours for each pass, C2.markov and C2.markov-excess together."""
    settings = settings or CanarySettings()
    tiny = Tiny.of(subject, settings)
    groups = tiny.bank.groups
    separate: tuple[str | None, ...] = groups if len(groups) <= MOST_SEPARATE_PASSES else (None,)
    findings: list[Finding] = []
    for group in separate:
        found = _uniform(tiny, settings, group, len(separate))
        findings += found
        if settings.neighbour_steps and found[0].outcome != "fail":
            findings.append(_neighbours(tiny, settings, group, len(separate)))
    for name in settings.chains if settings.markov_steps else ():
        findings += _markov(tiny, settings, name)
    return tuple(findings)


def _uniform(tiny: Tiny, settings: CanarySettings, group: str | None, passes: int) -> list[Finding]:
    """Train one uniform canary; without an alarm, its control and the plain form."""
    report = Report(Canary(tiny, settings, UniformLanguage(len(tiny.ids)), group), group or "all passes")
    trace = report.canary.train(settings.steps, threshold_nats=ALARM_NATS + math.log(passes))
    if trouble := report.trouble("C2.canary", UNIFORM_LAW):
        return trouble
    limit = settings.steps // 4
    control = Canary(tiny, settings, AlternatingLanguage(len(tiny.ids)), group).train(limit)
    found = f"no evidence of a leak in {trace.updates} updates (ln E {trace.nats:.1f}, alarm at {ALARM_NATS:.1f})"
    if control.alarmed:
        message = f"{found}; the control alarmed after {control.updates}"
    else:
        message = f"{found}, but the control did not alarm within {limit} updates: too weak to tell"
    extra = {"control_updates_to_alarm": control.updates if control.alarmed else None}
    outcome: CheckOutcome = "pass" if control.alarmed else "could_not_tell"
    return [
        report.finding("C2.canary", outcome, UNIFORM_LAW, message, ALARM_NATS, extra),
        _plain(report, settings),
    ]


def _neighbours(tiny: Tiny, settings: CanarySettings, group: str | None, passes: int) -> Finding:
    """Train one canary on rows among their shifted copies. Its control is that of the uniform canary: the same stack learns."""
    canary = Canary(tiny, settings.with_(rows=8), NeighbourLanguage(len(tiny.ids)), group)
    report = Report(canary, group or "all passes")
    trace = canary.train(settings.neighbour_steps, threshold_nats=ALARM_NATS + math.log(passes))
    if trouble := report.trouble("C2.neighbours", NEIGHBOUR_LAW):
        return trouble[0]
    message = f"no evidence that rows read each other in {trace.updates} updates (ln E {trace.nats:.1f}, alarm at {ALARM_NATS:.1f})"
    return report.finding("C2.neighbours", "pass", NEIGHBOUR_LAW, message, ALARM_NATS, {})


def _plain(report: Report, settings: CanarySettings) -> Finding:
    """C2.frozen: mean loss against the floor with the weights as they are, the lower of the two modes."""
    modes = {}
    for training in (False, True):
        kept = [
            (scored.nats.double() - scored.floor_nats)[scored.in_sequence & (scored.time == 0)]
            for scored in report.canary.frozen(settings.frozen_tokens, training=training)
        ]
        modes["train" if training else "eval"] = torch.cat(kept)
    mode, excess = min(modes.items(), key=lambda item: float(item[1].mean()) if len(item[1]) else math.inf)
    if not len(excess):
        message = "no targets that may be bet on one after the other"
        return report.finding("C2.frozen", "could_not_tell", FROZEN_LAW, message, 0.0, {})
    lowest, margin = float(excess.mean()), plain_margin_nats(len(excess))
    where = f"{len(excess)} fresh tokens in {mode} mode"
    message = f"{lowest:+.5f} nats above ln {len(report.canary.ids)} on {where} (bound {-margin:.5f})"
    extra = {"frozen_excess_nats": _finite(lowest), "frozen_tokens": len(excess)}
    return report.finding("C2.frozen", "fail" if lowest < -margin else "pass", FROZEN_LAW, message, -margin, extra)


def _markov(tiny: Tiny, settings: CanarySettings, name: str) -> list[Finding]:
    """Train one Markov canary; up to three rounds while it is still above its floor."""
    chain = CHAINS[name](len(tiny.ids))
    report = Report(Canary(tiny, settings, ChainLanguage(chain)), f"{name} Markov chain")
    excess, before, stuck = math.inf, math.inf, False
    for _ in range(MARKOV_ROUNDS):
        trace = report.canary.train(settings.markov_steps, decay=True)
        if trouble := report.trouble("C2.markov", MARKOV_LAW):
            return trouble
        before = excess
        group, excess, knowable = _largest_excess(report.canary, chain, settings.frozen_tokens)
        stuck = excess > STUCK_SHARE * before
        if excess <= MARKOV_EXCESS_NATS or stuck:
            break
    learned = excess <= MARKOV_EXCESS_NATS
    judged = stuck and _holds_what_informs(report.canary, group)
    lower = f"no evidence of a leak in {trace.updates} updates (ln E {trace.nats:.1f}, alarm at {ALARM_NATS:.1f})"
    upper = f"{group} ends {excess:+.4f} nats above its floor, of {knowable:.2f} nats that its visible tokens tell"
    if not learned:
        upper += ": it does not use what it may see" if judged else ": training may be too short"
    outcome: CheckOutcome = "pass" if learned else "fail" if judged else "could_not_tell"
    return [
        report.finding("C2.markov", "pass" if learned else "could_not_tell", MARKOV_LAW, lower, ALARM_NATS, {}),
        report.finding("C2.markov-excess", outcome, EXCESS_LAW, upper, MARKOV_EXCESS_NATS, {"excess_nats": excess}),
    ]


def _holds_what_informs(canary: Canary, group: str) -> bool:
    """Whether the slots that predict hold a token, wherever a token may inform: the stack then needs no attention to use one.

    Where some hold `[MASK]`, finding the neighbours is itself learned, late and all at once: a loss that stands still says nothing.
    """
    entry = next(entry for entry in canary.bank.entries if group in entry.groups)
    windows = torch.zeros(1, canary.subject.window_tokens, dtype=torch.long)
    example = canary.subject.example(windows, entry.draw)
    rows = next(rows for found, rows in example.by_group() if found.name == group)
    context, target = canary.context(entry, group), example.target_source[rows]
    informed = (context.left != NO_NEIGHBOUR) | (context.right != NO_NEIGHBOUR)
    asked = (example.loss_weight[rows] > 0) & (target != NO_SOURCE) & informed[target.clamp_min(0)]
    return bool((example.input_source[rows][asked] != NO_SOURCE).all())


def _largest_excess(canary: Canary, chain: MarkovChain, tokens: int) -> tuple[str, float, float]:
    """The pass furthest above its floor: name, mean excess, and mean nats its contexts are worth, with frozen weights."""
    worst = ("", -math.inf, 0.0)
    batches = canary.frozen(tokens)
    for group in dict.fromkeys(scored.group for scored in batches):
        nats = torch.cat([scored.nats.double() for scored in batches if scored.group == group])
        floor = torch.cat([scored.floor_nats for scored in batches if scored.group == group])
        excess = float((nats - floor).mean()) if len(nats) else -math.inf
        if excess > worst[1]:
            worst = (group, excess, chain.token_entropy_nats() - float(floor.mean()))
    return worst


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
