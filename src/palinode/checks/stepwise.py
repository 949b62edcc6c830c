"""C6: the logits of a model that generates token by token equal those of one pass over the finished text.

Four prompts of unequal lengths (one of a single token) are continued, each alone; then one pass reads all four. A model that looks
ahead, whose padding or positions depend on the length, or whose cache is wrong, gives two answers. rtl grows to the left.
A model that keeps a state is continued from it, and the state is also read in chunks (C6.state).
Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from palinode.base.config import Config
from palinode.base.finding import Finding
from palinode.base.seeds import generator
from palinode.checks.bench import Bench
from palinode.checks.copies import exact_arithmetic, randomised_copy, seeded_passes
from palinode.checks.influence import largest_change, scored_targets, spread
from palinode.checks.laws import LARGEST, finding, outcome_of
from palinode.checks.one_way import OneWay, one_way_passes
from palinode.checks.own_step import OwnStep, check_state, state_reader
from palinode.checks.subject import Subject

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
NATS_TOLERANCE = 1e-5  # mean nats per token of 8 windows, both ways, in float32
WINDOWS = 8

Step = Callable[[nn.Module, Tensor, str], Tensor]
"""(module, (B, n) known tokens in window order, pass) -> (B, V) logits of the next token in reading order (rtl: the one before).

Each call has one token more than the last, so that an implementation with a cache can keep it between calls. A call with another or
a shorter prefix starts anew.
"""


class StepwiseSettings(Config):
    """Prompt lengths, and the length that every prompt is continued to."""

    prompt_tokens: tuple[int, ...] = (1, 2, 5, 9)
    total_tokens: int = Field(default=41, ge=2)


@dataclass(frozen=True)
class Route:
    """A one-way pass read by one module, in one pass or step by step. Without a `step` each token reads all before it again."""

    one_way: OneWay
    module: nn.Module
    step: Step | None

    def one_pass(self, windows: Tensor) -> Tensor:
        """(rows, tokens, V) logits by target in reading order; zero where a target is not scored."""
        example = self.one_way.example(windows)
        logits = self.one_way.subject.logits(self.module, example)
        row, slot = scored_targets(example).nonzero(as_tuple=True)
        by_target = torch.zeros(*windows.shape, logits.shape[-1], dtype=logits.dtype)
        by_target[example.window_row[row], example.target_source[row, slot]] = logits[row, slot]
        return self.one_way.in_reading_order(by_target)

    def next_logits(self, known: Tensor) -> Tensor:
        """(B, V) logits of the token that follows (rtl: precedes) the known ones."""
        if self.step is not None:
            return self.step(self.module, known.to(self.one_way.subject.device), self.one_way.group).cpu()
        return self.one_pass(self.one_way.grown(known))[:, -1]


def check_stepwise(
    subject: Subject, settings: StepwiseSettings | None = None, step: Step | None = None
) -> tuple[Finding, ...]:
    """For every one-way pass: C6.generation (opened weights, float64) and C6.nats (the weights as they are).

    Without a `step`, a model that keeps a state is continued from it and gets C6.state too; any other reads everything again.
    """
    settings = settings or StepwiseSettings()
    bench = Bench(subject)
    total = min(settings.total_tokens, subject.max_window_tokens)
    total = total if bench.accepts(total) else subject.window_tokens
    takes_any = step is not None or all(bench.accepts(length) for length in {2, total // 2, total - 1} if length > 1)
    findings: list[Finding] = []
    for one_way in one_way_passes(bench, total):
        if not takes_any or total < 2:
            findings.append(_cannot_grow(one_way))
            continue
        rng = generator(subject.seed, "audit", "stepwise", one_way.group)
        opened = randomised_copy(subject.module, 1.0, rng).eval()
        own = copy.deepcopy(subject.module).eval()
        reader = state_reader(one_way, total) if step is None else None
        taken = step if reader is None else OwnStep(one_way, reader, total)
        with torch.no_grad(), seeded_passes(subject.seed, "stepwise"):
            with exact_arithmetic():
                findings.append(_generation(Route(one_way, opened, taken), settings, total, rng))
                if reader is not None:
                    findings.append(check_state(one_way, reader, opened, total, rng))
            findings.append(_teacher_forced(Route(one_way, own, taken), total, rng))
    return tuple(findings)


def _cannot_grow(one_way: OneWay) -> Finding:
    message = f"{one_way.group}: the model does not take windows of any length, so it cannot be read step by step; hand in a `step`"
    reproduce = {"pass": one_way.group, "seed": one_way.subject.seed}
    return finding("C6.generation", "could_not_tell", message, {}, reproduce=reproduce)


def _generation(route: Route, settings: StepwiseSettings, total: int, rng: Generator) -> Finding:
    """Continue the prompts one by one, then read all of them at once."""
    one_way = route.one_way
    prompts = sorted({min(prompt, total - 1) for prompt in settings.prompt_tokens})
    texts, stepped = zip(*(_continued(route, prompt, total, rng) for prompt in prompts), strict=True)
    whole = route.one_pass(torch.cat(texts))
    tolerance = TOLERANCES.get(whole.dtype, TOLERANCES[torch.float16])
    worst, place, steps, disagreements = 0.0, "", 0, 0
    for row, (prompt, logits) in enumerate(zip(prompts, stepped, strict=True)):
        change, other_choices = _difference(logits, whole[row, prompt:], tolerance)
        disagreements += other_choices
        steps += len(change)
        if float(change.max()) > worst:
            worst = float(change.max())
            place = f"at target {one_way.target(prompt + int(change.argmax()), total)}, prompt of {prompt}"
    failed = worst > tolerance or disagreements > 0
    verdict = f"differ {place}" if failed else "agree"
    return finding(
        "C6.generation",
        outcome_of(wrong=failed, can_tell=True),
        f"{one_way.group}: step by step and in one pass {verdict} ({worst:.1e}, allowed {tolerance:.0e}, {steps} steps)",
        {"largest_difference": min(worst, LARGEST), "steps": steps, "argmax_disagreements": disagreements},
        tolerance,
        reproduce={"pass": one_way.group, "seed": one_way.subject.seed, "total_tokens": total},
    )


def _difference(stepped: Tensor, whole: Tensor, tolerance: float) -> tuple[Tensor, int]:
    """(steps,) largest change in standard deviations of the logits, and how often a clear first choice differs."""
    stepped, whole = stepped.double(), whole.double()
    best = whole.topk(2, -1).values
    clear = (best[..., 0] - best[..., 1]) / spread(whole) > 2 * tolerance
    disagreements = int((clear & (stepped.argmax(-1) != whole.argmax(-1))).sum())
    return largest_change(stepped, whole) / spread(whole), disagreements


def _continued(route: Route, prompt: int, total: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """One prompt, sampled on to `total` tokens: the (1, total) text, and the (steps, V) logits in reading order."""
    content = route.one_way.subject.content_tokens
    known = torch.randint(content, (1, prompt), generator=rng)
    steps = []
    while known.shape[1] < total:
        steps.append(logits := route.next_logits(known))
        chances = torch.nan_to_num(logits[:, :content].double()).softmax(-1)
        known = route.one_way.grown(known, torch.multinomial(chances, 1, generator=rng))
    return known, torch.cat(steps)


def _teacher_forced(route: Route, total: int, rng: Generator) -> Finding:
    """Fixed windows with the weights as they are: known tokens fed one by one, and in one pass; logits and mean nats."""
    one_way = route.one_way
    windows = torch.randint(one_way.subject.content_tokens, (WINDOWS, total), generator=rng)
    reading = one_way.in_reading_order(windows)
    whole = route.one_pass(windows)[:, 1:]
    fed = torch.stack([route.next_logits(one_way.in_reading_order(reading[:, :known])) for known in range(1, total)], 1)
    tolerance = TOLERANCES.get(whole.dtype, TOLERANCES[torch.float16])
    change, disagreements = _difference(fed, whole, tolerance)
    worst = float(change.max())
    stepped_nats, whole_nats = _mean_nats(fed, reading[:, 1:]), _mean_nats(whole, reading[:, 1:])
    nats_tolerance = NATS_TOLERANCE * max(1.0, tolerance / TOLERANCES[torch.float32])
    failed = worst > tolerance or abs(stepped_nats - whole_nats) > nats_tolerance or disagreements > 0
    return finding(
        "C6.nats",
        outcome_of(wrong=failed, can_tell=True),
        f"{one_way.group}: {stepped_nats:.6f} nats per token step by step, {whole_nats:.6f} in one pass; logits differ by "
        f"{worst:.1e} (allowed {tolerance:.0e}, {WINDOWS} windows, {str(whole.dtype).removeprefix('torch.')})",
        {"difference_nats": abs(stepped_nats - whole_nats), "largest_difference": min(worst, LARGEST)},
        nats_tolerance,
        reproduce={"pass": one_way.group, "seed": one_way.subject.seed, "total_tokens": total},
    )


def _mean_nats(logits: Tensor, targets: Tensor) -> float:
    return float(-logits.double().log_softmax(-1).gather(-1, targets[..., None]).mean())
