"""C1, two forms that the perturbation batch is blind to: what the other rows of a batch do, and what the length does.

Replacing tokens in T + 1 nearly equal rows cannot show a model that reads statistics of the batch; so one window is read with
other companions and alone. And a pass that reads in one direction must say the same of a token whatever lies beyond it: logits
on a shorter window equal those on the longer one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palinode.base.example import Example
from palinode.base.finding import Finding
from palinode.base.seeds import generator
from palinode.checks.bench import Bench
from palinode.checks.copies import exact_arithmetic, seeded_passes
from palinode.checks.draws import Entry, contract, joined_draw
from palinode.checks.influence import largest_change, scored_targets, spread

BATCH = 8
PLACE = 4  # of the probe among its companions: there are rows before it and after it
PREFIX_TOKENS = (33, 65)
NEIGHBOUR_LAW = "the logits of a window do not depend on the other windows of its batch"
PREFIX_LAW = "the logits of a token do not depend on how much text lies beyond it"


@dataclass(frozen=True)
class Difference:
    """A difference in standard deviations of the logits, and where it was found."""

    value: float
    words: str


def check_neighbours(bench: Bench) -> Finding:
    """C1.neighbours: one window with 7 companions, with 7 others, and alone, in eval and in train mode."""
    found = list(_neighbour_differences(bench))
    return _finding(bench, "C1.neighbours", NEIGHBOUR_LAW, found, "a window reads its neighbours in the batch")


def check_prefix(bench: Bench) -> tuple[Finding, ...]:
    """C1.prefix: logits on the first (rtl: last) tokens of a window equal those on the whole; empty without one-way passes."""
    found = list(_prefix_differences(bench))
    return (_finding(bench, "C1.prefix", PREFIX_LAW, found, "what a pass says depends on the length"),) if found else ()


def _neighbour_differences(bench: Bench) -> Iterator[Difference]:
    subject = bench.subject
    length = bench.short_tokens
    rng = generator(subject.seed, "audit", "neighbours")
    module = bench.copy(1.0)
    for training in (False, True):
        module.train(training)
        mode = f"{'train' if training else 'eval'} mode, length {length}"
        for step in range(2):
            entries = bench.bank_at(length).batch(BATCH, step, rng)
            companions, others = (
                torch.stack([bench.window("random", length, rng) for _ in range(BATCH)]) for _ in range(2)
            )
            others[PLACE] = companions[PLACE]
            first = _read(bench, module, companions, entries, PLACE, 0)
            again = _read(bench, module, companions, entries, PLACE, 1)
            yield from _compared(
                first, _read(bench, module, others, entries, PLACE, 0), f"with other companions, {mode}"
            )
            if all(torch.equal(logits, again[group]) for group, logits in first.items()):
                alone = _read(bench, module, companions[PLACE : PLACE + 1], entries[PLACE : PLACE + 1], 0, 0)
                yield from _compared(first, alone, f"alone, {mode}")


def _prefix_differences(bench: Bench) -> Iterator[Difference]:
    subject = bench.subject
    used = (subject.window_tokens, subject.evaluation_tokens)
    lengths = sorted({length for length in (*PREFIX_TOKENS, *used) if length > 1 and bench.accepts(length)})
    rng = generator(subject.seed, "audit", "prefix")
    module = bench.copy(1.0).eval()
    for length in lengths:
        for entry in bench.bank_at(length).covering(1):
            if any(decision.dim() > 1 for decision in entry.draw.decisions.values()):
                continue  # decisions about single tokens do not carry over to another length
            window = bench.window("random", length, rng)
            whole = _read(bench, module, window[None], [entry], 0, 0)
            for group in whole:
                if (reads := _direction(bench, entry, group, length)) is not None:
                    yield from _shorter(bench, module, window, entry, group, reads, whole)


def _shorter(
    bench: Bench, module: nn.Module, window: Tensor, entry: Entry, group: str, reads: str, whole: dict[str, Tensor]
) -> Iterator[Difference]:
    """Compare the part of the window that is read first with the whole. Logits are rows by target."""
    length = len(window)
    for part in sorted({1, 2, length // 2, length - 1}):
        if not bench.accepts(part):
            continue
        start = 0 if reads == "ltr" else length - part
        logits = _read(bench, module, window[start : start + part][None], [entry], 0, 0).get(group)
        if logits is None or not len(logits):
            continue
        scored = whole[group][: len(logits)] if reads == "ltr" else whole[group][-len(logits) :]
        change = float(largest_change(logits, scored).max()) / spread(whole[group])
        yield Difference(change, f"{group}: {part} of {length} tokens")


def _direction(bench: Bench, entry: Entry, group: str, length: int) -> str | None:
    """`ltr` or `rtl` when the contract is exactly that, else None."""
    allowed = contract(bench.subject.objective, entry, group, length)
    everything = torch.ones(length, length, dtype=torch.bool)
    if torch.equal(allowed, everything.triu(1)):
        return "ltr"
    return "rtl" if torch.equal(allowed, everything.tril(-1)) else None


def _read(
    bench: Bench, module: nn.Module, windows: Tensor, entries: list[Entry], place: int, pass_seed: int
) -> dict[str, Tensor]:
    """Logits of one window of a batch by pass: (scored targets, V), in order of target where each is predicted once."""
    example = bench.subject.example(windows, joined_draw(entries))
    with torch.no_grad(), exact_arithmetic(), seeded_passes(bench.subject.seed, "invariance", pass_seed):
        logits = bench.subject.logits(module, example)
    return {group.name: _of_window(example, logits, rows, place) for group, rows in example.by_group()}


def _of_window(example: Example, logits: Tensor, rows: slice, place: int) -> Tensor:
    mine = example.window_row[rows] == place
    scored = scored_targets(example)[rows][mine]
    order = torch.argsort(example.target_source[rows][mine][scored], stable=True)
    return logits[rows][mine][scored][order]


def _compared(first: dict[str, Tensor], second: dict[str, Tensor], words: str) -> Iterator[Difference]:
    for group, logits in first.items():
        if group in second and logits.shape == second[group].shape and len(logits):
            change = float(largest_change(second[group], logits).max()) / spread(logits)
            yield Difference(change, f"{group}: {words}")


def _finding(bench: Bench, check: str, law: str, found: list[Difference], failure: str) -> Finding:
    worst = max(found, key=lambda difference: difference.value, default=Difference(0.0, "nothing was compared"))
    failed = worst.value > bench.tolerance
    unsure = bench.coarse or not found
    size = f"{worst.value:.1e}, allowed {bench.tolerance:.0e}"
    return Finding(
        check=check,
        outcome="fail" if failed else "could_not_tell" if unsure else "pass",
        law=law,
        message=f"{failure} ({worst.words}: {size})"
        if failed
        else f"{len(found)} comparisons, largest difference {size}",
        numbers={"largest_difference": min(worst.value, 1e9), "comparisons": len(found)},
        threshold=bench.tolerance,
        reproduce={"seed": bench.subject.seed, "where": worst.words},
    )
