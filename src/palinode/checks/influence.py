"""How much each window token moves each prediction: one token replaced per row, the same Draw, one pass, logits compared.

Nothing but logits is looked at, so a token that reaches its own prediction by any road (mask, shift, padding, a second copy)
shows in the same matrix, on its diagonal.
Legend: K perturbed sources, N tokens of the window, k rows a window has in a pass, S slots, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from palinode.base.example import NO_SOURCE, Example
from palinode.checks.draws import Entry
from palinode.checks.subject import Subject

LOGITS_AT_ONCE = 1 << 25  # elements: 256 MiB of float64


@dataclass(frozen=True)
class Influence:
    """What the perturbed sources did to one pass.

    Attributes:
        sources: (K,) the window tokens that were replaced, one at a time.
        matrix: (K, N) largest change of any logit at the slots that predict a target, in standard deviations of the logits.
        scored: (N,) which targets the pass scores.
        noise: the same for an unchanged row at another place of the batch.
    """

    group: str
    sources: Tensor
    matrix: Tensor
    scored: Tensor
    noise: float


def influence(
    subject: Subject, module: nn.Module, window: Tensor, entry: Entry, sources: Tensor, rng: Generator
) -> list[Influence]:
    """Perturb each of `sources` in `window` (N,) and compare every pass with the unperturbed one."""
    slots = subject.example(window[None], entry.draw).inputs.numel()
    rows_at_once = max(1, LOGITS_AT_ONCE // max(1, 3 * slots * subject.vocab_size) - 2)
    chunks = [_influence(subject, module, window, entry, chunk, rng) for chunk in torch.split(sources, rows_at_once)]
    return [_merged([chunk[group] for chunk in chunks]) for group in chunks[0] if all(group in c for c in chunks)]


def scored_targets(example: Example) -> Tensor:
    """(R, S) boolean: slots whose target is a window token and counts in the loss."""
    return (example.loss_weight > 0) & (example.target_source != NO_SOURCE)


def only_pass(example: Example, name: str) -> Example:
    """The example with one of its passes."""
    group, rows = next((group, rows) for group, rows in example.by_group() if group.name == name)
    fields = ("inputs", "input_source", "targets", "target_source", "loss_weight", "window_row")
    return replace(example, groups=(group,), **{field: getattr(example, field)[rows] for field in fields})


def largest_change(changed: Tensor, base: Tensor) -> Tensor:
    """max over the vocabulary of |changed - base|; equal infinities are no change, anything undefined is infinite."""
    change = (changed - base).abs().masked_fill(changed == base, 0.0)
    return torch.nan_to_num(change, nan=torch.inf, posinf=torch.inf).amax(-1)


def spread(logits: Tensor) -> float:
    """Standard deviation of the logits that are finite; 1 where there is none, so that a change is still a change."""
    finite = logits[logits.isfinite()].double()
    found = float(finite.std()) if finite.numel() > 1 else 0.0
    return found or 1.0


def replaced_ids(ids: Tensor, vocabulary: int, rng: Generator) -> Tensor:
    """Other ids, uniform over the rest of the vocabulary."""
    return (ids + torch.randint(1, vocabulary, ids.shape, generator=rng)) % vocabulary


def sampled_sources(window_tokens: int, most: int, rng: Generator) -> Tensor:
    """All sources, or `most` of them: both ends, the neighbours of every power of two, the rest at random."""
    if window_tokens <= most:
        return torch.arange(window_tokens)
    powers = [2**k + step for k in range(2, (window_tokens - 1).bit_length()) for step in (0, -1)]
    first = dict.fromkeys([0, window_tokens - 1, 1, window_tokens - 2, *powers[::-1]])
    fill = torch.randperm(window_tokens, generator=rng).tolist()
    chosen = dict.fromkeys([*list(first)[: most - most // 4], *fill])
    return torch.tensor(sorted(list(chosen)[:most]))


def _influence(
    subject: Subject, module: nn.Module, window: Tensor, entry: Entry, sources: Tensor, rng: Generator
) -> dict[str, Influence]:
    """Row 0 is the window, rows 1..K have one source replaced each, the last row is the window again."""
    count = len(sources) + 2
    windows = window.repeat(count, 1)
    windows[torch.arange(1, count - 1), sources] = replaced_ids(window[sources], subject.content_tokens, rng)
    example = subject.example(windows, entry.draw.repeated(count))
    with torch.no_grad():
        logits = subject.logits(module, example)
    found = {}
    for group, rows in example.by_group():
        if group.rows % count == 0:  # else the number of rows depends on the ids, which law (c) reports
            found[group.name] = _of_pass(group.name, example, logits, rows, sources, len(window))
    return found


def _of_pass(
    name: str, example: Example, logits: Tensor, rows: slice, sources: Tensor, window_tokens: int
) -> Influence:
    count = len(sources) + 2
    order = torch.argsort(example.window_row[rows], stable=True)
    by_window = torch.unflatten(logits[rows][order], 0, (count, -1))  # (K + 2, k, S, V)
    scored_slots = torch.unflatten(scored_targets(example)[rows][order], 0, (count, -1))[0]
    targets = torch.unflatten(example.target_source[rows][order], 0, (count, -1))[0][scored_slots]
    base = by_window[0][scored_slots]
    changes = largest_change(by_window[:, scored_slots], base)
    nothing = torch.zeros(count, window_tokens, dtype=changes.dtype)
    matrix = nothing.scatter_reduce(1, targets.expand_as(changes), changes, "amax") / spread(base)
    scored = torch.zeros(window_tokens, dtype=torch.bool)
    scored[targets] = True
    return Influence(name, sources, matrix[1:-1], scored, float(matrix[-1].max()) if len(targets) else 0.0)


def _merged(parts: list[Influence]) -> Influence:
    if len(parts) == 1:
        return parts[0]
    return Influence(
        parts[0].group,
        torch.cat([part.sources for part in parts]),
        torch.cat([part.matrix for part in parts]),
        parts[0].scored,
        max(part.noise for part in parts),
    )
