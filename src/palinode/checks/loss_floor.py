"""C8: is a loss too good to be honest? Asked after every evaluation.

A text is a little harder to read from its end than from its start (1.000 to 1.03 times the loss), no predictor beats an exact
floor, and no model that fits a laptop halves the loss of counted n-grams. A loss below these lines is a leak until proven
otherwise.

A warning passes, with a message that starts with `warning:` and `warnings` above 0; only the lower lines fail.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome
from palinode.checks.laws import finding, outcome_of
from palinode.checks.rolling import Tokens
from palinode.checks.witten_bell import NgramScores, witten_bell

RATIO_WARN, RATIO_FAIL = 0.995, 0.97
NGRAM_WARN, NGRAM_FAIL = 0.7, 0.45
COMPRESSOR_WARN = 0.35
BITS_PER_BYTE_FAIL = 0.5
FALL_WARN = 0.3
NEAR_ZERO_NATS = 0.05
FALSE_ALARM = 1e-9
# Nats per token of the two directions differ with a standard deviation near 2 on text; a ratio is judged beyond 4 such errors.
DIRECTION_DEVIATION_NATS, DEVIATIONS = 2.0, 4.0
MAX_TRAIN_BYTES, MAX_HELD_OUT_BYTES = 1 << 20, 1 << 17  # xz takes about a second for each


@dataclass(frozen=True)
class TextFloor:
    """The losses that counting and compressing reach on a split, given the same train split. Made once for a corpus.

    Attributes:
        ngrams: Witten-Bell n-grams over token ids.
        compressor_bits_per_byte: xz of (train, held-out) minus xz of train; None without the bytes of the text.
    """

    ngrams: NgramScores
    compressor_bits_per_byte: float | None = None


def text_floor(
    train: Tokens,
    held_out: Tokens,
    vocab_size: int,
    *,
    train_text: bytes | None = None,
    held_out_text: bytes | None = None,
) -> TextFloor:
    """Both references of a split. `train_text` and `held_out_text` are the same splits as bytes, when there are any."""
    compressed = None
    if train_text and held_out_text:
        compressed = conditional_bits_per_byte(train_text, held_out_text)
    return TextFloor(witten_bell(train, held_out, vocab_size), compressed)


def conditional_bits_per_byte(train: bytes, held_out: bytes) -> float:
    """Bits that xz needs for a byte of the held-out text after the end of train (the last 1 MiB, then the first 128 KiB)."""
    before, new = train[-MAX_TRAIN_BYTES:], held_out[:MAX_HELD_OUT_BYTES]
    return 8 * (len(lzma.compress(before + new)) - len(lzma.compress(before))) / len(new)


def check_directions(
    nats_per_token: Mapping[str, float],
    tokens_scored: Mapping[str, int],
    trained_tokens: Mapping[str, float] | None = None,
) -> Finding:
    """C8.directions: the rtl loss over the ltr loss on the same tokens. Warns below 0.995, fails below 0.97.

    Args:
        nats_per_token, tokens_scored: of `ltr` and `rtl`, from one evaluation of the same windows.
        trained_tokens: targets scored in training, by direction. An rtl loss below ltr proves nothing when rtl had more of
            them; the fewer it had, the stranger such a loss is.
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


def check_exact_floor(
    nats_per_token: float, floor_nats: float, tokens_scored: int, *, trained_on: bool = False
) -> Finding:
    """C8.exact_floor: a loss is below the floor of its tokens by no more than ln(1e9) / n, a likelihood ratio bet at 1e-9.

    Args:
        floor_nats: mean of -ln p of the *same* scored tokens under the synthetic source itself, given everything that may be
            seen: ln V for uniform tokens. Not the entropy, which is only its expectation: 500 biased coins miss it by .03.
        trained_on: the loss is of finite training data: below the floor then means memorised, and passes with a warning.
    """
    allowed = math.log(1 / FALSE_ALARM) / max(1, tokens_scored)
    below = floor_nats - nats_per_token
    is_below = below > allowed
    message = f"loss {nats_per_token:.4f} nats, floor {floor_nats:.4f}, chance allows {allowed:.4f} below"
    can_tell = trained_on or allowed <= floor_nats
    if is_below and trained_on:
        message = f"warning: memorised training data: {message}"
    elif not is_below and not can_tell:
        message = f"{message}: no loss above 0 could have failed"
    return finding(
        "C8.exact_floor",
        outcome_of(wrong=is_below and not trained_on, can_tell=can_tell),
        message,
        {
            "nats_below_floor": below,
            "nats_per_token": nats_per_token,
            "floor_nats": floor_nats,
            "tokens_scored": tokens_scored,
            "warnings": int(is_below and trained_on),
        },
        allowed,
    )


def check_text_floor(
    nats_per_token: float, bits_per_byte: float | None, floor: TextFloor, train_nats_per_token: float | None = None
) -> Finding:
    """C8.text_floor: a loss on text against n-grams (warns below 0.7, fails below 0.45), xz (warns below 0.35), 0.5 bits per byte.

    Good small transformers reach 0.88 of the n-gram loss on a 1.1 MB play corpus; the published leak reached 0.2.
    """
    ngram, compressor = floor.ngrams, floor.compressor_bits_per_byte
    share = nats_per_token / ngram.nats
    failures, warnings = [], []
    if share < NGRAM_FAIL and not ngram.truncated:
        failures.append(f"below {NGRAM_FAIL} of the n-gram loss")
    elif share < NGRAM_WARN:
        warnings.append(f"below {NGRAM_WARN} of the n-gram loss")
    if bits_per_byte is not None and bits_per_byte < BITS_PER_BYTE_FAIL:
        failures.append(f"{bits_per_byte:.3f} bits per byte")
    if train_nats_per_token is not None and max(train_nats_per_token, nats_per_token) < NEAR_ZERO_NATS:
        failures.append("train and held-out loss are both near 0")
    if compressor is not None and bits_per_byte is not None and bits_per_byte < COMPRESSOR_WARN * compressor:
        warnings.append(f"below {COMPRESSOR_WARN} of what xz needs")
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
            "compressor_bits_per_byte": compressor,
            "warnings": len(warnings),
        },
        NGRAM_FAIL,
    )


def check_falls(evaluations: Sequence[tuple[int, float]]) -> Finding:
    """C8.falls: warns of a loss that falls by more than 30 % between two evaluations. Leaks are found suddenly, language is not.

    Args:
        evaluations: (optimizer step, nats per token) in order. The untrained model (step 0) is left out.
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
