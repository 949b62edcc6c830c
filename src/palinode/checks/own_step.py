"""A model's own state: what it says slot by slot, from what it kept, against one pass over the same rows.

Known only from `palinode.models.stepping`: `begin` makes a state, `extend` reads the next slots. Legend: B windows, S slots, s new
slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from palinode.base.errors import BadInput
from palinode.base.example import Example
from palinode.base.finding import Finding
from palinode.checks.draws import Entry, joined_draw
from palinode.checks.influence import largest_change, only_pass, scored_targets, spread
from palinode.checks.subject import Subject, default_forward
from palinode.models.base import LanguageModel
from palinode.models.parts.state import ModelState
from palinode.models.stepping import begin, extend

LAW = "what a model says from its own state, whatever was read at once, is what it says in one pass"
TOLERANCE = 1e-10
WINDOWS = 4


@dataclass(frozen=True)
class Rows:
    """One causal pass of the objective over windows of one length, in the order in which it reads."""

    subject: Subject
    group: str
    reads: str
    entry: Entry

    def example(self, windows: Tensor) -> Example:
        """The rows of this pass alone."""
        return only_pass(self.subject.example(windows, joined_draw([self.entry] * len(windows))), self.group)

    def tokens(self, example: Example) -> Tensor:
        """(B, S) ids in reading order."""
        return self.turned(example, example.inputs).to(self.subject.device)

    def turned(self, example: Example, by_slot: Tensor) -> Tensor:
        """(B, S, ..) from slot order to reading order."""
        return by_slot.flip(1) if example.groups[0].sees.reads_from_end else by_slot

    def next_slot(self, example: Example, known: int) -> int | None:
        """The slot, in reading order, that predicts the token after `known` ones; None if that is not one in every row."""
        target = known if self.reads == "ltr" else 0
        predicts = self.turned(example, scored_targets(example) & (example.target_source == target))
        slots = set(predicts.nonzero()[:, 1].tolist())
        return slots.pop() if len(slots) == 1 and bool((predicts.sum(1) == 1).all()) else None


def rows_with_a_state(subject: Subject, group: str, reads: str, entry: Entry, total: int) -> Rows | None:
    """The pass as rows that can be read from a state; None where the model has none, or the pass is not one causal row a window."""
    module = subject.module
    if not isinstance(module, LanguageModel) or subject.forward is not default_forward(module) or not module.can_step():
        return None
    rows = Rows(subject, group, reads, entry)
    example = rows.example(torch.zeros(2, total, dtype=torch.long))
    if example.groups[0].sees.native != "causal" or example.window_row.tolist() != [0, 1]:
        return None
    return rows if all(_has_next_slot(rows, known) for known in range(1, total)) else None


def _has_next_slot(rows: Rows, known: int) -> bool:
    """Whether the next token is scored where so many are known: label masks and hidden prompts leave some out."""
    return rows.next_slot(rows.example(torch.zeros(2, known + 1, dtype=torch.long)), known) is not None


@dataclass
class OwnStep:
    """A `Step` (see `stepwise`) from the model's own state: each token is read once while calls go on from one another."""

    rows: Rows
    total: int
    module: nn.Module | None = None
    held: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    state: ModelState | None = None

    def __call__(self, module: nn.Module, known: Tensor, group: str) -> Tensor:
        """(B, V) logits of the token after (rtl: before) the known ones."""
        assert isinstance(module, LanguageModel)
        read = self._read_before_the_next(known)
        count = self.held.shape[1]
        goes_on = (
            len(read) == len(self.held) and count < read.shape[1] and torch.equal(read[:, :count].cpu(), self.held)
        )
        if self.state is None or module is not self.module or not goes_on:
            longest = self.rows.example(torch.zeros(1, self.total, dtype=torch.long)).inputs.shape[1]
            self.module, self.state, count = module, begin(module, len(read), longest), 0
        states, self.state = extend(module, read[:, count:], self.state)
        self.held = read.cpu()
        return module.logits(states[:, -1])

    def _read_before_the_next(self, known: Tensor) -> Tensor:
        """(B, n) ids of the slots up to the one that predicts the next token."""
        unknown = torch.zeros(len(known), 1, dtype=torch.long)
        both = [known.cpu(), unknown]
        example = self.rows.example(torch.cat(both if self.rows.reads == "ltr" else both[::-1], 1))
        slot = self.rows.next_slot(example, known.shape[1])
        assert slot is not None
        return self.rows.tokens(example)[:, : slot + 1]


def check_state(rows: Rows, module: nn.Module, total: int, rng: Generator) -> Finding:
    """C6.state: several windows at once, read in chunks of several sizes up to the last slot there is room for, and one beyond."""
    assert isinstance(module, LanguageModel)
    example = rows.example(torch.randint(rows.subject.content_tokens, (WINDOWS, total), generator=rng))
    whole = rows.turned(example, rows.subject.logits(module, example)).double()
    tokens = rows.tokens(example)
    worst, place, scale = 0.0, "", spread(whole)
    for what, said in _ways(module, tokens):
        change = largest_change(said.cpu().double(), whole[:, : said.shape[1]]) / scale
        if float(change.max()) > worst:
            worst, (row, slot) = float(change.max()), divmod(int(change.argmax()), change.shape[1])
            place = f"at slot {slot} of row {row}, {what}"
    failed = worst > TOLERANCE
    verdict = f"differ {place}" if failed else "agree"
    return Finding(
        check="C6.state",
        outcome="fail" if failed else "pass",
        law=LAW,
        message=f"{rows.group}: from its state and in one pass {verdict} ({worst:.1e}, allowed {TOLERANCE:.0e})",
        numbers={"largest_difference": min(worst, 1e9)},
        threshold=TOLERANCE,
        reproduce={"pass": rows.group, "seed": rows.subject.seed, "total_tokens": total},
    )


def _ways(module: LanguageModel, tokens: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(how it was read, (B, S, V) logits) of each way to read the rows; shorter where room was short and it was refused."""
    slots = tokens.shape[1]
    half = slots // 2
    growing = [size for size in range(1, slots) if size * (size + 1) // 2 <= slots]
    yield "read slot by slot", _read(module, tokens, [1] * slots, slots)
    yield "half of it read at once", _read(module, tokens, [half] + [1] * (slots - half), slots)
    yield "read in growing chunks", _read(module, tokens, [*growing, slots - sum(growing)], slots)
    yield "with room for half of it", _read(module, tokens, [1] * slots, slots - half)


def _read(module: LanguageModel, tokens: Tensor, chunks: Sequence[int], room: int) -> Tensor:
    """Logits of the slots that were read: all, or those before the first one that is refused for lack of room."""
    state, first, said = begin(module, len(tokens), room), 0, []
    for size in filter(None, chunks):
        try:
            states, state = extend(module, tokens[:, first : first + size], state)
        except (ValueError, BadInput, IndexError, RuntimeError):
            if first + size <= room:
                raise
            break
        said.append(module.logits(states))
        first += size
    return torch.cat(said, 1)
