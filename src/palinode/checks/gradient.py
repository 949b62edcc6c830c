"""The check C1.gradient: a second measurement of information flow, by derivatives instead of replaced ids.

The rows are copies of one window of distinct ids. Row t sends a random projection of the logits at target t backwards; the gradient
on the embedding of token s is the effect of s on t. The check also works with dropout on (each row keeps one dropout mask). It
misses every effect that has no derivative, because it goes through an integer, an index, a sort or a comparison. Legend: B rows, T
slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from palinode.base.example import Example
from palinode.base.finding import Finding
from palinode.base.seeds import generator
from palinode.checks.bench import TOLERANCE, Bench
from palinode.checks.copies import exact_arithmetic, seeded_passes
from palinode.checks.draws import contract, forbidden_pairs, itself
from palinode.checks.influence import only_pass, replaced_ids, scored_targets, spread
from palinode.checks.laws import LARGEST, finding, outcome_of
from palinode.checks.subject import Subject

SEEN = 1e-9

Offsets = frozenset[tuple[int, bool]]  # (first slot of the ids, whether the ids are in reverse order)


@dataclass(frozen=True)
class Flow:
    """The gradients of one pass: the largest over forbidden pairs, and the smallest from a nearest allowed token to its target."""

    where: str
    training: bool
    forbidden: float
    source: int
    target: int
    nearest: float


def check_gradient(bench: Bench) -> Finding:
    """C1.gradient: measure the gradients in eval mode, and in train mode with the module's own dropout."""
    subject = bench.subject
    length = min(bench.short_tokens, subject.content_tokens)
    length = length if bench.accepts(length) else 0  # a window longer than the vocabulary has no distinct ids
    modes = (False, True) if length and bench.trains_at(length) else (False,)
    flows = [flow for training in modes for flow in _flows(bench, length, training)] if length else []
    worst = max(flows, key=lambda flow: flow.forbidden, default=None)
    control = bool(flows) and all(flow.nearest > SEEN for flow in flows if not flow.training)
    failed = worst is not None and worst.forbidden > TOLERANCE
    if worst is None:
        message = (
            "no table that is given the ids of the rows was found, or it has no gradient: C1.perturbation alone decides"
        )
    elif failed:
        message = f"{worst.where}: target {worst.target} sends gradient {worst.forbidden:.1e} to source {worst.source}"
    else:
        message = f"no gradient above {worst.forbidden:.1e} reaches a forbidden token ({len(flows)} passes)"
    return finding(
        "C1.gradient",
        outcome_of(wrong=failed, can_tell=control),
        message,
        {
            "worst_forbidden_gradient": min(worst.forbidden, LARGEST) if worst else None,
            "nearest_gradient": min((flow.nearest for flow in flows), default=None),
            "passes": len(flows),
        },
        TOLERANCE,
        reproduce={"seed": subject.seed, "length_tokens": length, "where": worst.where if worst else None},
    )


def _flows(bench: Bench, length: int, training: bool) -> Iterator[Flow]:
    """Yield one Flow for each pass in which the embedding table of the token ids was found."""
    subject = bench.subject
    rng = generator(subject.seed, "audit", "gradient")
    module = bench.copy(1.0).train(training)
    for entry in bench.bank_at(length).covering(1):
        window = bench.window("distinct", length, rng)
        example, other = (
            subject.example(ids.repeat(length, 1), entry.draw.repeated(length))
            for ids in (window, replaced_ids(window, subject.content_tokens, rng))
        )
        for group, _ in example.by_group():
            one = only_pass(example, group.name)
            with exact_arithmetic(dropout=True), seeded_passes(subject.seed, "gradient"):
                tables = _token_tables(bench, module, one, only_pass(other, group.name))
                matrix = _gradients(bench, module, one, window, tables, rng)
            if matrix is not None:
                scored = torch.zeros(length, dtype=torch.bool)
                scored[one.target_source[scored_targets(one)]] = True
                allowed = contract(subject.objective, entry, group.name, length)
                where = f"{group.name}: {'train' if training else 'eval'} mode, length {length}"
                yield Flow(where, training, *_judged(matrix, allowed, scored, subject.objective.scores_itself))


def _gradients(
    bench: Bench, module: nn.Module, example: Example, window: Tensor, tables: dict[nn.Module, Offsets], rng: Generator
) -> Tensor | None:
    """The size of the gradients on the embeddings from `tables`: (window_tokens, window_tokens) by source and target.

    The result is None when no embedding was found, or when the module has no gradient.
    """
    with _embedding_calls(module, example, tables) as calls:
        logits = bench.subject.logits(module, example)
    if not calls:
        return None
    own = scored_targets(example) & (example.target_source == example.window_row[:, None])
    projection = torch.randn(logits.shape[-1], generator=rng, dtype=logits.dtype)
    projection = projection / projection.norm() / spread(logits.detach())
    outputs = [output for _, output in calls]
    try:
        gradients = torch.autograd.grad((logits[own] @ projection).sum(), outputs, allow_unused=True)
    except RuntimeError:  # a module that changes its own intermediate values in place has no gradient
        return None
    matrix = torch.zeros(len(window), len(window), dtype=torch.float64)
    place = torch.full((bench.subject.vocab_size,), -1)
    place[window] = torch.arange(len(window))
    for (ids, _), gradient in zip(calls, gradients, strict=True):
        if gradient is not None:
            sources = place[ids.cpu()]
            size = gradient.detach().cpu().abs().amax(-1).double().reshape(sources.shape)
            row, slot = (sources >= 0).nonzero(as_tuple=True)
            matrix.index_put_((sources[row, slot], example.window_row[row]), size[row, slot], accumulate=True)
    return matrix


@contextmanager
def _embedding_calls(
    module: nn.Module, example: Example, tables: Mapping[nn.Module, Offsets]
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect (ids, embeddings) of every call in which a table of token ids gets ids of the rows."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        ids = _given_ids(inputs)
        if ids is None or not isinstance(output, Tensor) or not output.requires_grad:
            return
        # A table of positions may read only the shape of the ids, and return one row of numbers for each slot.
        one_row_each = output.dim() > 1 and output[..., 0].numel() == ids.numel()
        if one_row_each and _offsets(ids, example.inputs) & tables[part]:
            calls.append((ids.cpu().reshape(len(example.inputs), -1), output))

    handles = [part.register_forward_hook(keep) for part in tables]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _token_tables(bench: Bench, module: nn.Module, example: Example, other: Example) -> dict[nn.Module, Offsets]:
    """The embedding tables of token ids: each leaf module that is called with ids of the rows, and where in a row these ids begin.

    Token types, segments, document numbers and positions are integers too. So the rows are read twice, the second time with another
    id for every token of the window. A table of token ids gets the ids of the rows slot by slot in both readings.

    Args:
        bench: the bench of the subject.
        module: the module to read with.
        example: the rows of the first reading.
        other: the rows of the second reading, from a window in which every token has another id.
    """
    first, second = (_calls_by_module(bench.subject, module, one) for one in (example, other))
    tables = {part: first[part] & second.get(part, frozenset()) for part in first}
    return {part: offsets for part, offsets in tables.items() if offsets}


def _calls_by_module(subject: Subject, module: nn.Module, example: Example) -> dict[nn.Module, Offsets]:
    """For each leaf module: the places in the rows where the ids begin that the module was called with, over all calls."""
    found: dict[nn.Module, Offsets] = {}

    def note(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if (ids := _given_ids(inputs)) is not None:
            found[part] = found.get(part, frozenset()) | _offsets(ids, example.inputs)

    handles = [part.register_forward_hook(note) for part in module.modules() if not list(part.children())]
    try:
        with torch.no_grad():
            subject.logits(module, example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _given_ids(inputs: tuple[Any, ...]) -> Tensor | None:
    """The first argument of a call when it can be token ids, else None."""
    ids = inputs[0] if inputs else None
    return None if not isinstance(ids, Tensor) or ids.is_floating_point() or not ids.numel() else ids


def _offsets(ids: Tensor, inputs: Tensor) -> Offsets:
    """Find the (B, n) `ids` as contiguous spans of the (B, T) rows: (first slot, whether the span is in reverse order) of each."""
    rows, slots = inputs.shape
    if ids.numel() % rows or (ids.shape[0] != rows and ids.numel() != inputs.numel()):
        return frozenset()
    given = ids.cpu().reshape(rows, -1).long()
    count = given.shape[1]
    return frozenset(
        (first, flipped)
        for flipped, read in ((False, inputs), (True, inputs.flip(1)))
        for first in range(slots - count + 1)
        if torch.equal(read[:, first : first + count], given)
    )


def _judged(matrix: Tensor, allowed: Tensor, scored: Tensor, scores_itself: bool) -> tuple[float, int, int, float]:
    """The largest forbidden gradient with its source and target, and the smallest gradient on a nearest allowed token."""
    length = len(matrix)
    forbidden = matrix.masked_fill(~forbidden_pairs(allowed, scores_itself), 0.0)
    source, target = divmod(int(forbidden.argmax()), length)
    inside = allowed & ~itself(length)
    index = torch.arange(length)
    distance = (index[:, None] - index).abs().masked_fill(~inside, length + 1)
    nearest = matrix.masked_fill(~inside | (distance > distance.min(0).values), 0.0).max(0).values
    judged = nearest[scored & inside.any(0)]
    return float(forbidden[source, target]), source, target, float(judged.min()) if len(judged) else 0.0
