"""The checks of C9 that need no model: targets that equal the input at their own slot, and streams of random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Generator

from palinode.base.example import NO_SOURCE, Example, SpecialTokens
from palinode.base.finding import Finding
from palinode.base.objective import Objective, Progress
from palinode.base.seeds import generator
from palinode.checks.influence import scored_targets
from palinode.checks.laws import finding, outcome_of

WINDOWS = 8
FEWEST_BATCHES, MOST_BATCHES = 16, 2048  # a pass that occurs once in a hundred batches is missed with probability 1e-9
DEVIATIONS_ALLOWED = 6.0
SCHEDULE_STEPS = 1000
COMPARED_NUMBERS = 16


def check_copies(objective: Objective, specials: SpecialTokens, window_tokens: int, seed: int = 0) -> Finding:
    """C9.copies: a scored target equals the input id of its own slot only by chance.

    The share of these equal targets is 1 / V on random ids, and 0 on windows in which no id occurs twice. Positive control: the
    same examples, with every target copied to its own slot's input, must fail.
    """
    counts = {"random ids": _Copies(), "no repeats": _Copies()}
    control_copies, missing = _Copies(), set(objective.groups())
    for kind, example in _examples(objective, specials, window_tokens, seed, missing):
        chance = 0.0 if kind == "no repeats" else 1 / specials.first_id
        counts[kind].add(example, chance)
        control_copies.add(replace(example, inputs=example.targets, input_source=example.target_source), chance)
    scores_itself = objective.scores_itself
    problems = [f"{kind}: {problem}" for kind, one in counts.items() if (problem := one.problem(scores_itself))]
    control = control_copies.problem(scores_itself) is not None or scores_itself
    random, distinct = counts["random ids"], counts["no repeats"]
    message = "; ".join(problems) or random.text
    if missing:
        message += f"; never drawn: {', '.join(sorted(missing))}"
    return finding(
        "C9.copies",
        outcome_of(wrong=problems, can_tell=control and not missing),
        message,
        {
            "share": random.share,
            "expected_share": random.expected_share,
            "scored_targets": random.scored,
            "share_without_repeats": distinct.share if distinct.scored else None,
            "planted_copies_seen": int(control),
        },
        random.expected_share + random.allowed,
        reproduce={"seed": seed, "window_tokens": window_tokens},
    )


def check_streams(streams: Mapping[str, Generator]) -> Finding:
    """C9.streams: the generators (data, objective, evaluation and others) differ, and none is torch's global generator.

    Args:
        streams: newly made generators by name, all at the same position of a run. The check does not draw from them.
    """
    starts = {name: _first_numbers(stream) for name, stream in streams.items()}
    shared = [f"{a} and {b}" for i, a in enumerate(starts) for b in list(starts)[i + 1 :] if starts[a] == starts[b]]
    shared += [
        f"{name} and torch's global stream" for name, stream in streams.items() if stream is torch.default_generator
    ]
    twin = next(iter(streams.values()), None)
    control = twin is not None and _first_numbers(twin) == _first_numbers(twin)
    return finding(
        "C9.streams",
        outcome_of(wrong=shared, can_tell=control and len(starts) > 1),
        f"the same numbers come from {', '.join(shared)}" if shared else f"{len(starts)} different streams",
        {"shared_streams": len(shared), "streams": len(starts), "equal_streams_seen": int(control)},
        0.0,
    )


@dataclass
class _Copies:
    """Counts of scored targets: how many equal the input of their slot, and how many are expected to, given the sources."""

    scored: int = 0
    equal: int = 0
    expected: float = 0.0
    variance: float = 0.0
    own: int = 0  # the number of targets whose source is their own slot's input

    def add(self, example: Example, chance: float) -> None:
        """Count an example. `chance` is the probability that two different tokens of a window are the same id."""
        scored = scored_targets(example)
        own = scored & (example.input_source == example.target_source)
        other = int((scored & ~own & (example.input_source != NO_SOURCE)).sum())
        self.scored += int(scored.sum())
        self.equal += int((scored & (example.inputs == example.targets)).sum())
        self.own += int(own.sum())
        self.expected += int(own.sum()) + other * chance
        self.variance += other * chance * (1 - chance)

    @property
    def share(self) -> float:
        return self.equal / max(1, self.scored)

    @property
    def expected_share(self) -> float:
        return self.expected / max(1, self.scored)

    @property
    def allowed(self) -> float:
        """How far the share may be from the expected share: six standard deviations and one target, because counts are whole."""
        slack = 1.0 if self.variance else 0.0
        return (DEVIATIONS_ALLOWED * math.sqrt(self.variance) + slack) / max(1, self.scored)

    @property
    def text(self) -> str:
        return f"{self.share:.4%} of {self.scored} scored targets equal their slot's input, expected {self.expected_share:.4%}"

    def problem(self, scores_itself: bool) -> str | None:
        """The sentence that says what is wrong; None when nothing is wrong."""
        if self.own and not scores_itself:
            return f"{self.own} of {self.scored} scored targets are their own slot's input"
        if abs(self.share - self.expected_share) > self.allowed + 1e-12:
            return self.text
        return None


def _examples(
    objective: Objective, specials: SpecialTokens, window_tokens: int, seed: int, missing: set[str]
) -> Iterator[tuple[str, Example]]:
    """Examples of random windows, and of windows without repeats where the vocabulary allows, until every pass was made.

    The steps are spread over a schedule, because a pass may begin late. Each pass that was made is removed from `missing`.
    """
    rng = generator(seed, "audit", "copies")
    vocab_size = specials.first_id
    for step in range(MOST_BATCHES):
        if step >= FEWEST_BATCHES and not missing:
            return
        progress = Progress(step * 619 % SCHEDULE_STEPS, SCHEDULE_STEPS, objective.state())
        draw = objective.draw(WINDOWS, window_tokens, rng, progress)
        windows = torch.randint(vocab_size, (WINDOWS, window_tokens), generator=rng)
        example = objective.example(windows, draw, specials)
        groups = {group.name for group, _ in example.by_group()}
        if step >= FEWEST_BATCHES and not groups & missing:
            continue
        missing -= groups
        yield "random ids", example
        if window_tokens <= vocab_size:
            different = torch.rand(WINDOWS, vocab_size, generator=rng).argsort(dim=1)[:, :window_tokens]
            yield "no repeats", objective.example(different, draw, specials)


def _first_numbers(stream: Generator) -> tuple[int, ...]:
    """The next numbers of a generator. They come from a copy of its state, so the generator itself does not advance."""
    copy = torch.Generator(stream.device)
    copy.set_state(stream.get_state())
    return tuple(torch.randint(2**62, (COMPARED_NUMBERS,), generator=copy, device=stream.device).tolist())
