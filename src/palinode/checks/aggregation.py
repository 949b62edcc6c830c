"""C9, the part about sums: losses recomputed by hand from logits, sums over sums, bytes, and the loss before training.

The trainer and the evaluator under audit are handed in as functions or as the numbers they reported; the arithmetic here is numpy
in float64 and shares no line with theirs. Legend: R rows, S slots, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from palinode.base.example import NO_SOURCE, Example, SpecialTokens, joined
from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome

HAND_TOLERANCE = 1e-6  # relative, float32 logits
GRADIENT_TOLERANCE = 1e-5  # of the largest entry: a gradient entry sums over many slots
SCORED_IN_SMALL, SCORED_IN_LARGE = 1, 99
INITIAL_TOLERANCE_NATS = 0.1
COEFFICIENT_FACTOR = 10.0

# micro-batches -> (loss, flat gradient) of one optimizer step over all of them: the same parameters every time, no dropout
LossAndGradient = Callable[[Sequence[Example]], tuple[float, NDArray[Any]]]


class Sums(Protocol):
    """What an evaluator reports for one pass."""

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
    """An evaluation recomputed by hand: sums over scored targets that are no special ids."""

    tokens_scored: int
    nats_sum: float
    bytes_scored: int
    hits: int
    special_targets: int
    largest_nats: float = 0.0
    smallest_nats: float = 0.0

    @property
    def tells_targets_apart(self) -> bool:
        """Whether some target costs more than another: a model with a zero head hides what the inputs were."""
        return self.largest_nats - self.smallest_nats > 1e-6 * abs(self.largest_nats)

    @property
    def bits_per_byte(self) -> float | None:
        return self.nats_sum / (math.log(2) * self.bytes_scored) if self.bytes_scored else None


def hand_loss(example: Example, logits: Tensor) -> float:
    """sum(weight * nats) / denominator of a whole batch, from its (R, S, V) logits."""
    weight = example.loss_weight.numpy().astype(np.float64)
    return float((weight * _nats(example, logits)).sum() / example.denominator)


def hand_sums(
    batches: Sequence[tuple[Example, Tensor]], specials: SpecialTokens, bytes_per_token: NDArray[Any]
) -> HandSums:
    """Evaluation sums over (Example, logits) pairs that cover a split once."""
    tokens, nats, total_bytes, hits, special = 0, 0.0, 0, 0, 0
    largest, smallest = -math.inf, math.inf
    table = np.zeros(specials.vocab_size, np.int64)
    table[: len(bytes_per_token)] = bytes_per_token
    for example, logits in batches:
        targets = example.targets.numpy()
        scored = (example.loss_weight.numpy() > 0) & (example.target_source.numpy() != NO_SOURCE)
        special += int((scored & (targets >= specials.first_id)).sum())
        tokens += int(scored.sum())
        each = _nats(example, logits)[scored]
        nats += float(each.sum())
        largest, smallest = each.max(initial=largest), each.min(initial=smallest)
        total_bytes += int(table[targets[scored]].sum())
        hits += int((logits.numpy().argmax(-1) == targets)[scored].sum())
    return HandSums(tokens, nats, total_bytes, hits, special, float(largest), float(smallest))


def check_training_loss(example: Example, logits: Tensor, reported_nats: float) -> Finding:
    """C9 iv for the trainer: the loss it reports for a batch is the one computed by hand from the same logits."""
    hand = hand_loss(example, logits)
    relative = abs(hand - reported_nats) / max(abs(hand), 1e-12)
    return _finding(
        "training_loss",
        "the training loss is sum(weight * nats) / denominator over the whole batch",
        "fail" if not relative <= HAND_TOLERANCE else "pass",
        f"reported {reported_nats:.7f}, by hand {hand:.7f} nats",
        {"relative_difference": _known(relative), "reported_nats": _known(reported_nats), "hand_nats": _known(hand)},
        HAND_TOLERANCE,
    )


def check_evaluation_sums(reported: Sums, hand: HandSums) -> Finding:
    """C9 iv and vii for the evaluator: tokens, bytes, hits and nats are those counted by hand, no special id among them.

    Positive control: the targets have different losses, so that another order, mask or mean would be another number.
    """
    relative = abs(hand.nats_sum - reported.nats_sum) / max(abs(hand.nats_sum), 1e-12)
    differs = [
        f"{name} is {getattr(reported, name)}, by hand {getattr(hand, name)}"
        for name in ("tokens_scored", "bytes_scored", "hits")
        if getattr(reported, name) != getattr(hand, name)
    ]
    if not relative <= HAND_TOLERANCE:
        differs.insert(0, f"nats_sum is {reported.nats_sum:.9g}, by hand {hand.nats_sum:.9g}")
    if not _close(reported.bits_per_byte, hand.bits_per_byte):
        differs.append(f"bits_per_byte is {reported.bits_per_byte}, by hand {hand.bits_per_byte}")
    if hand.special_targets:
        differs.append(f"{hand.special_targets} scored targets are special ids")
    outcome: CheckOutcome = "fail" if differs else "pass" if hand.tells_targets_apart else "could_not_tell"
    fine = f"{hand.tokens_scored} tokens, {hand.bytes_scored} bytes, {hand.nats_sum / max(1, hand.tokens_scored):.6f} nats/token"
    fine = f"as by hand: {fine}" + (
        "" if hand.tells_targets_apart else "; but this model gives every target the same loss"
    )
    return _finding(
        "evaluation_sums",
        "an evaluation is sums over scored targets that are no special ids: nats over tokens, bits over bytes",
        outcome,
        "; ".join(differs) or fine,
        {
            "relative_difference": _known(relative),
            "tokens_scored": hand.tokens_scored,
            "bytes_scored": hand.bytes_scored,
            "special_targets": hand.special_targets,
        },
        HAND_TOLERANCE,
    )


def check_split_bytes(
    bytes_scored: int, split_tokens: NDArray[Any], bytes_per_token: NDArray[Any], unscored: NDArray[Any] | None = None
) -> Finding:
    """C9 vii for a whole split: the bytes of all its tokens, less those of the tokens that are not scored, were scored.

    Args:
        bytes_scored: what the evaluation of the whole split reported.
        split_tokens: the ids of the split.
        unscored: ids that no slot predicts (bare ltr: the first of every window); default none.
    """
    table = np.asarray(bytes_per_token)
    whole = int(table[np.asarray(split_tokens)].sum())
    left_out = int(table[np.asarray(unscored)].sum()) if unscored is not None else 0
    difference = bytes_scored - (whole - left_out)
    return _finding(
        "split_bytes",
        "the bytes scored are those of the split, less the unscored tokens",
        "fail" if difference else "pass" if whole else "could_not_tell",
        f"{bytes_scored} bytes scored of {whole}, {left_out} of them in unscored tokens",
        {"bytes_difference": difference, "split_bytes": whole, "unscored_bytes": left_out},
        0.0,
    )


def check_sum_over_sum(step: LossAndGradient, example: Example) -> Finding:
    """C9 v: micro-batches of 1 and 99 scored tokens give the loss and the gradient of one batch of 100.

    Positive control: the two micro-batches' own means differ, so that a mean of means would show.

    Args:
        example: any Example of at least two rows. One row makes each micro-batch; where it scores one token alone, such as the
            answer of a task, all rows but the first make the large one.
    """
    findings: list[Finding] = []
    for row in range(example.inputs.shape[0]):  # the two means of some rows are the same by chance
        findings.append(_sum_over_sum(step, *_unlike(example, row)))
        if findings[-1].outcome != "could_not_tell":
            break
    return findings[-1]


def _unlike(example: Example, row: int) -> tuple[Example, Example]:
    """One scored token of a row; and the row after it, or where that has one alone, all other rows."""
    rows = example.inputs.shape[0]
    others = [(row + step) % rows for step in range(1, rows)]
    large = _rows(example, others[0], SCORED_IN_LARGE)
    if large.loss_weight.count_nonzero() <= SCORED_IN_SMALL:
        large = joined([_rows(example, other, SCORED_IN_LARGE) for other in others])
    return _rows(example, row, SCORED_IN_SMALL), large


def _sum_over_sum(step: LossAndGradient, small: Example, large: Example) -> Finding:
    """What two micro-batches say."""
    alone, others = step([small])[0], step([large])[0]
    one_loss, one_gradient = step([joined([small, large])])
    two_loss, two_gradient = step([small, large])
    loss = abs(one_loss - two_loss) / max(abs(one_loss), 1e-12)
    gradient = float(np.abs(one_gradient - two_gradient).max() / max(float(np.abs(one_gradient).max()), 1e-12))
    weights = float(small.loss_weight.sum()), float(large.loss_weight.sum())
    expected = (weights[0] * alone + weights[1] * others) / sum(weights)
    by_sums = abs(one_loss - expected) / max(abs(expected), 1e-12)
    control = abs((alone + others) / 2 - expected) > 100 * HAND_TOLERANCE * abs(expected)
    fails = not (loss <= HAND_TOLERANCE and gradient <= GRADIENT_TOLERANCE and by_sums <= 10 * HAND_TOLERANCE)
    return _finding(
        "sum_over_sum",
        "a batch is weighted by its scored tokens, however it is cut into micro-batches",
        "fail" if fails else "pass" if control else "could_not_tell",
        f"loss {one_loss:.7f} as one batch, {two_loss:.7f} as two of {weights[0]:.0f} and {weights[1]:.0f} scored tokens",
        {
            "relative_loss_difference": _known(loss),
            "relative_gradient_difference": _known(gradient),
            "mean_of_means_nats": _known((alone + others) / 2),
            "mean_of_means_would_show": int(control),
        },
        HAND_TOLERANCE,
    )


def check_auxiliary(evaluation_nats: Callable[[float], float], training_nats: Callable[[float], float]) -> Finding:
    """C9 vi: the evaluation loss is the same when every auxiliary coefficient is ten times as large.

    Args:
        evaluation_nats, training_nats: the loss of the same weights with all coefficients multiplied by a factor. The training
            loss must move (the positive control).
    """
    one, ten = evaluation_nats(1.0), evaluation_nats(COEFFICIENT_FACTOR)
    control = training_nats(1.0) != training_nats(COEFFICIENT_FACTOR)
    return _finding(
        "auxiliary",
        "no auxiliary term is part of an evaluation loss",
        "fail" if one != ten else "pass" if control else "could_not_tell",
        f"evaluation loss {one:.7f}, and {ten:.7f} with coefficients ten times as large",
        {"difference_nats": _known(ten - one), "training_loss_moved": int(control)},
        0.0,
    )


def check_initial_loss(nats_per_token: float, vocab_size: int, *, zero_head: bool) -> Finding:
    """C9 viii: before training a model with a zero head knows nothing (ln V); no other knows anything either.

    Args:
        nats_per_token: evaluation loss of the untrained model.
        vocab_size: V of the softmax, special ids included.
        zero_head: the head starts at zero; else only a loss *below* ln V is wrong.
    """
    above = nats_per_token - math.log(vocab_size)
    wrong = (
        not math.isfinite(above) or above < -INITIAL_TOLERANCE_NATS or (zero_head and above > INITIAL_TOLERANCE_NATS)
    )
    return _finding(
        "initial_loss",
        "an untrained model predicts no better than chance" + (", and with a zero head no worse" if zero_head else ""),
        "fail" if wrong else "pass",
        f"initial loss {nats_per_token:.4f} nats, ln {vocab_size} = {math.log(vocab_size):.4f}",
        {"nats_above_chance": _known(above)},
        INITIAL_TOLERANCE_NATS,
    )


def _nats(example: Example, logits: Tensor) -> NDArray[np.float64]:
    """(R, S) negative log-probabilities of the targets, by log-sum-exp in float64."""
    scores = logits.detach().numpy().astype(np.float64)
    top = scores.max(-1, keepdims=True)
    log_sum = np.log(np.exp(scores - top).sum(-1)) + top[..., 0]
    chosen = np.take_along_axis(scores, example.targets.numpy()[..., None], -1)[..., 0]
    return np.asarray(log_sum - chosen)


def _rows(example: Example, row: int, scored: int) -> Example:
    """One row of an Example as its own batch, with only its first `scored` scored slots left."""
    group = next(group for group, rows in example.by_group() if rows.start <= row < rows.stop)
    weight = example.loss_weight[row : row + 1].clone()
    weight[:, weight[0].nonzero().flatten()[scored:]] = 0.0
    cut: Mapping[str, Tensor] = {
        name: getattr(example, name)[row : row + 1]
        for name in ("inputs", "input_source", "targets", "target_source", "window_row")
    }
    return replace(example, **cut, loss_weight=weight, groups=(replace(group, rows=1),), loss_denominator=None)


def _close(reported: float | None, hand: float | None) -> bool:
    if reported is None or hand is None:
        return reported is hand
    return abs(reported - hand) <= HAND_TOLERANCE * abs(hand)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finding(
    check: str, law: str, outcome: CheckOutcome, message: str, numbers: Mapping[str, Any], threshold: float
) -> Finding:
    return Finding(
        check=f"C9.{check}", outcome=outcome, law=law, message=message, numbers=dict(numbers), threshold=threshold
    )
