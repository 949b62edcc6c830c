"""The checks of family C9 about sums: they compute losses and byte counts again, and test the loss before training.

The caller gives the trainer and the evaluator under audit as functions, or gives the numbers that they reported. The functions of
this file compute with numpy in float64, and share no line of code with the trainer or the evaluator. Legend: B rows, T slots, V
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palinode.base.example import Example, SpecialTokens, joined
from palinode.base.finding import Finding
from palinode.checks.influence import only_rows, scored_targets
from palinode.checks.laws import finding, outcome_of

HAND_TOLERANCE = 1e-6  # a relative difference; logits in float32 do not allow a smaller tolerance
GRADIENT_TOLERANCE = 1e-5  # as a share of the gradient's largest entry: an entry is a sum over many slots
SCORED_IN_SMALL, SCORED_IN_LARGE = 1, 99
INITIAL_TOLERANCE_NATS = 0.1
COEFFICIENT_FACTOR = 10.0

# A function: micro-batches -> (loss, flat gradient) of one optimizer step over all micro-batches. Each call uses the same
# parameters and no dropout.
LossAndGradient = Callable[[Sequence[Example]], tuple[float, NDArray[Any]]]


class Sums(Protocol):
    """The numbers that an evaluator reports for one pass."""

    @property
    def tokens_scored(self) -> int: ...
    @property
    def nats_sum(self) -> float: ...
    @property
    def bytes_scored(self) -> int: ...
    @property
    def hits(self) -> int: ...
    @property
    def bits_per_byte(self) -> float | None: ...


@dataclass(frozen=True)
class HandSums:
    """The sums of an evaluation, computed again from its logits.

    `special_targets`: the number of scored targets that are special ids.
    """

    tokens_scored: int
    nats_sum: float
    bytes_scored: int
    hits: int
    special_targets: int
    largest_nats: float = 0.0
    smallest_nats: float = 0.0

    @property
    def losses_differ(self) -> bool:
        """Whether two scored targets have different losses. A model whose head is zero gives every target the same loss."""
        return self.largest_nats - self.smallest_nats > 1e-6 * abs(self.largest_nats)

    @property
    def bits_per_byte(self) -> float | None:
        return self.nats_sum / (math.log(2) * self.bytes_scored) if self.bytes_scored else None


def hand_loss(example: Example, logits: Tensor) -> float:
    """The loss of a whole batch in nats, sum(weight * nats) / denominator, from the (B, T, V) logits of the batch."""
    weight = example.loss_weight.numpy().astype(np.float64)
    return float((weight * _nats(example, logits)).sum() / example.denominator)


def hand_sums(
    batches: Sequence[tuple[Example, Tensor]], specials: SpecialTokens, bytes_per_token: NDArray[Any]
) -> HandSums:
    """The evaluation sums of a split, computed from (Example, logits) pairs that contain each window of the split once.

    Nats are weighted. The bytes of a token count once for each window of a pair, however often the token is scored.
    """
    table = np.zeros(specials.vocab_size, np.int64)
    table[: len(bytes_per_token)] = bytes_per_token
    ids, nats, hits, text_bytes = [np.zeros(0, np.int64)], [np.zeros(0)], 0, 0
    for example, logits in batches:
        targets, scored = example.targets.numpy(), scored_targets(example).numpy()
        ids.append(targets[scored])
        nats.append((example.loss_weight.numpy() * _nats(example, logits))[scored])
        spelled = {
            (window, token): target
            for row, window in enumerate(example.window_row.tolist())
            for token, target in zip(
                example.target_source[row][scored[row]].tolist(), targets[row][scored[row]].tolist(), strict=True
            )
        }
        text_bytes += int(table[list(spelled.values())].sum())
        hits += int((logits.numpy().argmax(-1) == targets)[scored].sum())
    targets, each = np.concatenate(ids), np.concatenate(nats)
    return HandSums(
        tokens_scored=len(targets),
        nats_sum=float(sum(batch.sum() for batch in nats)),
        bytes_scored=text_bytes,
        hits=hits,
        special_targets=int((targets >= specials.first_id).sum()),
        largest_nats=float(each.max(initial=-math.inf)),
        smallest_nats=float(each.min(initial=math.inf)),
    )


def check_training_loss(example: Example, logits: Tensor, reported_nats: float) -> Finding:
    """C9.training_loss: the loss that the trainer reports for a batch equals the loss computed here from the same logits."""
    hand = hand_loss(example, logits)
    relative = _relative(hand, reported_nats)
    return finding(
        "C9.training_loss",
        outcome_of(wrong=not relative <= HAND_TOLERANCE, can_tell=True),
        f"reported {reported_nats:.7f}, by hand {hand:.7f} nats",
        {"relative_difference": relative, "reported_nats": reported_nats, "hand_nats": hand},
        HAND_TOLERANCE,
    )


def check_evaluation_sums(reported: Sums, hand: HandSums) -> Finding:
    """C9.evaluation_sums: the evaluator's tokens, bytes, hits and nats equal the counts made here, and no target is a special id.

    Positive control: the targets have different losses, so that a wrong order, a wrong mask or a wrong mean would change the sums.
    """
    relative = _relative(hand.nats_sum, reported.nats_sum)
    wrong = [
        f"{name} is {getattr(reported, name)}, by hand {getattr(hand, name)}"
        for name in ("tokens_scored", "bytes_scored", "hits")
        if getattr(reported, name) != getattr(hand, name)
    ]
    if not relative <= HAND_TOLERANCE:
        wrong.insert(0, f"nats_sum is {reported.nats_sum:.9g}, by hand {hand.nats_sum:.9g}")
    bits, hand_bits = reported.bits_per_byte, hand.bits_per_byte
    if (bits is None) != (hand_bits is None) or not _relative(hand_bits or 0.0, bits or 0.0) <= HAND_TOLERANCE:
        wrong.append(f"bits_per_byte is {bits}, by hand {hand_bits}")
    if hand.special_targets:
        wrong.append(f"{hand.special_targets} scored targets are special ids")
    message = (
        f"as by hand: {hand.tokens_scored} tokens, {hand.bytes_scored} bytes, "
        f"{hand.nats_sum / max(1, hand.tokens_scored):.6f} nats/token"
    )
    if not hand.losses_differ:
        message += "; but this model gives every target the same loss"
    return finding(
        "C9.evaluation_sums",
        outcome_of(wrong=wrong, can_tell=hand.losses_differ),
        "; ".join(wrong) or message,
        {
            "relative_difference": relative,
            "tokens_scored": hand.tokens_scored,
            "bytes_scored": hand.bytes_scored,
            "special_targets": hand.special_targets,
        },
        HAND_TOLERANCE,
    )


def scored_sources(examples: Sequence[Example]) -> list[Tensor]:
    """For each Example, which is made of one window: the tokens of the window that it scores, in ascending order."""
    return [example.target_source[scored_targets(example)].sort().values for example in examples]


def check_every_token(examples: Sequence[Example], needed: Sequence[tuple[int, int]]) -> Finding:
    """C9.every_token: each Example is made of one window, and scores every token of it from `first` to `end - 1` exactly once.

    Args:
        examples: the Examples, each made of one window.
        needed: for each window, the index of the first token that must be scored, and the index after the last such token.
    """
    wrong = []
    for number, (sources, (first, end)) in enumerate(zip(scored_sources(examples), needed, strict=False)):
        counts = torch.bincount(sources, minlength=end)
        dropped = (counts[first:end] == 0).nonzero().flatten() + first
        repeated = (counts > 1).nonzero().flatten()
        if len(dropped):
            wrong.append(
                f"window {number}: {len(dropped)} of {end - first} tokens are not scored, the first is token {int(dropped[0])}"
            )
        if len(repeated):
            wrong.append(
                f"window {number}: {len(repeated)} tokens are scored more than once, the first is token {int(repeated[0])}"
            )
    if len(examples) != len(needed):
        wrong.insert(0, f"{len(examples)} of {len(needed)} windows are scored")
    total = sum(end - first for first, end in needed)
    return finding(
        "C9.every_token",
        outcome_of(wrong=wrong, can_tell=total),
        wrong[0] if wrong else f"all {total} tokens of {len(examples)} windows are scored once",
        {"windows_wrong": len(wrong), "tokens_needed": total},
        0.0,
    )


def check_split_bytes(bytes_scored: int, split_tokens: NDArray[Any], bytes_per_token: NDArray[Any]) -> Finding:
    """C9.split_bytes: an evaluation scored exactly as many bytes as the tokens that it had to score contain.

    Args:
        bytes_scored: the number of bytes that the evaluation reported.
        split_tokens: the token ids that the evaluation must score.
        bytes_per_token: the number of bytes of each token id.
    """
    whole = int(bytes_per_token[split_tokens].sum())
    difference = bytes_scored - whole
    return finding(
        "C9.split_bytes",
        outcome_of(wrong=difference, can_tell=whole),
        f"{bytes_scored} bytes scored of {whole}",
        {"bytes_difference": difference, "split_bytes": whole},
        0.0,
    )


def check_sum_over_sum(step: LossAndGradient, example: Example) -> Finding:
    """C9.sum_over_sum: two micro-batches of 1 and 99 scored tokens give the loss and the gradient of one batch of 100 tokens.

    Positive control: the two micro-batches have different mean losses, so that the mean of the two means is not the right loss.

    Args:
        step: the function that gives the loss and the gradient of one optimizer step over some micro-batches.
        example: an Example of at least two rows. Each micro-batch is made from one row. If the rows score only a single token each,
            such as the answer of a task, the large micro-batch is made from all other rows.
    """
    for row in range(example.inputs.shape[0]):  # the two means may be equal by chance; another row is tried then
        result = _sum_over_sum(step, *_small_and_large(example, row))
        if result.outcome != "could_not_tell":
            break
    return result


def _small_and_large(example: Example, row: int) -> tuple[Example, Example]:
    """Two micro-batches: a small one with one scored token of this row, and a large one.

    The large one is the next row, or all other rows if the next row scores only a single token.
    """
    rows = example.inputs.shape[0]
    others = [(row + step) % rows for step in range(1, rows)]
    large = _row(example, others[0], SCORED_IN_LARGE)
    if large.loss_weight.count_nonzero() <= SCORED_IN_SMALL:
        large = joined([_row(example, other, SCORED_IN_LARGE) for other in others])
    return _row(example, row, SCORED_IN_SMALL), large


def _sum_over_sum(step: LossAndGradient, small: Example, large: Example) -> Finding:
    """The finding of C9.sum_over_sum for these two micro-batches."""
    small_loss, large_loss = step([small])[0], step([large])[0]
    one_loss, one_gradient = step([joined([small, large])])
    two_loss, two_gradient = step([small, large])
    loss = _relative(one_loss, two_loss)
    gradient = float(np.abs(one_gradient - two_gradient).max() / max(float(np.abs(one_gradient).max()), 1e-12))
    weights = float(small.loss_weight.sum()), float(large.loss_weight.sum())
    expected = (weights[0] * small_loss + weights[1] * large_loss) / sum(weights)
    mean_of_means = (small_loss + large_loss) / 2
    control = abs(mean_of_means - expected) > 100 * HAND_TOLERANCE * abs(expected)
    by_sums = _relative(expected, one_loss)
    right = loss <= HAND_TOLERANCE and gradient <= GRADIENT_TOLERANCE and by_sums <= 10 * HAND_TOLERANCE
    return finding(
        "C9.sum_over_sum",
        outcome_of(wrong=not right, can_tell=control),
        f"loss {one_loss:.7f} as one batch, {two_loss:.7f} as two of {weights[0]:.0f} and {weights[1]:.0f} scored tokens"
        + ("" if right else f"; what differs: {_quantities(loss, gradient, by_sums)}"),
        {
            "relative_loss_difference": loss,
            "relative_gradient_difference": gradient,
            "mean_of_means_nats": mean_of_means,
            "mean_of_means_would_show": int(control),
        },
        HAND_TOLERANCE,
    )


def _quantities(loss: float, gradient: float, by_sums: float) -> str:
    """The names of the quantities that differ by more than the tolerance, each with its relative difference."""
    judged = (
        ("the loss", loss, HAND_TOLERANCE),
        ("the gradient", gradient, GRADIENT_TOLERANCE),
        ("the loss from the mean by sums", by_sums, 10 * HAND_TOLERANCE),
    )
    return ", ".join(f"{name} by {value:.1e} (allowed {most:.0e})" for name, value, most in judged if not value <= most)


def check_auxiliary(evaluation_nats: Callable[[float], float], training_nats: Callable[[float], float]) -> Finding:
    """C9.auxiliary: the evaluation loss stays the same when every auxiliary coefficient is ten times as large.

    Positive control: the training loss must change.

    Args:
        evaluation_nats: a function that multiplies all coefficients by a factor and gives the evaluation loss of the same weights.
        training_nats: a function that multiplies all coefficients by a factor and gives the training loss of the same weights.
    """
    one, ten = evaluation_nats(1.0), evaluation_nats(COEFFICIENT_FACTOR)
    control = training_nats(1.0) != training_nats(COEFFICIENT_FACTOR)
    return finding(
        "C9.auxiliary",
        outcome_of(wrong=one != ten, can_tell=control),
        f"evaluation loss {one:.7f}, and {ten:.7f} with coefficients ten times as large",
        {"difference_nats": ten - one, "training_loss_moved": int(control)},
        0.0,
    )


def check_initial_loss(nats_per_token: float, vocab_size: int, *, zero_head: bool) -> Finding:
    """C9.initial_loss: before training no model has a loss below ln V, and a model with a zero head has the loss ln V.

    Args:
        nats_per_token: the evaluation loss of the untrained model.
        vocab_size: V, the number of ids in the softmax, special ids included.
        zero_head: whether the weights of the head start at zero. If the head does not start at zero, only a loss *below* ln V is a
            failure.
    """
    above = nats_per_token - math.log(vocab_size)
    below_chance = not math.isfinite(above) or above < -INITIAL_TOLERANCE_NATS
    return finding(
        "C9.initial_loss",
        outcome_of(wrong=below_chance or (zero_head and above > INITIAL_TOLERANCE_NATS), can_tell=True),
        f"initial loss {nats_per_token:.4f} nats, ln {vocab_size} = {math.log(vocab_size):.4f}",
        {"nats_above_chance": above},
        INITIAL_TOLERANCE_NATS,
    )


def _nats(example: Example, logits: Tensor) -> NDArray[np.float64]:
    """(B, T) negative log-probabilities of the targets in nats, by log-sum-exp in float64."""
    scores = logits.detach().numpy().astype(np.float64)
    top = scores.max(-1, keepdims=True)
    log_sum = np.log(np.exp(scores - top).sum(-1)) + top[..., 0]
    chosen = np.take_along_axis(scores, example.targets.numpy()[..., None], -1)[..., 0]
    return np.asarray(log_sum - chosen)


def _row(example: Example, row: int, scored: int) -> Example:
    """One row of an Example as a batch of one row. Only the first `scored` of the scored slots keep their loss weight."""
    group = next(group for group, rows in example.by_group() if rows.start <= row < rows.stop)
    one = only_rows(example, group, slice(row, row + 1))
    weight = one.loss_weight.clone()
    weight[:, weight[0].nonzero().flatten()[scored:]] = 0.0
    return replace(one, loss_weight=weight, loss_denominator=None)


def _relative(expected: float, value: float) -> float:
    return abs(expected - value) / max(abs(expected), 1e-12)
