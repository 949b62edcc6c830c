"""Law (c), without a model: an Example says truly where each id came from, and nothing else about it depends on the ids.

Rebuild 8 windows with the same Draw after replacing token s in each: nothing may change but the inputs and targets whose source
is s. And every id that claims a source is the id at that source.
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

WINDOWS = 8
BATCHES = 4
MOST_SOURCES = 129
LAW = "with the same Draw, replacing token s changes the ids whose source is s, and nothing else"
IDENTITY_LAW = (
    "inputs[i] is window[input_source[i]] and targets[i] is window[target_source[i]] wherever a source is claimed"
)


def check_provenance(bench: Bench) -> tuple[Finding, Finding]:
    """Two findings: C1.provenance (law c) and C1.identity; together they are C9 (i)."""
    subject, bank = bench.subject, bench.bank
    length = subject.window_tokens
    rng = generator(subject.seed, "audit", "provenance")
    sources = sampled_sources(length, MOST_SOURCES, rng)
    moved, misnamed = None, None
    batches = 1 if len(bank.entries) == 1 else BATCHES
    for step in range(batches):
        draw = joined_draw(bank.batch(WINDOWS, step, rng))
        windows = torch.randint(subject.content_tokens, (WINDOWS, length), generator=rng)
        base = subject.example(windows, draw)
        misnamed = misnamed or _misnamed(base, windows)
        for source in sources.tolist():
            changed = windows.clone()
            changed[:, source] = replaced_ids(windows[:, source], subject.content_tokens, rng)
            moved = moved or _moved(base, subject.example(changed, draw), source)
    checked = {"windows": WINDOWS * batches, "sources": len(sources)}
    reproduce = {"seed": subject.seed, "length_tokens": length}
    return (
        Finding(
            check="C1.provenance",
            outcome="fail" if moved else "pass",
            law=LAW,
            message=moved
            or f"nothing but its own ids follows a token ({len(sources)} sources, {WINDOWS * batches} windows)",
            numbers=checked,
            reproduce=reproduce,
        ),
        Finding(
            check="C1.identity",
            outcome="fail" if misnamed else "pass",
            law=IDENTITY_LAW,
            message=misnamed or "every id is the one its source names",
            numbers=checked,
            reproduce=reproduce,
        ),
    )


def _moved(base: Example, changed: Example, source: int) -> str | None:
    """What changed that may not, as a sentence; None when law (c) holds."""
    if changed.inputs.shape != base.inputs.shape:
        return f"replacing token {source} changes the shape from {tuple(base.inputs.shape)} to {tuple(changed.inputs.shape)}"
    if changed.groups != base.groups:
        return f"replacing token {source} changes the passes or what they may see"
    if changed.loss_denominator != base.loss_denominator:
        return f"replacing token {source} changes the loss denominator"
    for name in ("window_row", "input_source", "target_source", "loss_weight"):
        different = getattr(changed, name) != getattr(base, name)
        if different.any():
            return f"replacing token {source} changes {name} {_place(base, different)}"
    for name, sources in (("inputs", base.input_source), ("targets", base.target_source)):
        different = (getattr(changed, name) != getattr(base, name)) & (sources != source)
        if different.any():
            return f"replacing token {source} changes {name} {_place(base, different, sources)}"
    return None


def _misnamed(example: Example, windows: Tensor) -> str | None:
    """The first id that is not the one at its claimed source, as a sentence."""
    for name, sources in (("inputs", example.input_source), ("targets", example.target_source)):
        if ((sources >= windows.shape[1]) | (sources < NO_SOURCE)).any():
            return f"{name} claims a source outside the window"
        named = windows[example.window_row].gather(1, sources.clamp_min(0))
        wrong = (sources != NO_SOURCE) & (getattr(example, name) != named)
        if wrong.any():
            return f"{name} is not window[source] {_place(example, wrong, sources)}"
    return None


def _place(example: Example, wrong: Tensor, sources: Tensor | None = None) -> str:
    """Where the first wrong entry is: pass, slot, claimed source."""
    if wrong.dim() == 1:
        return f"of row {int(wrong.nonzero()[0])}"
    row, slot = (int(i) for i in wrong.nonzero()[0])
    name = next(group.name for group, rows in example.by_group() if rows.start <= row < rows.stop)
    claimed = "" if sources is None else f", which claims source {int(sources[row, slot])}"
    return f"at slot {slot} of pass {name}{claimed}"
