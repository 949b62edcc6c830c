"""The random decisions of an objective. A bank holds distinct Draws that cover every pass of the objective, even a rare pass.

For example, an objective may make an rtl pass in only one batch of twenty, so a single Draw usually gives only the ltr pass. The
bank makes Draws for steps of the whole training schedule until every pass has occurred, and names the passes that never occurred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from palinode.base.contract import allowed_pairs
from palinode.base.example import Draw
from palinode.base.objective import Objective, Progress
from palinode.base.seeds import generator
from palinode.checks.subject import Subject

CALL_WINDOWS = 8
FEWEST_CALLS = 64
MOST_CALLS = 8192  # a pass that is drawn once in a thousand batches is missed with probability 3e-4
SCHEDULE_STEPS = 1_000_000

Key = tuple[tuple[str, tuple[int, ...], bytes], ...]


@dataclass(frozen=True, eq=False)
class Entry:
    """The decisions for one window (tensors keep a leading dimension of 1), and the passes that follow from these decisions."""

    draw: Draw
    groups: tuple[str, ...]

    @property
    def shapes(self) -> tuple[tuple[str, torch.Size], ...]:
        """The names and shapes of the decisions. Only entries with equal shapes fit in one batch."""
        return tuple((name, decision.shape) for name, decision in sorted(self.draw.decisions.items()))

    @property
    def decides_tokens(self) -> bool:
        """Whether some decision has one value per token. The decisions then fit only windows of the same length."""
        return any(decision.dim() > 1 for decision in self.draw.decisions.values())


@dataclass(frozen=True)
class DrawBank:
    """Distinct entries for windows of one length.

    Attributes:
        by_row: whether each window of a batch gets its own decisions; if False, one decision holds for the whole batch.
        never_drawn: the passes that the objective names but did not make in `calls` batches.
    """

    entries: tuple[Entry, ...]
    by_row: bool
    never_drawn: tuple[str, ...]
    calls: int

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of all passes that occur in the entries."""
        return tuple(dict.fromkeys(group for entry in self.entries for group in entry.groups))

    def with_pass(self, group: str) -> Entry:
        """The first entry whose decisions lead to the pass `group`."""
        return next(entry for entry in self.entries if group in entry.groups)

    def covering(self, most: int) -> list[Entry]:
        """A few entries that together make every pass, and then further entries, up to `most` entries in all."""
        chosen: list[Entry] = []
        missing = set(self.groups)
        while missing:
            best = max(self.entries, key=lambda entry: len(missing & set(entry.groups)))
            chosen.append(best)
            missing -= set(best.groups)
        others = [entry for entry in self.entries if entry not in chosen]
        return chosen + others[: max(0, most - len(chosen))]

    def batch(self, windows: int, step: int, rng: Generator, group: str | None = None) -> list[Entry]:
        """One entry for each window of a batch, all with the pass `group`. Without `group` every pass gets an equal share."""
        entries = [entry for entry in self.entries if group is None or group in entry.groups]
        shapes = list(dict.fromkeys(entry.shapes for entry in entries))
        family = [entry for entry in entries if entry.shapes == shapes[step % len(shapes)]]
        groups = [group] if group else list(dict.fromkeys(name for entry in family for name in entry.groups))
        if not self.by_row:
            return [_choose(family, groups[step % len(groups)], rng)] * windows
        return [_choose(family, groups[window % len(groups)], rng) for window in range(windows)]


def draw_bank(
    subject: Subject, window_tokens: int, *, most_entries: int = 256, passes: Sequence[str] | None = None
) -> DrawBank:
    """Let the objective make random decisions until each pass in `passes` was chosen once (default: every pass it names).

    Raises:
        ValueError, IndexError, RuntimeError: the error that the objective raises for windows of this length.
    """
    objective = subject.objective
    missing = set(objective.groups() if passes is None else passes)
    entries: dict[Key, Entry] = {}
    by_row, calls = False, 0
    for calls, draw in enumerate(_draws(objective, window_tokens, subject.seed), 1):
        keys = _keys(draw)
        by_row = by_row or len(set(keys)) > 1
        if any(key not in entries for key in keys):
            for key, entry in zip(keys, _entries(subject, draw, window_tokens), strict=True):
                if len(entries) < most_entries or missing & set(entry.groups):
                    entries.setdefault(key, entry)
                    missing -= set(entry.groups)
        if not missing and (calls >= FEWEST_CALLS or len(entries) >= most_entries or not draw.decisions):
            break
    return DrawBank(tuple(entries.values()), by_row, tuple(sorted(missing)), calls)


def joined_draw(entries: Sequence[Entry]) -> Draw:
    """Join the decisions of the entries, in order, into the decisions of one batch."""
    names = entries[0].draw.decisions
    return Draw({name: torch.cat([entry.draw[name] for entry in entries]) for name in names})


def contract(objective: Objective, entry: Entry, group: str, window_tokens: int) -> Tensor:
    """The pairs that the objective's definition allows: boolean (window_tokens, window_tokens), by source and target."""
    return allowed_pairs(objective, group, entry.draw.of_row(0), window_tokens)


def forbidden_pairs(allowed: Tensor, scores_itself: bool) -> Tensor:
    """The pairs that are forbidden, by source and target: all pairs that are not allowed, and each token with itself unless
    `scores_itself`.
    """
    return ~allowed if scores_itself else ~allowed | itself(len(allowed))


def direction_of(objective: Objective, entry: Entry, group: str, window_tokens: int) -> str | None:
    """`ltr` or `rtl` when the contract of this pass is exactly that of ltr or of rtl, else None."""
    allowed = contract(objective, entry, group, window_tokens)
    every_pair = torch.ones(window_tokens, window_tokens, dtype=torch.bool)
    directions = {"ltr": every_pair.triu(1), "rtl": every_pair.tril(-1)}
    return next((name for name, triangle in directions.items() if torch.equal(allowed, triangle)), None)


def itself(window_tokens: int) -> Tensor:
    """The pairs of a token with itself, as a boolean (window_tokens, window_tokens) matrix."""
    return torch.eye(window_tokens, dtype=torch.bool)


def _draws(objective: Objective, window_tokens: int, seed: int) -> Iterator[Draw]:
    """Draws at steps that are spread over a long schedule, evenly and by powers of ten, because a pass may begin late."""
    for call in range(MOST_CALLS):
        step = 10 ** (call // 2 % 6) - 1 if call % 2 else (call // 2 * 104_729) % SCHEDULE_STEPS
        progress = Progress(step, SCHEDULE_STEPS, objective.state())
        yield objective.draw(
            CALL_WINDOWS, window_tokens, generator(seed, "audit", "draws", window_tokens, call), progress
        )


def _keys(draw: Draw) -> list[Key]:
    """One key per window: windows with equal keys have equal decisions."""
    by_name = [(name, tuple(d.shape), d.numpy()) for name, d in sorted(draw.decisions.items())]
    return [
        tuple((name, shape, decisions[row].tobytes()) for name, shape, decisions in by_name)
        for row in range(CALL_WINDOWS)
    ]


def _entries(subject: Subject, draw: Draw, window_tokens: int) -> list[Entry]:
    """One entry for each window, with the passes of the Example that the objective makes from these windows."""
    example = subject.example(torch.zeros(CALL_WINDOWS, window_tokens, dtype=torch.long), draw)
    groups: list[list[str]] = [[] for _ in range(CALL_WINDOWS)]
    for group, rows in example.by_group():
        for window in set(example.window_row[rows].tolist()):
            groups[window].append(group.name)
    return [
        Entry(Draw({name: d[row : row + 1] for name, d in draw.decisions.items()}), tuple(groups[row]))
        for row in range(CALL_WINDOWS)
    ]


def _choose(entries: Sequence[Entry], group: str, rng: Generator) -> Entry:
    fitting = [entry for entry in entries if group in entry.groups]
    return fitting[int(torch.randint(len(fitting), (), generator=rng))]
