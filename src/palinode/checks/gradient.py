"""C1, the gradient form: a second opinion on information flow that looks at derivatives instead of replaced ids.

Rows are copies of one window of distinct ids; row t sends a random projection of the logits at target t backwards, and the
gradient on the embedding of token s is what s does to t. It sees dropout (each row has one fixed mask) and saturated regions,
and misses everything that an integer, an index, a sort or a comparison decides.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from palinode.checks.draws import Entry, contract
from palinode.checks.influence import only_pass, scored_targets, spread

SEEN = 1e-9
LAW = "no gradient flows from a target's logits to the embedding of itself or of a forbidden token"


@dataclass(frozen=True)
class Flow:
    """Largest gradients of one pass: over forbidden pairs, and the smallest over each target's nearest allowed one."""

    words: str
    forbidden: float
    source: int
    target: int
    nearest: float
    found_embedding: bool


def check_gradient(bench: Bench) -> Finding:
    """C1.gradient: eval mode, and train mode with the module's own dropout."""
    subject = bench.subject
    length = min(bench.short_tokens, subject.content_tokens)
    length = length if bench.accepts(length) else 0  # a fixed window longer than the vocabulary has no distinct ids
    flows = [flow for training in (False, True) for flow in _flows(bench, length, training)] if length else []
    seen = [flow for flow in flows if flow.found_embedding]
    worst = max(seen, key=lambda flow: flow.forbidden, default=None)
    control = bool(seen) and all(flow.nearest > SEEN for flow in seen if "eval" in flow.words)
    failed = worst is not None and worst.forbidden > TOLERANCE
    if failed and worst is not None:
        message = f"{worst.words}: target {worst.target} sends gradient {worst.forbidden:.1e} to source {worst.source}"
    elif worst is None:
        message = (
            "no embedding layer of distinct ids was found to take gradients at: the perturbation form stands alone"
        )
    else:
        message = f"no gradient beyond {worst.forbidden:.1e} reaches a forbidden token ({len(seen)} passes)"
    return Finding(
        check="C1.gradient",
        outcome="fail" if failed else "pass" if control else "could_not_tell",
        law=LAW,
        message=message,
        numbers={
            "worst_forbidden_gradient": min(worst.forbidden, 1e9) if worst else None,
            "nearest_gradient": min((flow.nearest for flow in seen), default=None),
            "passes": len(seen),
        },
        threshold=TOLERANCE,
        reproduce={"seed": subject.seed, "length_tokens": length, "where": worst.words if worst else None},
    )


def _flows(bench: Bench, length: int, training: bool) -> Iterator[Flow]:
    subject = bench.subject
    rng = generator(subject.seed, "audit", "gradient")
    module = bench.copy(1.0).train(training)
    mode = f"{'train' if training else 'eval'} mode, length {length}"
    for entry in bench.bank_at(length).covering(1):
        window = bench.window("distinct", length, rng)
        example = subject.example(window.repeat(length, 1), entry.draw.repeated(length))
        for group, rows in example.by_group():
            with exact_arithmetic(dropout=True), seeded_passes(subject.seed, "gradient"):
                matrix = _gradients(bench, module, only_pass(example, group.name), window, rng)
            yield _judged(bench, entry, group.name, matrix, f"{group.name}: {mode}", length, example, rows)


def _gradients(bench: Bench, module: nn.Module, example: Example, window: Tensor, rng: Generator) -> Tensor | None:
    """(N, N) by source and target: largest gradient on the source's embedding; None when no embedding was found."""
    with _embedded(module, example) as calls:
        logits = bench.subject.logits(module, example)
    if not calls:
        return None
    own = scored_targets(example) & (example.target_source == example.window_row[:, None])
    projection = torch.randn(logits.shape[-1], generator=rng, dtype=logits.dtype)
    projection = projection / projection.norm() / spread(logits.detach())
    outputs = [output for _, output in calls]
    gradients = torch.autograd.grad((logits[own] @ projection).sum(), outputs, allow_unused=True)
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
def _embedded(module: nn.Module, example: Example) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect (ids, embedding output) of every leaf module that is given the rows' own ids, in any order within a row."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        ids = inputs[0] if inputs else None
        if (
            isinstance(ids, Tensor)
            and not ids.is_floating_point()
            and isinstance(output, Tensor)
            and output.requires_grad
        ):
            rows = _rows_of_ids(ids.cpu(), example.inputs)
            if rows is not None:
                calls.append((rows, output))

    handles = [part.register_forward_hook(keep) for part in module.modules() if not list(part.children())]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _rows_of_ids(ids: Tensor, inputs: Tensor) -> Tensor | None:
    """The ids as (R, n) when each row holds ids of the example's row (positions and hashes do not)."""
    count = len(inputs)
    if ids.numel() == 0 or ids.numel() % count or (ids.shape[0] != count and ids.numel() != inputs.numel()):
        return None
    rows = ids.reshape(count, -1)
    held = (rows[:, :, None] == inputs[:, None, :]).any(-1)
    return rows if bool(held.all()) else None


def _judged(
    bench: Bench,
    entry: Entry,
    group: str,
    matrix: Tensor | None,
    words: str,
    length: int,
    example: Example,
    rows: slice,
) -> Flow:
    if matrix is None:
        return Flow(words, 0.0, 0, 0, 0.0, False)
    allowed = contract(bench.subject.objective, entry, group, length)
    itself = torch.eye(length, dtype=torch.bool)
    outside = ~allowed if bench.subject.objective.scores_itself else ~allowed | itself
    forbidden = matrix.masked_fill(~outside, 0.0)
    source, target = divmod(int(forbidden.argmax()), length)
    inside = allowed & ~itself
    scored = torch.zeros(length, dtype=torch.bool)
    scored[example.target_source[rows][scored_targets(example)[rows]]] = True
    index = torch.arange(length)
    distance = (index[:, None] - index).abs().masked_fill(~inside, length + 1)
    nearest = matrix.masked_fill(~inside | (distance > distance.min(0).values), 0.0).max(0).values
    judged = nearest[scored & inside.any(0)]
    smallest = float(judged.min()) if len(judged) else 0.0
    return Flow(words, float(forbidden[source, target]), source, target, smallest, True)
