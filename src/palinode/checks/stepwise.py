"""C6: what a model says while it generates, token by token, equals what it says of the finished text in one pass.

Four prompts of unequal lengths (one token among them) are continued, each alone; then one pass over all four. A model that
looks ahead, whose padding or positions depend on the length, or whose cache is wrong, gives two answers. rtl grows to the left.
Palinode's own models are continued from the state they keep, where they keep one, and that state is tried in chunks too (C6.state).
Legend: B windows, N tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from palinode.base.config import Config
from palinode.base.finding import Finding
from palinode.base.seeds import generator
from palinode.checks.bench import Bench
from palinode.checks.copies import exact_arithmetic, randomised_copy, seeded_passes
from palinode.checks.draws import Entry, contract, joined_draw
from palinode.checks.influence import largest_change, only_pass, scored_targets, spread
from palinode.checks.own_step import OwnStep, check_state, rows_with_a_state
from palinode.checks.subject import Subject

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
NATS_TOLERANCE = 1e-5  # mean nats per token of 8 windows by both routes, in float32
WINDOWS = 8
LAW = "logits while generating equal the logits of one pass over the result"
NATS_LAW = "logits and nats per token of fixed windows are the same step by step and in one pass"

Step = Callable[[nn.Module, Tensor, str], Tensor]
"""(module, (B, n) known tokens in window order, pass) -> (B, V) logits of the next token in reading order (rtl: the one before).

Called with one token more each time, so that an implementation with a cache can keep it between calls; a call with another or a
shorter prefix starts anew.
"""


class StepwiseSettings(Config):
    """Prompt lengths, and the length that every prompt is continued to."""

    prompt_tokens: tuple[int, ...] = (1, 2, 5, 9)
    total_tokens: int = Field(default=41, ge=2)


@dataclass(frozen=True)
class Route:
    """One pass of the objective, with the weights and the arithmetic it is tried in."""

    subject: Subject
    module: nn.Module
    group: str
    reads: str
    entry: Entry
    step: Step | None

    def one_pass(self, windows: Tensor) -> Tensor:
        """(B, N, V) logits by target; zero where a target is not scored."""
        subject = self.subject
        example = only_pass(subject.example(windows, joined_draw([self.entry] * len(windows))), self.group)
        logits = subject.logits(self.module, example)
        scored = scored_targets(example)
        row, slot = scored.nonzero(as_tuple=True)
        by_target = torch.zeros(*windows.shape, logits.shape[-1], dtype=logits.dtype)
        by_target[example.window_row[row], example.target_source[row, slot]] = logits[row, slot]
        return by_target

    def next_logits(self, known: Tensor) -> Tensor:
        """(B, V) logits of the token that follows (rtl: precedes) the known ones."""
        if self.step is not None:
            return self.step(self.module, known.to(self.subject.device), self.group).cpu()
        unknown = torch.zeros(len(known), 1, dtype=torch.long)
        if self.reads == "ltr":
            return self.one_pass(torch.cat([known, unknown], 1))[:, -1]
        return self.one_pass(torch.cat([unknown, known], 1))[:, 0]

    def in_reading_order(self, by_token: Tensor) -> Tensor:
        """(B, N, ...) from window order to the order in which this pass reads, or back."""
        return by_token if self.reads == "ltr" else by_token.flip(1)

    def target(self, position: int, total: int) -> int:
        """The window index of a place in reading order."""
        return position if self.reads == "ltr" else total - 1 - position

    def grown(self, known: Tensor, token: Tensor) -> Tensor:
        """The known tokens and one more, on the side that is read next."""
        return torch.cat([known, token] if self.reads == "ltr" else [token, known], 1)


def check_stepwise(
    subject: Subject, settings: StepwiseSettings | None = None, step: Step | None = None
) -> tuple[Finding, ...]:
    """For every pass that reads in one direction: C6.generation (opened weights, float64) and C6.nats (the weights as they are).

    Without a `step`, a model that keeps a state is continued from it, and C6.state is found too; any other is read anew.
    """
    settings = settings or StepwiseSettings()
    bench = Bench(subject)
    total = min(settings.total_tokens, subject.max_window_tokens)
    total = total if bench.accepts(total) else subject.window_tokens
    takes_any = step is not None or all(bench.accepts(length) for length in {2, total // 2, total - 1} if length > 1)
    findings: list[Finding] = []
    for group, reads, entry in _one_way_passes(bench, total):
        if not takes_any or total < 2:
            findings.append(_cannot_grow(subject, group))
            continue
        rng = generator(subject.seed, "audit", "stepwise", group)
        opened = randomised_copy(subject.module, 1.0, rng).eval()
        own = copy.deepcopy(subject.module).eval()
        rows = rows_with_a_state(subject, group, reads, entry, total) if step is None else None
        taken = step if rows is None else OwnStep(rows, total)
        with torch.no_grad(), seeded_passes(subject.seed, "stepwise"):
            with exact_arithmetic():
                findings.append(_generation(Route(subject, opened, group, reads, entry, taken), settings, total, rng))
                if rows is not None:
                    findings.append(check_state(rows, opened, total, rng))
            findings.append(_teacher_forced(Route(subject, own, group, reads, entry, taken), total, rng))
    return tuple(findings)


def _cannot_grow(subject: Subject, group: str) -> Finding:
    message = (
        f"{group}: the model does not take windows of any length, so it cannot be read step by step; hand in a `step`"
    )
    reproduce = {"pass": group, "seed": subject.seed}
    return Finding(check="C6.generation", outcome="could_not_tell", law=LAW, message=message, reproduce=reproduce)


def _one_way_passes(bench: Bench, total: int) -> Iterator[tuple[str, str, Entry]]:
    """(pass, direction, decisions) of every pass whose contract is exactly ltr or rtl."""
    bank, objective = bench.bank_at(total), bench.subject.objective
    everything = torch.ones(total, total, dtype=torch.bool)
    directions = {"ltr": everything.triu(1), "rtl": everything.tril(-1)}
    for group in bank.groups:
        entry = next(entry for entry in bank.entries if group in entry.groups)
        if any(decision.dim() > 1 for decision in entry.draw.decisions.values()):
            continue
        allowed = contract(objective, entry, group, total)
        for reads, triangle in directions.items():
            if torch.equal(allowed, triangle):
                yield group, reads, entry


def _generation(route: Route, settings: StepwiseSettings, total: int, rng: Generator) -> Finding:
    """Continue the prompts one by one, then read all of them at once."""
    prompts = sorted({min(prompt, total - 1) for prompt in settings.prompt_tokens})
    texts, answers = zip(*(_continued(route, prompt, total, rng) for prompt in prompts), strict=True)
    whole = route.in_reading_order(route.one_pass(torch.cat(texts)))
    tolerance = TOLERANCES.get(whole.dtype, TOLERANCES[torch.float16])
    worst, place, steps, disagreements = 0.0, "", 0, 0
    for row, (prompt, said) in enumerate(zip(prompts, answers, strict=True)):
        change, other_choices = _difference(said, whole[row, prompt:], tolerance)
        disagreements += other_choices
        steps += len(change)
        if float(change.max()) > worst:
            worst, place = (
                float(change.max()),
                f"at target {route.target(prompt + int(change.argmax()), total)}, prompt of {prompt}",
            )
    failed = worst > tolerance or disagreements > 0
    verdict = f"differ {place}" if failed else "agree"
    return Finding(
        check="C6.generation",
        outcome="fail" if failed else "pass",
        law=LAW,
        message=f"{route.group}: step by step and in one pass {verdict} ({worst:.1e}, allowed {tolerance:.0e}, {steps} steps)",
        numbers={"largest_difference": min(worst, 1e9), "steps": steps, "argmax_disagreements": disagreements},
        threshold=tolerance,
        reproduce={"pass": route.group, "seed": route.subject.seed, "total_tokens": total},
    )


def _difference(said: Tensor, again: Tensor, tolerance: float) -> tuple[Tensor, int]:
    """(steps,) largest change in standard deviations of the logits, and how often a clear first choice differs."""
    said, again = said.double(), again.double()
    best = again.topk(2, -1).values
    clear = (best[..., 0] - best[..., 1]) / spread(again) > 2 * tolerance
    return largest_change(said, again) / spread(again), int((clear & (said.argmax(-1) != again.argmax(-1))).sum())


def _continued(route: Route, prompt: int, total: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """One prompt, sampled on to `total` tokens: the (1, N) text, and the (steps, V) logits in reading order."""
    known = torch.randint(route.subject.content_tokens, (1, prompt), generator=rng)
    said = []
    while known.shape[1] < total:
        logits = route.next_logits(known)
        said.append(logits)
        chances = torch.nan_to_num(logits[:, : route.subject.content_tokens].double()).softmax(-1)
        known = route.grown(known, torch.multinomial(chances, 1, generator=rng))
    return known, torch.cat(said)


def _teacher_forced(route: Route, total: int, rng: Generator) -> Finding:
    """Fixed windows with the weights as they are: known tokens fed one by one, and in one pass; logits and mean nats."""
    windows = torch.randint(route.subject.content_tokens, (WINDOWS, total), generator=rng)
    reading = route.in_reading_order(windows)
    whole = route.in_reading_order(route.one_pass(windows))[:, 1:]
    fed = torch.stack([route.next_logits(route.in_reading_order(reading[:, :known])) for known in range(1, total)], 1)
    tolerance = TOLERANCES.get(whole.dtype, TOLERANCES[torch.float16])
    change, disagreements = _difference(fed, whole, tolerance)
    stepped, passed = _mean_nats(fed, reading[:, 1:]), _mean_nats(whole, reading[:, 1:])
    nats_tolerance = NATS_TOLERANCE * max(1.0, tolerance / TOLERANCES[torch.float32])
    failed = float(change.max()) > tolerance or abs(stepped - passed) > nats_tolerance or disagreements > 0
    return Finding(
        check="C6.nats",
        outcome="fail" if failed else "pass",
        law=NATS_LAW,
        message=f"{route.group}: {stepped:.6f} nats per token step by step, {passed:.6f} in one pass; logits differ by "
        f"{float(change.max()):.1e} (allowed {tolerance:.0e}, {WINDOWS} windows, {str(whole.dtype).removeprefix('torch.')})",
        numbers={"difference_nats": abs(stepped - passed), "largest_difference": min(float(change.max()), 1e9)},
        threshold=nats_tolerance,
        reproduce={"pass": route.group, "seed": route.subject.seed, "total_tokens": total},
    )


def _mean_nats(logits: Tensor, targets: Tensor) -> float:
    return float(-logits.double().log_softmax(-1).gather(-1, targets[..., None]).mean())
