"""C2, canary training: on tokens whose true probabilities are known no honest model can beat them; a leaking one soon does.

Canaries are trained on four languages (`languages.py`) and bet on with an exact test (`evidence.py`):

- uniform: independent tokens, floor ln 16, for each pass of the objective alone (a leaking pass that shares its steps with an
  honest one is caught five times later). Then the weights are frozen, and the plain loss on new tokens must not be below the
  floor, in eval and in train mode.
- alternating: windows of two ids in turn, bet on as if they were uniform: the positive control. A model that does not alarm within
  a quarter of the canary's steps could not have shown a leak either.
- neighbours: uniform rows among copies of themselves shifted by one token; only the rows are bet on. Rows that read each other show
  here, and never on independent rows.
- Markov: all passes together, as in training; the floor is the chain's true conditional given all that the objective allows. A
  leak beats it as before. A model that stays above it does not use what it is allowed (a wrong shift, a mask too strict).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from palinode.base.example import NO_SOURCE
from palinode.base.finding import Finding, Outcome
from palinode.base.markov import NO_NEIGHBOUR, MarkovChain, asymmetric_chain, symmetric_chain
from palinode.checks.canary import Canary, CanarySettings, Tiny, Trace
from palinode.checks.evidence import ALARM_NATS, plain_margin_nats
from palinode.checks.influence import scored_targets
from palinode.checks.languages import AlternatingLanguage, ChainLanguage, Language, NeighbourLanguage, UniformLanguage
from palinode.checks.laws import finding, outcome_of
from palinode.checks.subject import Subject

MOST_SEPARATE_PASSES = 4  # an objective with more is trained on all of them together
MARKOV_EXCESS_NATS = 0.05
MARKOV_ROUNDS = 3
STUCK_SHARE = 0.75  # an excess that another round does not bring below this share of its value will not go away
CHAINS = {"symmetric": symmetric_chain, "asymmetric": asymmetric_chain}


@dataclass(frozen=True)
class Report:
    """What the findings of one canary share."""

    canary: Canary
    name: str

    def finding(
        self, check: str, outcome: Outcome, message: str, threshold: float, extra: Mapping[str, float | int | None]
    ) -> Finding:
        """One finding, with the evidence and the excess over the floor among its numbers."""
        trace = self.canary.trace
        excess = {f"excess_nats_{group}": value for group, value in trace.excess_nats.items()}
        numbers = {"evidence_nats": trace.nats, "updates": trace.updates, **excess, **extra}
        reproduce = {"pass": self.name, "seed": self.canary.subject.seed, "language": self.canary.language.name}
        return finding(check, outcome, f"{self.name}: {message}", numbers, threshold, reproduce=reproduce)

    def early_end(self, check: str) -> list[Finding]:
        """The finding that ends a canary early: an alarm, or a loss that is no number; empty when it went to its end."""
        trace = self.canary.trace
        if trace.alarmed:
            return [self.finding(check, "fail", self._alarm_sentence(), ALARM_NATS, {})]
        if not trace.finite:
            message = f"training diverged after {trace.updates} updates"
            return [self.finding(check, "could_not_tell", message, ALARM_NATS, {})]
        return []

    def _alarm_sentence(self) -> str:
        """Which pass, how soon, how far below its floor, and where."""
        trace = self.canary.trace
        group, time = trace.richest
        who = "" if group == self.name else f"the pass {group} "
        again = " (a token that the pass predicts again)" if time else ""
        return (
            f"{who}predicts what it cannot know: after {trace.updates} updates ln E = {trace.nats:.1f} (alarm at "
            f"{ALARM_NATS:.1f}), loss {trace.excess_nats[group]:+.3f} nats from its floor on the last batch, most evidence at "
            f"target {trace.streams[group, time].richest_position}{again}"
        )


def check_canary(subject: Subject, settings: CanarySettings | None = None) -> tuple[Finding, ...]:
    """All of C2 on one subject: C2.canary, C2.frozen and C2.neighbours for each pass, C2.markov and C2.markov-excess together."""
    settings = settings or CanarySettings()
    tiny = Tiny.of(subject, settings)
    groups = tiny.bank.groups
    separate: tuple[str | None, ...] = groups if len(groups) <= MOST_SEPARATE_PASSES else (None,)
    alarm_nats = ALARM_NATS + math.log(len(separate))
    findings: list[Finding] = []
    for group in separate:
        uniform = _uniform(tiny, settings, group, alarm_nats)
        findings += uniform
        if settings.neighbour_steps and uniform[0].outcome != "fail":
            findings.append(_neighbours(tiny, settings, group, alarm_nats))
    for name in settings.chains if settings.markov_steps else ():
        findings += _markov(tiny, settings, name)
    return tuple(findings)


def _uniform(tiny: Tiny, settings: CanarySettings, group: str | None, alarm_nats: float) -> list[Finding]:
    """Train one uniform canary; without an alarm, its control and the plain form."""
    report = _report(tiny, settings, UniformLanguage(len(tiny.ids)), group)
    trace = report.canary.train(settings.steps, threshold_nats=alarm_nats)
    if ended := report.early_end("C2.canary"):
        return ended
    limit = settings.steps // 4
    control = Canary(tiny, settings, AlternatingLanguage(len(tiny.ids)), group).train(limit)
    too_weak = f", but the control did not alarm within {limit} updates: too weak to tell"
    message = _no_leak(trace) + (f"; the control alarmed after {control.updates}" if control.alarmed else too_weak)
    extra = {"control_updates_to_alarm": control.updates if control.alarmed else None}
    outcome = outcome_of(wrong=False, can_tell=control.alarmed)
    return [report.finding("C2.canary", outcome, message, ALARM_NATS, extra), _plain(report, settings)]


def _neighbours(tiny: Tiny, settings: CanarySettings, group: str | None, alarm_nats: float) -> Finding:
    """Train one canary on rows among their shifted copies. Its control is that of the uniform canary: the same model learns."""
    report = _report(tiny, settings.with_(rows=8), NeighbourLanguage(len(tiny.ids)), group)
    trace = report.canary.train(settings.neighbour_steps, threshold_nats=alarm_nats)
    if ended := report.early_end("C2.neighbours"):
        return ended[0]
    message = _no_leak(trace, "no evidence that rows read each other")
    return report.finding("C2.neighbours", "pass", message, ALARM_NATS, {})


def _report(tiny: Tiny, settings: CanarySettings, language: Language, group: str | None) -> Report:
    return Report(Canary(tiny, settings, language, group), group or "all passes")


def _no_leak(trace: Trace, verdict: str = "no evidence of a leak") -> str:
    return f"{verdict} in {trace.updates} updates (ln E {trace.nats:.1f}, alarm at {ALARM_NATS:.1f})"


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
        return report.finding("C2.frozen", "could_not_tell", message, 0.0, {})
    lowest, margin = float(excess.mean()), plain_margin_nats(len(excess))
    where = f"{len(excess)} new tokens in {mode} mode"
    message = f"{lowest:+.5f} nats above ln {len(report.canary.ids)} on {where} (bound {-margin:.5f})"
    extra = {"frozen_excess_nats": lowest, "frozen_tokens": len(excess)}
    outcome = outcome_of(wrong=lowest < -margin, can_tell=True)
    return report.finding("C2.frozen", outcome, message, -margin, extra)


def _markov(tiny: Tiny, settings: CanarySettings, name: str) -> list[Finding]:
    """Train one Markov canary; up to three rounds while it is still above its floor."""
    chain = CHAINS[name](len(tiny.ids))
    report = Report(Canary(tiny, settings, ChainLanguage(chain)), f"{name} Markov chain")
    excess, stuck = math.inf, False
    for _ in range(MARKOV_ROUNDS):
        trace = report.canary.train(settings.markov_steps, decay=True)
        if ended := report.early_end("C2.markov"):
            return ended
        before = excess
        group, excess, knowable = _largest_excess(report.canary, chain, settings.frozen_tokens)
        stuck = excess > STUCK_SHARE * before
        if excess <= MARKOV_EXCESS_NATS or stuck:
            break
    learned = excess <= MARKOV_EXCESS_NATS
    uses_too_little = not learned and stuck and _slots_hold_tokens(report.canary, group)
    upper = f"{group} ends {excess:+.4f} nats above its floor; its visible tokens are worth {knowable:.2f} nats"
    if not learned:
        upper += ": it does not use what it may see" if uses_too_little else ": training may be too short"
    return [
        report.finding("C2.markov", outcome_of(wrong=False, can_tell=learned), _no_leak(trace), ALARM_NATS, {}),
        report.finding(
            "C2.markov-excess",
            outcome_of(wrong=uses_too_little, can_tell=learned),
            upper,
            MARKOV_EXCESS_NATS,
            {"excess_nats": excess},
        ),
    ]


def _slots_hold_tokens(canary: Canary, group: str) -> bool:
    """Whether the predicting slots hold a token wherever some token may inform: the model can then use one without attention.

    Where some slots hold `[MASK]`, the model must first learn to find the neighbours, late and all at once: a loss that stands
    still then proves nothing.
    """
    entry = canary.bank.with_pass(group)
    windows = torch.zeros(1, canary.subject.window_tokens, dtype=torch.long)
    example = canary.subject.example(windows, entry.draw)
    rows = next(rows for one, rows in example.by_group() if one.name == group)
    context, target = canary.context(entry, group), example.target_source[rows]
    informed = (context.left != NO_NEIGHBOUR) | (context.right != NO_NEIGHBOUR)
    judged = scored_targets(example)[rows] & informed[target.clamp_min(0)]
    return bool((example.input_source[rows][judged] != NO_SOURCE).all())


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
