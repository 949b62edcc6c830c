"""Passes that read in one direction: which they are, and the rows of one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from palinode.base.example import Example
from palinode.checks.bench import Bench
from palinode.checks.draws import Entry, contract, joined_draw
from palinode.checks.influence import only_pass, scored_targets
from palinode.checks.subject import Subject


@dataclass(frozen=True)
class OneWay:
    """A pass whose contract is exactly that of ltr or of rtl: `reads` says which. `entry` holds its decisions.

    Windows and known tokens are (rows, tokens) in window order; reading order is the reverse of it for rtl.
    """

    subject: Subject
    group: str
    reads: str
    entry: Entry

    def example(self, windows: Tensor) -> Example:
        """The rows of this pass alone."""
        return only_pass(self.subject.example(windows, joined_draw([self.entry] * len(windows))), self.group)

    def in_reading_order(self, by_token: Tensor) -> Tensor:
        """(B, tokens, ..) from window order to reading order, or back."""
        return by_token if self.reads == "ltr" else by_token.flip(1)

    def slots_in_reading_order(self, example: Example, by_slot: Tensor) -> Tensor:
        """(B, T, ..) from slot order to the order in which the model reads the slots."""
        return by_slot.flip(1) if example.groups[0].sees.reads_from_end else by_slot

    def target(self, position: int, total_tokens: int) -> int:
        """The window index of a position in reading order."""
        return position if self.reads == "ltr" else total_tokens - 1 - position

    def grown(self, known: Tensor, token: Tensor | None = None) -> Tensor:
        """The known tokens and the one read next (default: id 0, as long as it is unknown)."""
        token = torch.zeros(len(known), 1, dtype=torch.long) if token is None else token
        return torch.cat([known, token] if self.reads == "ltr" else [token, known], 1)

    def next_slot(self, example: Example, known_tokens: int) -> int | None:
        """The slot, in reading order, that predicts the token after the known ones; None if rows differ in it or have none."""
        target = known_tokens if self.reads == "ltr" else 0
        predicts = self.slots_in_reading_order(example, scored_targets(example) & (example.target_source == target))
        slots = set(predicts.nonzero()[:, 1].tolist())
        return slots.pop() if len(slots) == 1 and bool((predicts.sum(1) == 1).all()) else None


def one_way_passes(bench: Bench, window_tokens: int) -> Iterator[OneWay]:
    """Every pass of the objective that reads in one direction at this length."""
    bank = bench.bank_at(window_tokens)
    for group in bank.groups:
        entry = bank.with_pass(group)
        reads = None if entry.decides_tokens else direction_of(bench.subject, entry, group, window_tokens)
        if reads is not None:
            yield OneWay(bench.subject, group, reads, entry)


def direction_of(subject: Subject, entry: Entry, group: str, window_tokens: int) -> str | None:
    """`ltr` or `rtl` when the contract of this pass is exactly that, else None."""
    allowed = contract(subject.objective, entry, group, window_tokens)
    every_pair = torch.ones(window_tokens, window_tokens, dtype=torch.bool)
    if torch.equal(allowed, every_pair.triu(1)):
        return "ltr"
    return "rtl" if torch.equal(allowed, every_pair.tril(-1)) else None
