"""A canary: a tiny copy of the model, trained on its real objective. Every batch is bet on before the canary learns from it.

`check_canary.py` says which canaries are trained and how their results are judged.
Legend: B windows, T tokens of a window, V ids that the canary uses, n scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from palinode.base.config import Config
from palinode.base.example import SpecialTokens
from palinode.base.seeds import generator
from palinode.checks.copies import seeded_passes, trainable_copy
from palinode.checks.draws import DrawBank, Entry, contract, draw_bank, itself, joined_draw
from palinode.checks.evidence import ALARM_NATS, Evidence, combined_nats
from palinode.checks.influence import only_pass, scored_targets
from palinode.checks.languages import Context, Language
from palinode.checks.subject import Subject

BETAS = (0.9, 0.95)
NOT_AN_ID = -1
# tokens of a batch, with up to four times the rows: an objective that scores two tokens of a window learns too slowly
SCORED_TOKENS = 256
DECAYING_SHARE = 0.4  # of the steps, where the learning rate falls


class CanarySettings(Config):
    """How canaries are trained. Time grows with rows x window_tokens x steps, and with the passes of the objective.

    Attributes:
        vocabulary: ids used; the softmax is restricted to them.
        window_tokens, rows: length of a window, and rows of a batch.
        steps: updates of a uniform canary, for each pass; its control must alarm within a quarter of them.
        neighbour_steps: updates of a canary on eight rows, two of them among shifted copies.
        frozen_tokens: tokens scored with frozen weights afterwards, in each mode.
        markov_steps: updates of the Markov canary in one round (0 leaves it out), at most three rounds.
        chains: `symmetric` and `asymmetric` Markov chains.
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
class Scored:
    """The predictions of one pass that may be bet on: (n,) each.

    `in_sequence`: may the tokens of this window be bet on one after the other? `time`: 0 the first time that the pass predicts
    this token of this window, 1 the second: a token predicted twice is not two bets in one stream.
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
        streams: the evidence of every pass, and of every time that it predicts a token.
        updates: made so far; `alarmed`: the evidence crossed the bound before the next one.
        excess_nats: by pass, mean nats above the floor on the last batch.
        finite: False when the loss was not a number.
    """

    streams: dict[tuple[str, int], Evidence] = field(default_factory=dict)
    updates: int = 0
    alarmed: bool = False
    finite: bool = True
    excess_nats: dict[str, float] = field(default_factory=dict)

    @property
    def nats(self) -> float:
        """ln E over all streams."""
        return combined_nats(list(self.streams.values())) if self.streams else 0.0

    @property
    def richest(self) -> tuple[str, int]:
        """The (pass, time) with the most evidence."""
        return max(self.streams, key=lambda name: self.streams[name].nats)


@dataclass(frozen=True)
class Tiny:
    """A subject at the canary's size, the ids it is trained on, and the decisions that its objective makes there."""

    subject: Subject
    ids: Tensor
    bank: DrawBank

    @classmethod
    def of(cls, subject: Subject, settings: CanarySettings) -> Tiny:
        """Rebuilt where it can be, else the module itself on some of its ids."""
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


class Canary:
    """A tiny model in training on one language: on one pass of its objective alone, or on all of them together."""

    def __init__(self, tiny: Tiny, settings: CanarySettings, language: Language, group: str | None = None):
        self.settings, self.language, self.group = settings, language, group
        self.subject, self.ids, self.bank = tiny.subject, tiny.ids, tiny.bank
        self.rank = torch.full((self.subject.specials.vocab_size + self.subject.vocab_size,), NOT_AN_ID)
        self.rank[self.ids] = torch.arange(len(self.ids))
        self.contexts: dict[tuple[Entry, str], Context] = {}
        rng = generator(self.subject.seed, "audit", "canary start")
        self.module = trainable_copy(self.subject.module, self.subject.vocab_size, rng)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=settings.learning_rate, betas=BETAS, weight_decay=0.0
        )
        self.windows = self._windows_per_batch()
        self.trace = Trace()

    def train(self, steps: int, *, decay: bool = False, threshold_nats: float = ALARM_NATS) -> Trace:
        """Train for `steps` more updates, or until the alarm. `decay`: the learning rate falls to 0 over the last 40 %."""
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
        """Predictions of at least so many new tokens with the weights as they are, batch by batch."""
        predictions: list[Scored] = []
        step = 0
        with torch.no_grad(), seeded_passes(self.subject.seed, "frozen", self.language.name):
            while sum(len(scored.nats) for scored in predictions) < tokens and step < tokens:
                predictions += self._read("frozen", step, training)[0]
                step += 1
        return predictions

    def context(self, entry: Entry, group: str) -> Context:
        """What the targets of a window with these decisions may see; computed once."""
        if (entry, group) not in self.contexts:
            length = self.subject.window_tokens
            scored = torch.zeros(length, dtype=torch.bool)
            if group in entry.groups:
                example = only_pass(self.subject.example(self.ids[:1].repeat(1, length), entry.draw), group)
                scored[example.target_source[scored_targets(example)]] = True
            allowed = contract(self.subject.objective, entry, group, length)
            if not self.subject.objective.scores_itself:
                allowed = allowed & ~itself(length)
            self.contexts[entry, group] = Context.of(allowed, scored)
        return self.contexts[entry, group]

    def _step(self, threshold_nats: float) -> None:
        """Bet on a batch, then learn from it."""
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
        """One new batch through the module: what may be bet on by pass, and the training loss."""
        subject = self.subject
        rng = generator(subject.seed, "audit", "canary", self.language.name, self.group or "all", stream, step)
        windows, counts = self.language.windows(self.windows, subject.window_tokens, rng)
        entries = self.bank.batch(self.windows, step, rng, self.group)
        example = subject.example(self.ids[windows], joined_draw(entries))
        if self.group is not None:
            example = only_pass(example, self.group)
        logits = subject.logits(self.module.train(training), example)[..., self.ids]
        rank = self.rank[example.targets]
        scored = scored_targets(example) & (rank != NOT_AN_ID) & counts[example.window_row][:, None]
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
        """The predictions of targets that may not see themselves, with their floor. `places`: (n,) windows and targets."""
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

    def _windows_per_batch(self) -> int:
        """Windows for about `rows` rows a batch, more where few tokens are scored; at least 8, a multiple of 4."""
        window = self.ids[:1].repeat(1, self.subject.window_tokens)
        examples = [self.subject.example(window, entry.draw) for entry in self.bank.covering(1)]
        if self.group is not None:
            examples = [only_pass(e, self.group) for e in examples if self.group in {g.name for g in e.groups}]
        rows = max(example.inputs.shape[0] for example in examples)
        scored = max(1, max(int(scored_targets(example).sum()) for example in examples))
        count = max(self.settings.rows // rows, min(4 * self.settings.rows // rows, SCORED_TOKENS // scored))
        return max(8, count // 4 * 4)


def _times(keys: Tensor) -> Tensor:
    """How often each entry's key came before it: 0 for the first."""
    order = keys.argsort(stable=True)
    ordered = keys[order]
    index = torch.arange(len(keys))
    is_first = torch.cat([torch.ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])[: len(keys)]
    times = torch.empty_like(keys)
    times[order] = index - torch.where(is_first, index, 0).cummax(0).values
    return times
