"""C2, canary training: an honest model cannot predict tokens better than their true probabilities; a model with a leak soon does.

A canary is a tiny copy of the model, trained on the model's real objective. An exact test (`evidence.py`) bets on every batch
before the canary learns from the batch. Canaries are trained on four languages (`languages.py`):

- uniform: the tokens are independent, and the floor is ln 16. One canary is trained for each pass of the objective alone, because
  a leaking pass that shares its steps with an honest pass is caught five times later. After training the weights are frozen, and
  the plain loss on new tokens must not be below the floor, in eval mode and in train mode.
- alternating: the windows hold two ids in turn, and the test bets as if they were uniform. This is the positive control. A model
  that does not alarm within a quarter of the canary's steps could not have shown a leak either.
- neighbours: uniform rows stand among copies of themselves that are shifted by one token; the test bets only on the rows. A model
  whose rows read each other shows here, and never on independent rows.
- Markov: all passes are trained together, as in training. The floor is the chain's true conditional entropy given all that the
  objective allows. A leak gives a loss below the floor. A loss that stays above the floor shows that the model does not use all
  that it may use (a wrong shift, a mask that is too strict).

The canaries of one pass depend only on the tiny model, the settings and the examples of this pass. `PassCheck.depends_on` describes
the examples, so that two arms with the same pass can share the findings.

Legend: B windows, T tokens of a window, V ids that the canary uses, n scored tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from palinode.base.config import Config, encode
from palinode.base.example import EXAMPLE_TENSORS, NO_SOURCE, SpecialTokens
from palinode.base.finding import Finding
from palinode.base.markov import NO_NEIGHBOUR, MarkovChain, asymmetric_chain, symmetric_chain
from palinode.base.measures import CheckOutcome
from palinode.base.seeds import generator
from palinode.checks.copies import seeded_passes, trainable_copy
from palinode.checks.draws import DrawBank, Entry, contract, draw_bank, itself, joined_draw
from palinode.checks.evidence import ALARM_NATS, Evidence, combined_nats
from palinode.checks.influence import only_pass, scored_targets
from palinode.checks.languages import (
    AlternatingLanguage,
    ChainLanguage,
    Context,
    Language,
    NeighbourLanguage,
    UniformLanguage,
)
from palinode.checks.laws import finding, outcome_of
from palinode.checks.subject import Subject

MOST_SEPARATE_PASSES = 4  # an objective with more passes is trained on all of them together
# The alarm of a canary on uniform tokens. An arm has at most four such canaries, and together they keep the probability of a false
# alarm. The alarm is the same for an arm with fewer passes, so that arms can share the findings of a pass.
PASS_ALARM_NATS = ALARM_NATS + math.log(MOST_SEPARATE_PASSES)
MARKOV_EXCESS_NATS = 0.05
MARKOV_ROUNDS = 3
STUCK_SHARE = 0.75  # an excess that stays above this share of its value after another round will not go away
CHAINS = {"symmetric": symmetric_chain, "asymmetric": asymmetric_chain}
BETAS = (0.9, 0.95)
NOT_AN_ID = -1
# The tokens of a batch. A batch may have up to four times `rows` rows, because an objective that scores two tokens a window learns
# slowly.
SCORED_TOKENS = 256
DECAYING_SHARE = 0.4  # the share of the steps, at the end, in which the learning rate falls


class CanarySettings(Config):
    """The options of canary training. The time grows with rows x window_tokens x steps, and with the number of passes.

    Attributes:
        vocabulary: the number of ids that the canary uses; the softmax contains these ids only.
        window_tokens: the number of tokens of a window.
        rows: the number of rows of a batch.
        steps: the number of updates of a uniform canary, for each pass. The positive control must alarm within a quarter of them.
            A control that alarms early does not allow fewer updates: a planted leak whose control alarmed after 6 updates was
            found after 51, after 59 and, with a third seed, not within 80.
        neighbour_steps: the number of updates of a canary on eight rows, of which two stand among their shifted copies.
        frozen_tokens: the number of tokens that the frozen weights score after training, in each mode.
        markov_steps: the number of updates of the Markov canary in one round (0: no Markov canary). There are at most three rounds.
        chains: the names of the Markov chains, `symmetric` or `asymmetric`.
    """

    vocabulary: int = Field(default=16, ge=4)
    window_tokens: int = Field(default=64, ge=4)
    rows: int = Field(default=16, ge=8)
    steps: int = Field(default=160, ge=8)
    neighbour_steps: int = Field(default=60, ge=0)
    warm_up_steps: int = Field(default=20, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0)
    frozen_tokens: int = Field(default=8192, ge=1)
    markov_steps: int = Field(default=120, ge=0)
    chains: tuple[Literal["symmetric", "asymmetric"], ...] = ("symmetric",)


@dataclass(frozen=True)
class PassCheck:
    """The canaries of one pass alone, or of all passes together where an objective has more than four.

    Attributes:
        depends_on: the function that returns plain data that decides every bit of the training, besides the tiny model, the
            settings and the code of the audit.
        measure: the function that trains the canaries and returns C2.canary, C2.frozen and C2.neighbours.
    """

    depends_on: Callable[[], Mapping[str, Any]]
    measure: Callable[[], tuple[Finding, ...]]


def measure_each(passes: Sequence[PassCheck]) -> list[tuple[Finding, ...]]:
    """The findings of each pass, without sharing."""
    return [one.measure() for one in passes]


def check_canary(
    subject: Subject,
    settings: CanarySettings | None = None,
    findings_of: Callable[[Sequence[PassCheck]], list[tuple[Finding, ...]]] = measure_each,
) -> tuple[Finding, ...]:
    """Run C2 on one subject: C2.canary, C2.frozen and C2.neighbours for each pass, C2.markov and C2.markov-excess for all.

    A subject with a leak in one of the passes is not trained on a Markov chain.

    `findings_of` returns the findings of each pass. It may take them from the audit of an arm with the same pass.
    """
    settings = settings or CanarySettings()
    tiny = Tiny.of(subject, settings)
    groups = tiny.bank.groups
    separate: tuple[str | None, ...] = groups if len(groups) <= MOST_SEPARATE_PASSES else (None,)
    passes = [
        PassCheck(partial(tiny.training_of, settings, group), partial(_of_pass, tiny, settings, group))
        for group in separate
    ]
    findings = [finding for of_pass in findings_of(passes) for finding in of_pass]
    if settings.markov_steps and not any(one.outcome == "fail" for one in findings):  # one proof of a leak is enough
        for name in settings.chains:
            findings += _markov(tiny, settings, name)
    return tuple(findings)


def _of_pass(tiny: Tiny, settings: CanarySettings, group: str | None) -> tuple[Finding, ...]:
    findings = _uniform(tiny, settings, group)
    if settings.neighbour_steps and findings[0].outcome != "fail":
        findings.append(_neighbours(tiny, settings, group))
    return tuple(findings)


def _uniform(tiny: Tiny, settings: CanarySettings, group: str | None) -> list[Finding]:
    """Train one uniform canary. A canary without an alarm is followed by its positive control and by C2.frozen."""
    canary = Canary(tiny, settings, UniformLanguage(len(tiny.ids)), group)
    trace = canary.train(settings.steps, threshold_nats=PASS_ALARM_NATS)
    if ended := canary.early_end("C2.canary"):
        return ended
    limit = settings.steps // 4
    control = Canary(tiny, settings, AlternatingLanguage(len(tiny.ids)), group).train(limit)
    too_weak = f", but the control did not alarm within {limit} updates: too weak to tell"
    message = _no_leak(trace) + (f"; the control alarmed after {control.updates}" if control.alarmed else too_weak)
    extra = {"control_updates_to_alarm": control.updates if control.alarmed else None}
    outcome = outcome_of(wrong=False, can_tell=control.alarmed)
    return [canary.finding("C2.canary", outcome, message, ALARM_NATS, extra), _plain(canary)]


def _neighbours(tiny: Tiny, settings: CanarySettings, group: str | None) -> Finding:
    """Train one canary on rows among their shifted copies. Its positive control is that of the uniform canary, the same model."""
    canary = Canary(tiny, settings.with_(rows=8), NeighbourLanguage(len(tiny.ids)), group)
    trace = canary.train(settings.neighbour_steps, threshold_nats=PASS_ALARM_NATS)
    if ended := canary.early_end("C2.neighbours"):
        return ended[0]
    message = _no_leak(trace, "no evidence that rows read each other")
    return canary.finding("C2.neighbours", "pass", message, ALARM_NATS, {})


def _no_leak(trace: Trace, verdict: str = "no evidence of a leak") -> str:
    return f"{verdict} in {trace.updates} updates (ln E {trace.nats:.1f}, alarm at {ALARM_NATS:.1f})"


def _plain(canary: Canary) -> Finding:
    """C2.frozen: the mean loss of the frozen weights is not below the floor. The check takes the mode with the lower loss."""
    modes = {}
    for training in (False, True):
        kept = [
            (scored.nats.double() - scored.floor_nats)[scored.in_sequence & (scored.time == 0)]
            for scored in canary.frozen(canary.settings.frozen_tokens, training=training)
        ]
        modes["train" if training else "eval"] = torch.cat(kept)
    mode, excess = min(modes.items(), key=lambda item: float(item[1].mean()) if len(item[1]) else math.inf)
    if not len(excess):
        message = "no targets that may be bet on one after the other"
        return canary.finding("C2.frozen", "could_not_tell", message, 0.0, {})
    lowest = float(excess.mean())
    margin = ALARM_NATS / len(
        excess
    )  # how far the mean of n losses may fall below the floor by chance: ln(1 / delta) / n
    where = f"{len(excess)} new tokens in {mode} mode"
    message = f"mean loss minus ln {len(canary.ids)}: {lowest:+.5f} nats on {where} (an honest model stays above {-margin:.5f})"
    extra = {"frozen_excess_nats": lowest, "frozen_tokens": len(excess)}
    outcome = outcome_of(wrong=lowest < -margin, can_tell=True)
    return canary.finding("C2.frozen", outcome, message, -margin, extra)


def _markov(tiny: Tiny, settings: CanarySettings, name: str) -> list[Finding]:
    """Train one Markov canary. A canary whose loss is still above its floor is trained for up to three rounds."""
    chain = CHAINS[name](len(tiny.ids))
    canary = Canary(tiny, settings, ChainLanguage(chain), title=f"{name} Markov chain")
    excess, stuck = math.inf, False
    for _ in range(MARKOV_ROUNDS):
        trace = canary.train(settings.markov_steps, decay=True)
        if ended := canary.early_end("C2.markov"):
            return ended
        before = excess
        group, excess, knowable = _largest_excess(canary, chain, settings.frozen_tokens)
        stuck = excess > STUCK_SHARE * before
        if excess <= MARKOV_EXCESS_NATS or stuck:
            break
    at_floor = excess <= MARKOV_EXCESS_NATS
    uses_too_little = not at_floor and stuck and _slots_hold_tokens(canary, group)
    upper = f"{group} ends {excess:+.4f} nats above its floor; its visible tokens are worth {knowable:.2f} nats"
    if not at_floor:
        upper += ": it does not use what it may see" if uses_too_little else ": training may be too short"
    return [
        canary.finding("C2.markov", outcome_of(wrong=False, can_tell=at_floor), _no_leak(trace), ALARM_NATS, {}),
        canary.finding(
            "C2.markov-excess",
            outcome_of(wrong=uses_too_little, can_tell=at_floor),
            upper,
            MARKOV_EXCESS_NATS,
            {"excess_nats": excess},
        ),
    ]


def _slots_hold_tokens(canary: Canary, group: str) -> bool:
    """Whether the predicting slots hold a token wherever some token may inform. The model can then use a token without attention.

    Where some slots hold `[MASK]`, the model must first learn to find the neighbours, and it learns this late and suddenly. A loss
    that does not fall then proves nothing.
    """
    entry = canary.bank.with_pass(group)
    windows = torch.zeros(1, canary.subject.window_tokens, dtype=torch.long)
    example = only_pass(canary.subject.example(windows, entry.draw), group)
    context = canary.context(entry, group)
    informed = (context.left != NO_NEIGHBOUR) | (context.right != NO_NEIGHBOUR)
    judged = scored_targets(example) & informed[example.target_source.clamp_min(0)]
    return bool((example.input_source[judged] != NO_SOURCE).all())


def _largest_excess(canary: Canary, chain: MarkovChain, tokens: int) -> tuple[str, float, float]:
    """The pass whose loss is furthest above its floor: name, mean excess in nats, and mean value of its contexts in nats.

    The weights are frozen.
    """
    worst = ("", -math.inf, 0.0)
    batches = canary.frozen(tokens)
    for group in dict.fromkeys(scored.group for scored in batches):
        nats = torch.cat([scored.nats.double() for scored in batches if scored.group == group])
        floor = torch.cat([scored.floor_nats for scored in batches if scored.group == group])
        excess = float((nats - floor).mean()) if len(nats) else -math.inf
        if excess > worst[1]:
            worst = (group, excess, chain.token_entropy_nats() - float(floor.mean()))
    return worst


@dataclass(frozen=True)
class Scored:
    """The predictions of one pass that may be bet on; every array has the shape (n,).

    `in_sequence` says whether the tokens of this window may be bet on one after the other. `time` is 0 the first time that the pass
    predicts this token of this window, and 1 the second time: two predictions of one token are not two bets in one stream.
    """

    group: str
    nats: Tensor
    floor_nats: Tensor
    positions: Tensor
    windows: Tensor
    in_sequence: Tensor
    time: Tensor


@dataclass
class Trace:
    """The record of a canary's training.

    Attributes:
        streams: the evidence by (pass, time), where `time` counts how often the pass predicted the same token before.
        updates: the number of updates made so far.
        alarmed: whether the evidence crossed the bound before the next update.
        excess_nats: the mean nats above the floor on the last batch, by pass.
        finite: False when the loss was not a finite number.
    """

    streams: dict[tuple[str, int], Evidence] = field(default_factory=dict)
    updates: int = 0
    alarmed: bool = False
    finite: bool = True
    excess_nats: dict[str, float] = field(default_factory=dict)

    @property
    def nats(self) -> float:
        """ln E, the logarithm of the average evidence of all streams."""
        return combined_nats(list(self.streams.values())) if self.streams else 0.0

    @property
    def richest(self) -> tuple[str, int]:
        """The (pass, time) of the stream with the most evidence."""
        return max(self.streams, key=lambda name: self.streams[name].nats)


@dataclass(frozen=True)
class Tiny:
    """A subject at the canary's size, the ids it is trained on, and the decisions that its objective makes at this size."""

    subject: Subject
    ids: Tensor
    bank: DrawBank

    @classmethod
    def of(cls, subject: Subject, settings: CanarySettings) -> Tiny:
        """The subject rebuilt at the canary's size; where it cannot be rebuilt, the subject's own module on some of its ids."""
        rebuild = subject.rebuild_small or subject.rebuild
        if rebuild is None:
            rng = generator(subject.seed, "audit", "canary ids")
            ids = torch.randperm(subject.content_tokens, generator=rng)[: settings.vocabulary].sort().values
            tiny = replace(subject, window_tokens=min(settings.window_tokens, subject.window_tokens))
        else:
            specials, length = SpecialTokens(settings.vocabulary), settings.window_tokens
            ids = torch.arange(settings.vocabulary)
            tiny = replace(subject, specials=specials, vocab_size=specials.vocab_size, window_tokens=length)
            tiny = replace(tiny, module=rebuild(specials.vocab_size, tiny.slots_of(length), subject.seed))
        return cls(tiny, ids, draw_bank(tiny, tiny.window_tokens))

    def training_of(self, settings: CanarySettings, group: str | None) -> Mapping[str, Any]:
        """Plain data that decides the training on this pass, besides the module and the settings; None: on all passes together.

        A bank may hold many decisions that make one example of this pass: those of `both` choose only whether it reads rtl as well.
        Then every batch consists of this example, and the number of the decisions does not matter. Where a pass has several
        examples, the batches depend on all entries of the bank in their order.
        """
        entries = [entry for entry in self.bank.entries if group is None or group in entry.groups]
        made = [{name: self._made(entry, name) for name in ([group] if group else entry.groups)} for entry in entries]
        several = [] if group and all(one == made[0] for one in made) else made[1:]
        order = [str(entry.shapes) for entry in entries] + [str(self.bank.by_row)] if several else []
        window = self.subject.window_tokens
        return {
            "pass": group,
            "seed": self.subject.seed,
            "slots": self.subject.slots_of(window),
            "windows": self.windows_per_batch(settings, group),
            "made": made[:1] + several,
            "order": order,
        }

    def _made(self, entry: Entry, group: str) -> Mapping[str, Any]:
        """One pass of one window with these decisions: its visibility, and hashes of its example and of the tokens it may see."""
        window = self.ids[torch.arange(self.subject.window_tokens) * 5 % len(self.ids)]
        example = only_pass(self.subject.example(window[None], entry.draw), group)
        arrays = {name: getattr(example, name) for name in EXAMPLE_TENSORS}
        share = example.loss_weight / example.loss_weight.sum().clamp_min(
            1e-9
        )  # the loss is divided by the sum of the weights
        arrays["loss_weight"] = (share * 1e6).round().long()
        arrays["allowed"] = self.allowed(entry, group)
        hashes = {
            name: hashlib.sha256(array.contiguous().numpy().tobytes()).hexdigest() for name, array in arrays.items()
        }
        return {"sees": encode(example.groups[0].sees), "slots": example.inputs.shape[1], **hashes}

    def allowed(self, entry: Entry, group: str) -> Tensor:
        """(T, T) boolean, by source and target: the tokens that may inform the targets of a window with these decisions."""
        length = self.subject.window_tokens
        allowed = contract(self.subject.objective, entry, group, length)
        return allowed if self.subject.objective.scores_itself else allowed & ~itself(length)

    def windows_per_batch(self, settings: CanarySettings, group: str | None) -> int:
        """The number of windows that gives about `rows` rows a batch: at least 8, a multiple of 4."""
        window = self.ids[:1].repeat(1, self.subject.window_tokens)
        examples = [self.subject.example(window, entry.draw) for entry in self.bank.covering(1)]
        if group is not None:
            examples = [only_pass(e, group) for e in examples if group in {g.name for g in e.groups}]
        rows = max(example.inputs.shape[0] for example in examples)
        scored = max(1, max(int(scored_targets(example).sum()) for example in examples))
        count = max(settings.rows // rows, min(4 * settings.rows // rows, SCORED_TOKENS // scored))
        return max(8, count // 4 * 4)


class Canary:
    """A tiny model that is trained on one artificial language, with one pass of an objective or with all its passes.

    `title` is the canary's name in findings; default: the name of the pass.
    """

    def __init__(
        self, tiny: Tiny, settings: CanarySettings, language: Language, group: str | None = None, title: str = ""
    ):
        self.settings, self.language, self.group = settings, language, group
        self.title = title or group or "all passes"
        self.tiny, self.subject, self.ids, self.bank = tiny, tiny.subject, tiny.ids, tiny.bank
        self.rank = torch.full((self.subject.specials.vocab_size + self.subject.vocab_size,), NOT_AN_ID)
        self.rank[self.ids] = torch.arange(len(self.ids))
        self.contexts: dict[tuple[Entry, str], Context] = {}
        rng = generator(self.subject.seed, "audit", "canary start")
        self.module = trainable_copy(self.subject.module, self.subject.vocab_size, rng)
        parameters = list(self.module.parameters())
        fused = all(
            one.is_floating_point() and one.device.type == "cpu" for one in parameters
        )  # 7 % less time an update
        self.optimizer = torch.optim.AdamW(
            parameters, lr=settings.learning_rate, betas=BETAS, weight_decay=0.0, fused=fused or None
        )
        self.windows = tiny.windows_per_batch(settings, group)
        self.trace = Trace()

    def train(self, steps: int, *, decay: bool = False, threshold_nats: float = ALARM_NATS) -> Trace:
        """Train for `steps` more updates, or until the alarm.

        `decay` says whether the learning rate falls to 0 over the last 40 %.
        """
        first = self.trace.updates
        with seeded_passes(self.subject.seed, "canary", self.language.name, first):
            for step in range(steps):
                rate = min(1.0, (first + step + 1) / self.settings.warm_up_steps)
                falling = min(1.0, (steps - step) / (DECAYING_SHARE * steps)) if decay else 1.0
                self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate * rate * falling
                self._step(threshold_nats)
                if self.trace.alarmed or not self.trace.finite:
                    break
        return self.trace

    def frozen(self, tokens: int, *, training: bool = False) -> list[Scored]:
        """The predictions of at least `tokens` new tokens by the weights as they are, batch by batch."""
        predictions: list[Scored] = []
        step = 0
        with torch.no_grad(), seeded_passes(self.subject.seed, "frozen", self.language.name):
            while sum(len(scored.nats) for scored in predictions) < tokens and step < tokens:
                predictions += self._read("frozen", step, training)[0]
                step += 1
        return predictions

    def finding(
        self, check: str, outcome: CheckOutcome, message: str, threshold: float, extra: Mapping[str, float | int | None]
    ) -> Finding:
        """One finding of this canary. Its numbers contain the evidence and the excess over the floor."""
        trace = self.trace
        excess = {f"excess_nats_{group}": value for group, value in trace.excess_nats.items()}
        numbers = {"evidence_nats": trace.nats, "updates": trace.updates, **excess, **extra}
        reproduce = {"pass": self.title, "seed": self.subject.seed, "language": self.language.name}
        return finding(check, outcome, f"{self.title}: {message}", numbers, threshold, reproduce=reproduce)

    def early_end(self, check: str) -> list[Finding]:
        """The finding that ends a canary early: an alarm, or a loss that is not a finite number.

        A canary that trained to its end gives none.
        """
        trace = self.trace
        if trace.alarmed:
            return [self.finding(check, "fail", self._alarm_sentence(), ALARM_NATS, {})]
        if not trace.finite:
            message = f"training diverged after {trace.updates} updates"
            return [self.finding(check, "could_not_tell", message, ALARM_NATS, {})]
        return []

    def context(self, entry: Entry, group: str) -> Context:
        """The tokens that the targets of a window with these decisions may see. The result is computed once and kept."""
        if (entry, group) not in self.contexts:
            length = self.subject.window_tokens
            scored = torch.zeros(length, dtype=torch.bool)
            if group in entry.groups:
                example = only_pass(self.subject.example(self.ids[:1].repeat(1, length), entry.draw), group)
                scored[example.target_source[scored_targets(example)]] = True
            self.contexts[entry, group] = Context.of(self.tiny.allowed(entry, group), scored)
        return self.contexts[entry, group]

    def _alarm_sentence(self) -> str:
        """The sentence about an alarm: the pass, the number of updates, the distance below the floor, and the target position."""
        trace = self.trace
        group, time = trace.richest
        who = "" if group == self.title else f"the pass {group} "
        again = " (a token that the pass predicts again)" if time else ""
        return (
            f"{who}predicts what it cannot know: after {trace.updates} updates ln E = {trace.nats:.1f} (alarm at "
            f"{ALARM_NATS:.1f}), loss {trace.excess_nats[group]:+.3f} nats from its floor on the last batch, most evidence at "
            f"target {trace.streams[group, time].richest_position}{again}"
        )

    def _step(self, threshold_nats: float) -> None:
        """Bet on a batch, then update the weights on that batch."""
        trace = self.trace
        passes, loss = self._read("train", trace.updates, training=True)
        trace.finite = bool(torch.isfinite(loss))
        if not trace.finite:
            return
        for scored in passes:
            self._bet(scored)
        trace.alarmed = trace.nats >= threshold_nats
        if not trace.alarmed:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            trace.updates += 1

    def _bet(self, scored: Scored) -> None:
        nats = scored.nats.detach().double()
        ratios = (scored.floor_nats - nats).exp()
        for time in range(int(scored.time.max()) + 1 if len(nats) else 0):
            mine = scored.time == time
            stream = self.trace.streams.setdefault((scored.group, time), Evidence(self.subject.window_tokens))
            stream.bet(ratios[mine], scored.positions[mine], scored.windows[mine], scored.in_sequence[mine])
        self.trace.excess_nats[scored.group] = float((nats - scored.floor_nats).mean()) if len(nats) else 0.0

    def _read(self, stream: str, step: int, training: bool) -> tuple[list[Scored], Tensor]:
        """Read one new batch with the module: the predictions that may be bet on, by pass, and the training loss."""
        subject = self.subject
        rng = generator(subject.seed, "audit", "canary", self.language.name, self.group or "all", stream, step)
        windows, bet_on = self.language.windows(self.windows, subject.window_tokens, rng)
        entries = self.bank.batch(self.windows, step, rng, self.group)
        example = subject.example(self.ids[windows], joined_draw(entries))
        if self.group is not None:
            example = only_pass(example, self.group)
        logits = subject.logits(self.module.train(training), example)[..., self.ids]
        rank = self.rank[example.targets]
        scored = scored_targets(example) & (rank != NOT_AN_ID) & bet_on[example.window_row][:, None]
        nats = torch.zeros(scored.shape)
        chosen = logits[scored].float().log_softmax(-1).gather(-1, rank[scored][:, None])
        nats = nats.masked_scatter(scored, -chosen)
        loss = (nats * example.loss_weight).sum() / (example.loss_weight * scored).sum().clamp_min(1e-9)
        passes = []
        for group, rows in example.by_group():
            where = scored[rows]
            window = example.window_row[rows][:, None].expand_as(where)[where]
            target = example.target_source[rows][where]
            passes.append(self._scored(group.name, nats[rows][where], (window, target), windows, entries))
        return passes, loss

    def _scored(
        self, group: str, nats: Tensor, places: tuple[Tensor, Tensor], windows: Tensor, entries: Sequence[Entry]
    ) -> Scored:
        """The predictions of targets that may not see themselves, each with its floor. `places`: (n,) windows and targets."""
        contexts = [self.context(entry, group) for entry in entries]
        left, right, bets = (torch.stack([getattr(c, name) for c in contexts]) for name in ("left", "right", "bets"))
        floor_nats = -self.language.log_probability(windows, left, right)
        in_sequence = torch.tensor([self.language.in_sequence(context) for context in contexts])
        kept = bets[places]
        window, target = (place[kept] for place in places)
        return Scored(
            group=group,
            nats=nats[kept],
            floor_nats=floor_nats[window, target],
            positions=target,
            windows=window,
            in_sequence=in_sequence[window],
            time=_times(window * windows.shape[1] + target),
        )


def _times(keys: Tensor) -> Tensor:
    """For each entry, the number of earlier entries with the same key; 0 for the first one."""
    order = keys.argsort(stable=True)
    ordered = keys[order]
    index = torch.arange(len(keys))
    is_first = torch.cat([torch.ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])[: len(keys)]
    times = torch.empty_like(keys)
    times[order] = index - torch.where(is_first, index, 0).cummax(0).values
    return times
