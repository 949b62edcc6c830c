"""A model read from the state it keeps: its logits, slot by slot or in chunks, against one pass over the same rows.

Legend: B rows, T slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from palinode.base.finding import Finding
from palinode.checks.bench import REFUSALS
from palinode.checks.influence import largest_change, spread
from palinode.checks.laws import LARGEST, finding, outcome_of
from palinode.checks.one_way import OneWay
from palinode.checks.subject import StateReader

TOLERANCE = 1e-10
WINDOWS = 4


def state_reader(one_way: OneWay, total_tokens: int) -> StateReader | None:
    """How this pass is read in pieces. None where the model keeps no state, or the pass is not one causal row per window."""
    subject = one_way.subject
    if subject.state is None or not subject.state.keeps_state(subject.module):
        return None
    example = one_way.example(torch.zeros(2, total_tokens, dtype=torch.long))
    if example.groups[0].sees.native != "causal" or example.window_row.tolist() != [0, 1]:
        return None
    return subject.state if all(_scores_next(one_way, known) for known in range(1, total_tokens)) else None


def _scores_next(one_way: OneWay, known_tokens: int) -> bool:
    """Whether the token after so many is scored: label masks and hidden prompts leave some out."""
    windows = torch.zeros(2, known_tokens + 1, dtype=torch.long)
    return one_way.next_slot(one_way.example(windows), known_tokens) is not None


@dataclass
class OwnStep:
    """A `Step` (see `stepwise`) from the model's own state. A call whose tokens continue those of the last reads new ones only."""

    one_way: OneWay
    reader: StateReader
    total_tokens: int
    module: nn.Module | None = None
    held: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    state: Any = None

    def __call__(self, module: nn.Module, known: Tensor, group: str) -> Tensor:
        """(B, V) logits of the token after (rtl: before) the known ones."""
        tokens = self._tokens_before_the_next(known)
        count = self.held.shape[1]
        continues = (
            len(tokens) == len(self.held)
            and count < tokens.shape[1]
            and torch.equal(tokens[:, :count].cpu(), self.held)
        )
        if self.state is None or module is not self.module or not continues:
            longest = self.one_way.example(torch.zeros(1, self.total_tokens, dtype=torch.long)).inputs.shape[1]
            self.module, self.state, count = module, self.reader.begin(module, len(tokens), longest), 0
        hidden, self.state = self.reader.extend(module, tokens[:, count:], self.state)
        self.held = tokens.cpu()
        return self.reader.logits(module, hidden[:, -1])

    def _tokens_before_the_next(self, known: Tensor) -> Tensor:
        """(B, slots) ids up to the slot that predicts the next token, in the order in which slots are read."""
        example = self.one_way.example(self.one_way.grown(known.cpu()))
        slot = self.one_way.next_slot(example, known.shape[1])
        assert slot is not None
        tokens = self.one_way.slots_in_reading_order(example, example.inputs)
        return tokens.to(self.one_way.subject.device)[:, : slot + 1]


def check_state(one_way: OneWay, reader: StateReader, module: nn.Module, total_tokens: int, rng: Generator) -> Finding:
    """C6.state: four windows at once, read in chunks of several sizes, up to the last slot there is room for and one beyond."""
    subject = one_way.subject
    example = one_way.example(torch.randint(subject.content_tokens, (WINDOWS, total_tokens), generator=rng))
    whole = one_way.slots_in_reading_order(example, subject.logits(module, example)).double()
    tokens = one_way.slots_in_reading_order(example, example.inputs).to(subject.device)
    worst, place, scale = 0.0, "", spread(whole)
    for way, logits in _ways(reader, module, tokens):
        change = largest_change(logits.cpu().double(), whole[:, : logits.shape[1]]) / scale
        if float(change.max()) > worst:
            worst, (row, slot) = float(change.max()), divmod(int(change.argmax()), change.shape[1])
            place = f"at slot {slot} of row {row}, {way}"
    failed = worst > TOLERANCE
    verdict = f"differ {place}" if failed else "agree"
    return finding(
        "C6.state",
        outcome_of(wrong=failed, can_tell=True),
        f"{one_way.group}: logits from its state and in one pass {verdict} ({worst:.1e}, allowed {TOLERANCE:.0e})",
        {"largest_difference": min(worst, LARGEST)},
        TOLERANCE,
        reproduce={"pass": one_way.group, "seed": subject.seed, "total_tokens": total_tokens},
    )


def _ways(reader: StateReader, module: nn.Module, tokens: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each way to read the rows, and its (B, T, V) logits; fewer slots where room was short and the model refused them."""
    slots = tokens.shape[1]
    half = slots // 2
    growing = [size for size in range(1, slots) if size * (size + 1) // 2 <= slots]
    for way, chunks, room in (
        ("read slot by slot", [1] * slots, slots),
        ("with half of it read at once", [half] + [1] * (slots - half), slots),
        ("read in growing chunks", [*growing, slots - sum(growing)], slots),
        ("with room for half of it", [1] * slots, slots - half),
    ):
        yield way, _read(reader, module, tokens, chunks, room)


def _read(reader: StateReader, module: nn.Module, tokens: Tensor, chunks: Sequence[int], room: int) -> Tensor:
    """Logits of the slots that were read: all, or those before the first one that is refused for lack of room."""
    state, first, logits = reader.begin(module, len(tokens), room), 0, []
    for size in filter(None, chunks):
        try:
            hidden, state = reader.extend(module, tokens[:, first : first + size], state)
        except REFUSALS:
            if first + size <= room:
                raise
            break
        logits.append(reader.logits(module, hidden))
        first += size
    return torch.cat(logits, 1)
