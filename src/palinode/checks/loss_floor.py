"""C8: is the loss of a run on text too low to be honest?

A text is a little harder to predict from its end than from its start: the loss is 1.000 to 1.03 times as large. No model that fits
a laptop halves the loss of counted n-grams. A loss far below these values is taken as a sign of a leak.

A finding with a warning passes: its message starts with `warning:`, and its number `warnings` is above 0. Only a value beyond a
`*_FAIL` limit fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome
from palinode.checks.laws import finding, outcome_of
from palinode.checks.rolling import Hashes, Tokens, ngram_hashes

RATIO_WARN, RATIO_FAIL = 0.995, 0.97
NGRAM_WARN, NGRAM_FAIL = 0.7, 0.45
BITS_PER_BYTE_FAIL = 0.5
FALL_WARN = 0.3
# On text, the losses of a token in the two directions differ with a standard deviation of about 2 nats. A low ratio fails only if
# the difference of the mean losses is above 4 standard errors.
DIRECTION_DEVIATION_NATS, DEVIATIONS = 2.0, 4.0
MAX_ORDER = 6
MAX_TRAIN_TOKENS = 4_000_000  # tokens of train that are counted: 32 MB for each array, about 3 s
MAX_HELD_OUT_TOKENS = 400_000


@dataclass(frozen=True)
class NgramScores:
    """The mean nats per token of the held-out tokens for n-gram orders 1, 2 and so on; the tokens used; whether train was cut."""

    nats_by_order: tuple[float, ...]
    train_tokens: int
    held_out_tokens: int
    truncated: bool

    @property
    def best_order(self) -> int:
        return int(np.argmin(self.nats_by_order)) + 1

    @property
    def nats(self) -> float:
        return min(self.nats_by_order)


def check_directions(
    nats_per_token: Mapping[str, float],
    tokens_scored: Mapping[str, int],
    trained_tokens: Mapping[str, float] | None = None,
) -> Finding:
    """C8.directions: the rtl loss divided by the ltr loss on the same tokens. Warns below 0.995, fails below 0.97.

    Args:
        nats_per_token: the loss of `ltr` and of `rtl`, from one evaluation of the same windows.
        tokens_scored: the number of tokens that the evaluation scored, for `ltr` and for `rtl`.
        trained_tokens: the number of targets scored in training, by direction. An rtl loss below the ltr loss proves nothing when
            training scored more rtl targets; the fewer rtl targets it scored, the more suspicious the low loss is.
    """
    missing = [name for name in ("ltr", "rtl") if name not in nats_per_token]
    if missing:
        message = f"no loss for {' and '.join(missing)}"
        return finding("C8.directions", "could_not_tell", message, {}, RATIO_FAIL)
    ltr, rtl = nats_per_token["ltr"], nats_per_token["rtl"]
    ratio = rtl / ltr if ltr > 0 else math.inf
    scored = min(tokens_scored["ltr"], tokens_scored["rtl"])
    error_nats = DEVIATIONS * DIRECTION_DEVIATION_NATS / math.sqrt(max(1, scored))
    trained = trained_tokens or {}
    message = f"rtl / ltr = {ratio:.4f} on {scored} tokens"
    outcome: CheckOutcome = "pass"
    if tokens_scored["ltr"] != tokens_scored["rtl"]:
        outcome, message = "could_not_tell", f"{message}, but the two directions scored different tokens"
    elif ratio < RATIO_FAIL and trained.get("rtl", 0) > trained.get("ltr", math.inf):
        outcome, message = "could_not_tell", f"{message}, but rtl was trained on more tokens than ltr"
    elif ratio < RATIO_FAIL and ltr - rtl < error_nats:
        outcome, message = "could_not_tell", f"{message}; so few tokens allow {error_nats:.2f} nats by chance"
    elif ratio < RATIO_FAIL:
        outcome, message = "fail", f"{message}: no honest model reads a text better from its end"
    elif ratio < RATIO_WARN:
        message = f"warning: {message}; honest models reach 1.000 to 1.03"
    numbers = {
        "ratio": ratio,
        "ltr_nats_per_token": ltr,
        "rtl_nats_per_token": rtl,
        "tokens_scored": scored,
        "trained_ltr_tokens": trained.get("ltr"),
        "trained_rtl_tokens": trained.get("rtl"),
        "warnings": int(ratio < RATIO_WARN),
    }
    return finding("C8.directions", outcome, message, numbers, RATIO_FAIL)


def check_text_floor(nats_per_token: float, bits_per_byte: float | None, ngram: NgramScores) -> Finding:
    """C8.text_floor: a loss on text is not below 0.45 of the loss of n-grams (a warning below 0.7), nor below 0.5 bits per byte.

    Good small transformers reach 0.88 of the n-gram loss on a 1.1 MB play corpus; the published model with a leak reached 0.2.
    """
    share = nats_per_token / ngram.nats
    failures, warnings = [], []
    if share < NGRAM_FAIL and not ngram.truncated:
        failures.append(f"below {NGRAM_FAIL} of the n-gram loss")
    elif share < NGRAM_WARN:
        warnings.append(f"below {NGRAM_WARN} of the n-gram loss")
    if bits_per_byte is not None and bits_per_byte < BITS_PER_BYTE_FAIL:
        failures.append(f"{bits_per_byte:.3f} bits per byte")
    message = f"{nats_per_token:.4f} nats is {share:.2f} of the order-{ngram.best_order} n-gram loss {ngram.nats:.4f}"
    reasons = "; ".join([*failures, *warnings])
    prefix = "warning: " if warnings and not failures else ""
    return finding(
        "C8.text_floor",
        outcome_of(wrong=failures, can_tell=True),
        f"{prefix}{message}{': ' + reasons if reasons else ''}",
        {
            "share_of_ngram_loss": share,
            "nats_per_token": nats_per_token,
            "ngram_nats": ngram.nats,
            "ngram_order": ngram.best_order,
            "ngram_train_tokens": ngram.train_tokens,
            "bits_per_byte": bits_per_byte,
            "warnings": len(warnings),
        },
        NGRAM_FAIL,
    )


def check_falls(evaluations: Sequence[tuple[int, float]]) -> Finding:
    """C8.falls: warn of a loss that falls by more than 30 % between two evaluations.

    A model begins to use a leak suddenly; it learns language slowly.

    Args:
        evaluations: (optimizer step, nats per token) in order of steps. The check leaves out the untrained model (step 0).
    """
    trained = [(step, nats) for step, nats in evaluations if step > 0]
    falls = [
        (1 - after / before, start, end)
        for (start, before), (end, after) in zip(trained, trained[1:], strict=False)
        if before > 0
    ]
    worst, start, end = max(falls, default=(0.0, 0, 0))
    sudden = worst > FALL_WARN
    message = f"the largest fall is {worst:.0%}, between steps {start} and {end}"
    message = message if falls else "fewer than two evaluations"
    return finding(
        "C8.falls",
        outcome_of(wrong=False, can_tell=falls),
        f"warning: {message}" if sudden else message,
        {"largest_fall_relative": float(np.clip(worst, -1e6, 1)), "warnings": int(sudden)},
        FALL_WARN,
    )


def witten_bell(
    train: Tokens,
    held_out: Tokens,
    vocab_size: int,
    *,
    max_order: int = MAX_ORDER,
    max_train_tokens: int = MAX_TRAIN_TOKENS,
) -> NgramScores:
    """Count the n-grams of one split and score the other split, token by token from left to right, by Witten-Bell smoothing.

    The first tokens of the held-out split have a shorter context.

        p_j(w | h) = (count(h w) + kinds(h) * p_(j-1)(w | h without its first token)) / (count(h) + kinds(h))

    with p_0 = 1 / V, and kinds(h) the number of different tokens that follow h (Witten and Bell 1991; Chen and Goodman 1998, eq.
    17). The counts come from sorted hashes of n-grams, so a million tokens take about a second for all six orders.

    Args:
        train: the ids of the split that is counted.
        held_out: the ids of the split that is scored.
        vocab_size: V of the uniform order 0: the size of the tokenizer's vocabulary without special tokens.
        max_order: the largest n of the n-grams.
        max_train_tokens: the number of tokens of train that are used, from its start.
    """
    truncated = len(train) > max_train_tokens
    train, held_out = np.asarray(train[:max_train_tokens]), np.asarray(held_out[:MAX_HELD_OUT_TOKENS])
    probability = np.full(len(held_out), 1.0 / vocab_size)
    token_bits = max(1, int(max(train.max(initial=0), held_out.max(initial=0))).bit_length())
    nats = []
    for order in range(1, max_order + 1):
        _interpolate(probability, train, held_out, order, token_bits)
        nats.append(float(-np.log(probability).mean()))
    return NgramScores(tuple(nats), len(train), len(held_out), truncated)


def _interpolate(
    probability: NDArray[np.float64], train: Tokens, held_out: Tokens, order: int, token_bits: int
) -> None:
    """Raise the n-gram order of `probability` (one entry for each held-out token) by one, in place."""
    if len(train) < order or len(held_out) < order:
        return
    counted_ngrams, _, ngram_counts = _runs_of_equals(np.sort(_keys(train, order, token_bits)))
    counted_contexts, starts, context_kinds = _runs_of_equals(counted_ngrams >> np.uint64(token_bits))
    ngrams = _keys(held_out, order, token_bits)
    contexts = ngrams >> np.uint64(token_bits)
    times_seen = _looked_up(ngrams, counted_ngrams, ngram_counts)
    after = _looked_up(contexts, counted_contexts, np.add.reduceat(ngram_counts, starts))
    kinds = _looked_up(contexts, counted_contexts, context_kinds)
    counted = after > 0
    lower = probability[order - 1 :]
    lower[counted] = (times_seen + kinds * lower)[counted] / (after + kinds)[counted]


def _keys(tokens: Tokens, order: int, token_bits: int) -> Hashes:
    """One 64-bit key for each n-gram: the hash of its context above the id of its last token. One sort then groups equal contexts
    and equal n-grams.

    With 17 bits for the token, the expected number of pairs among 4 million contexts with the same 47-bit hash is .06.
    """
    contexts = ngram_hashes(tokens[: len(tokens) - 1], order - 1)[: len(tokens) - order + 1]
    last = tokens[order - 1 :].astype(np.uint64)
    return (contexts >> np.uint64(token_bits) << np.uint64(token_bits)) | last


def _runs_of_equals(ordered: Hashes) -> tuple[Hashes, NDArray[np.int64], NDArray[np.int64]]:
    """The distinct values of a sorted array, the index where each value starts, and the number of times that each value occurs."""
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return ordered[starts], starts, np.diff(np.append(starts, len(ordered)))


def _looked_up(hashes: Hashes, names: Hashes, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value that belongs to each hash; 0 where the hash has no value."""
    place = np.minimum(np.searchsorted(names, hashes), len(names) - 1)
    return np.where(names[place] == hashes, values[place], 0)
