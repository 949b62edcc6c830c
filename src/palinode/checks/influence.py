"""How much each window token changes each prediction: each row has one replaced token and the same Draw; the logits are compared.

The comparison uses only logits. So a token that reaches its own prediction in any way (mask, shift, padding, a second copy) shows
on the diagonal of the matrix of influences. Legend: K replaced sources, R rows that a window has in a pass, T slots, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from palinode.base.example import EXAMPLE_TENSORS, NO_SOURCE, Example, Group
from palinode.checks.draws import Entry
from palinode.checks.subject import Subject

LOGITS_AT_ONCE = 1 << 27  # the number of elements: 1 GiB of float64


@dataclass(frozen=True)
class Influence:
    """The effect of the replaced sources on one pass.

    Attributes:
        sources: (K,) the window tokens that were replaced, one at a time.
        matrix: (K, window_tokens) largest change of any logit at the slots that predict a target, in standard deviations of
            the logits.
        scored: (window_tokens,) which targets the pass scores.
        noise: the largest change of the logits for an unchanged window at another place of the batch.
        ids: (K,) the id that replaced each source.
    """

    group: str
    sources: Tensor
    matrix: Tensor
    scored: Tensor
    noise: float
    ids: Tensor


def influence(
    subject: Subject,
    module: nn.Module,
    window: Tensor,
    entry: Entry,
    sources: Tensor,
    rng: Generator,
    ids: Tensor | None = None,
) -> list[Influence]:
    """Replace each of `sources` in a (window_tokens,) window, and compare the logits of every pass with those of the unchanged
    window.

    `ids`: (K,) the id that replaces each source; default: other ids at random.
    """
    slots = subject.example(window[None], entry.draw).inputs.numel()
    rows_at_once = max(1, LOGITS_AT_ONCE // max(1, 3 * slots * subject.vocab_size) - 2)
    ids = replaced_ids(window[sources], subject.content_tokens, rng) if ids is None else ids
    pieces = zip(torch.split(sources, rows_at_once), torch.split(ids, rows_at_once), strict=True)
    chunks = [_influence(subject, module, window, entry, *piece) for piece in pieces]
    return [_merged([chunk[group] for chunk in chunks]) for group in chunks[0] if all(group in c for c in chunks)]


def scored_targets(example: Example) -> Tensor:
    """(B, T) boolean: the slots whose target is a window token with a weight in the loss."""
    return (example.loss_weight > 0) & (example.target_source != NO_SOURCE)


def only_pass(example: Example, name: str) -> Example:
    """The example with only the pass of this name."""
    group, rows = next((group, rows) for group, rows in example.by_group() if group.name == name)
    return only_rows(example, group, rows)


def only_rows(example: Example, group: Group, rows: slice) -> Example:
    """The example with only some rows of one of its passes."""
    kept = {name: getattr(example, name)[rows] for name in EXAMPLE_TENSORS}
    return replace(example, groups=(replace(group, rows=rows.stop - rows.start),), **kept)


def largest_change(changed: Tensor, base: Tensor) -> Tensor:
    """max over the vocabulary of |changed - base|. Two equal infinities are no change; an undefined difference is infinite."""
    change = (changed - base).abs().masked_fill(changed == base, 0.0)
    return torch.nan_to_num(change, nan=torch.inf, posinf=torch.inf).amax(-1)


def spread(logits: Tensor) -> float:
    """The standard deviation of the finite logits; 1 where it is 0 or undefined, so that a change still counts."""
    finite = logits[logits.isfinite()].double()
    deviation = float(finite.std()) if finite.numel() > 1 else 0.0
    return deviation or 1.0


def replaced_ids(ids: Tensor, vocabulary: int, rng: Generator) -> Tensor:
    """Ids that differ from `ids`, uniform over the rest of the vocabulary."""
    return (ids + torch.randint(1, vocabulary, ids.shape, generator=rng)) % vocabulary


def sampled_sources(window_tokens: int, most: int, rng: Generator) -> Tensor:
    """All sources, or `most` of them: both ends, the neighbours of every power of two, and random sources for the rest."""
    if window_tokens <= most:
        return torch.arange(window_tokens)
    powers = [2**k + step for k in range(2, (window_tokens - 1).bit_length()) for step in (0, -1)]
    first = dict.fromkeys([0, window_tokens - 1, 1, window_tokens - 2, *powers[::-1]])
    fill = torch.randperm(window_tokens, generator=rng).tolist()
    chosen = dict.fromkeys([*list(first)[: most - most // 4], *fill])
    return torch.tensor(sorted(list(chosen)[:most]))


def _influence(
    subject: Subject, module: nn.Module, window: Tensor, entry: Entry, sources: Tensor, ids: Tensor
) -> dict[str, Influence]:
    """The influence of each source.

    Row 0 is the window, rows 1..K each have one source replaced, the last row is the window again.
    """
    count = len(sources) + 2
    windows = window.repeat(count, 1)
    windows[torch.arange(1, count - 1), sources] = ids
    example = subject.example(windows, entry.draw.repeated(count))
    with torch.no_grad():
        logits = subject.logits(module, example)
    return {
        group.name: _of_pass(group.name, example, logits, rows, (sources, ids), len(window))
        for group, rows in example.by_group()
        if group.rows % count == 0  # else the number of rows depends on the ids, which C1.provenance reports
    }


def _of_pass(
    name: str, example: Example, logits: Tensor, rows: slice, replaced: tuple[Tensor, Tensor], window_tokens: int
) -> Influence:
    sources, ids = replaced
    count = len(sources) + 2
    order = torch.argsort(example.window_row[rows], stable=True)

    def by_window(values: Tensor) -> Tensor:
        return torch.unflatten(values[rows][order], 0, (count, -1))  # (K + 2, R, T, ..)

    scored_slots = by_window(scored_targets(example))[0]
    targets = by_window(example.target_source)[0][scored_slots]
    scored_logits = by_window(logits)[:, scored_slots]
    changes = largest_change(scored_logits, scored_logits[0])
    no_change = torch.zeros(count, window_tokens, dtype=changes.dtype)
    matrix = no_change.scatter_reduce(1, targets.expand_as(changes), changes, "amax") / spread(scored_logits[0])
    scored = torch.zeros(window_tokens, dtype=torch.bool)
    scored[targets] = True
    return Influence(name, sources, matrix[1:-1], scored, float(matrix[-1].max()) if len(targets) else 0.0, ids)


def _merged(parts: list[Influence]) -> Influence:
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        sources=torch.cat([part.sources for part in parts]),
        matrix=torch.cat([part.matrix for part in parts]),
        noise=max(part.noise for part in parts),
        ids=torch.cat([part.ids for part in parts]),
    )
