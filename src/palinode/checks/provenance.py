"""C1.provenance and C1.identity, two checks that need no model: an Example names the true source of every id.

The method rebuilds 8 windows with the same Draw after it replaced token s in each. Only the inputs and targets whose source is s
may change; all other values of the Example must stay. Every id that has a source equals the id at its source in the window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palinode.base.example import NO_SOURCE, Example
from palinode.base.finding import Finding
from palinode.base.seeds import generator
from palinode.checks.bench import Bench
from palinode.checks.draws import joined_draw
from palinode.checks.influence import replaced_ids, sampled_sources
from palinode.checks.laws import finding, outcome_of

WINDOWS = 8
BATCHES = 4
MOST_SOURCES = 129


def check_provenance(bench: Bench) -> tuple[Finding, Finding]:
    """Run the two checks C1.provenance and C1.identity; one finding each."""
    subject, bank = bench.subject, bench.bank
    length = subject.window_tokens
    rng = generator(subject.seed, "audit", "provenance")
    sources = sampled_sources(length, MOST_SOURCES, rng)
    change, wrong_id = None, None
    batches = 1 if len(bank.entries) == 1 else BATCHES
    for step in range(batches):
        draw = joined_draw(bank.batch(WINDOWS, step, rng))
        windows = torch.randint(subject.content_tokens, (WINDOWS, length), generator=rng)
        base = subject.example(windows, draw)
        wrong_id = wrong_id or _wrong_id(base, windows)
        for source in sources.tolist():
            changed = windows.clone()
            changed[:, source] = replaced_ids(windows[:, source], subject.content_tokens, rng)
            change = change or _forbidden_change(base, subject.example(changed, draw), source)
    amount = f"{len(sources)} sources, {WINDOWS * batches} windows"
    change_text = f"replacing token {change}" if change else f"only its own ids change with a token ({amount})"
    numbers = {"windows": WINDOWS * batches, "sources": len(sources)}
    reproduce = {"seed": subject.seed, "length_tokens": length}
    return (
        finding("C1.provenance", outcome_of(wrong=change, can_tell=True), change_text, numbers, reproduce=reproduce),
        finding(
            "C1.identity",
            outcome_of(wrong=wrong_id, can_tell=True),
            wrong_id or "every id is the one at its source",
            numbers,
            reproduce=reproduce,
        ),
    )


def _forbidden_change(base: Example, changed: Example, source: int) -> str | None:
    """The source, and the first value that may not change with this source, in words; None when the law holds."""
    if changed.inputs.shape != base.inputs.shape:
        return f"{source} changes the shape from {tuple(base.inputs.shape)} to {tuple(changed.inputs.shape)}"
    if changed.groups != base.groups:
        return f"{source} changes the passes or what they may see"
    if changed.loss_denominator != base.loss_denominator:
        return f"{source} changes the loss denominator"
    for name in ("window_row", "input_source", "target_source", "loss_weight"):
        different = getattr(changed, name) != getattr(base, name)
        if different.any():
            return f"{source} changes {name} {_place(base, different)}"
    for name, sources in (("inputs", base.input_source), ("targets", base.target_source)):
        different = (getattr(changed, name) != getattr(base, name)) & (sources != source)
        if different.any():
            return f"{source} changes {name} {_place(base, different, sources)}"
    return None


def _wrong_id(example: Example, windows: Tensor) -> str | None:
    """The first id that differs from the id at its source, in words; None when there is no such id."""
    for name, sources in (("inputs", example.input_source), ("targets", example.target_source)):
        if ((sources >= windows.shape[1]) | (sources < NO_SOURCE)).any():
            return f"{name} names a source outside the window"
        at_source = windows[example.window_row].gather(1, sources.clamp_min(0))
        wrong = (sources != NO_SOURCE) & (getattr(example, name) != at_source)
        if wrong.any():
            return f"{name} is not window[source] {_place(example, wrong, sources)}"
    return None


def _place(example: Example, wrong: Tensor, sources: Tensor | None = None) -> str:
    """The place of the first wrong entry: pass, slot and claimed source."""
    if wrong.dim() == 1:
        return f"of row {int(wrong.nonzero()[0])}"
    row, slot = (int(i) for i in wrong.nonzero()[0])
    name = next(group.name for group, rows in example.by_group() if rows.start <= row < rows.stop)
    claimed = "" if sources is None else f", which claims source {int(sources[row, slot])}"
    return f"at slot {slot} of pass {name}{claimed}"
