"""C8: is a loss too good to be honest? Asked after every evaluation.

Reading a text from its end is a little harder than from its start (1.000 to 1.03 times the loss), no predictor beats an exact
floor, and none that fits a laptop halves what counting n-grams reaches. A loss below these lines is a leak until proven otherwise.

A warning passes with a message that starts with `warning:` and `warnings` above 0; only the failing lines fail.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome
from palinode.checks.rolling import Tokens
from palinode.checks.witten_bell import NgramScores, witten_bell

RATIO_WARN, RATIO_FAIL = 0.995, 0.97
NGRAM_WARN, NGRAM_FAIL = 0.7, 0.45
COMPRESSOR_WARN = 0.35
BITS_PER_BYTE_FAIL = 0.5
FALL_WARN = 0.3
NEAR_ZERO_NATS = 0.05
FALSE_ALARM = 1e-9
# Per-token nats of the two directions differ with a standard deviation near 2 on text; a ratio is judged beyond 4 such errors.
DIRECTION_DEVIATION_NATS, DEVIATIONS = 2.0, 4.0
MAX_TRAIN_BYTES, MAX_HELD_OUT_BYTES = 1 << 20, 1 << 17  # xz takes about a second for each


@dataclass(frozen=True)
class TextFloor:
    """What counting and compressing reach on a split, from the same train split. Made once for a corpus.

    Attributes:
        ngrams: Witten-Bell n-grams over token ids.
        compressor_bits_per_byte: xz of (train, held-out) minus xz of train; None without the text's bytes.
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
    """Bits that xz needs for a byte of the held-out text once it has read the end of train (1 MiB, then 128 KiB)."""
    known, new = train[-MAX_TRAIN_BYTES:], held_out[:MAX_HELD_OUT_BYTES]
    return 8 * (len(lzma.compress(known + new)) - len(lzma.compress(known))) / len(new)


def check_directions(
    nats_per_token: Mapping[str, float],
    tokens_scored: Mapping[str, int],
    trained_tokens: Mapping[str, float] | None = None,
) -> Finding:
    """The rtl loss over the ltr loss on the same tokens: warn below .995, fail below .97.

    Args:
        nats_per_token, tokens_scored: of `ltr` and `rtl`, from one evaluation of the same windows.
        trained_tokens: targets scored in training, by direction. An rtl loss below ltr proves nothing when rtl had more of
            them; the fewer it had, the stranger it is.
    """
    missing = [name for name in ("ltr", "rtl") if name not in nats_per_token]
    if missing:
        return _directions_finding("could_not_tell", f"no loss for {' and '.join(missing)}", {})
    ltr, rtl = nats_per_token["ltr"], nats_per_token["rtl"]
    ratio = rtl / ltr if ltr > 0 else math.inf
    scored = min(tokens_scored["ltr"], tokens_scored["rtl"])
    error_nats = DEVIATIONS * DIRECTION_DEVIATION_NATS / math.sqrt(max(1, scored))
    seen = trained_tokens or {}
    numbers = {
        "ratio": ratio if math.isfinite(ratio) else None,
        "ltr_nats_per_token": ltr,
        "rtl_nats_per_token": rtl,
        "tokens_scored": scored,
        "trained_ltr_tokens": seen.get("ltr"),
        "trained_rtl_tokens": seen.get("rtl"),
        "warnings": int(ratio < RATIO_WARN),
    }
    message = f"rtl / ltr = {ratio:.4f} on {scored} tokens"
    outcome: CheckOutcome = "pass"
    if tokens_scored["ltr"] != tokens_scored["rtl"]:
        outcome, message = "could_not_tell", f"{message}, but the two directions scored different tokens"
    elif ratio < RATIO_FAIL and seen.get("rtl", 0) > seen.get("ltr", math.inf):
        outcome, message = "could_not_tell", f"{message}, but rtl was trained on more tokens than ltr"
    elif ratio < RATIO_FAIL and ltr - rtl < error_nats:
        outcome, message = "could_not_tell", f"{message}; so few tokens allow {error_nats:.2f} nats by chance"
    elif ratio < RATIO_FAIL:
        outcome, message = "fail", f"{message}: no honest model reads a text better from its end"
    elif ratio < RATIO_WARN:
        message = f"warning: {message}; honest models were seen between 1.000 and 1.03"
    return _directions_finding(outcome, message, numbers)


def check_exact_floor(
    nats_per_token: float, floor_nats: float, tokens_scored: int, *, trained_on: bool = False
) -> Finding:
    """A loss below the floor of its tokens by more than chance allows: ln(1e9) / n, exactly (a likelihood ratio bet at 1e-9).

    Args:
        floor_nats: mean of -ln p of the *same* scored tokens under the synthetic source itself, given everything that may be
            seen: ln V for uniform tokens. Not the entropy, which is only its expectation: 500 biased coins miss it by .03.
        trained_on: the loss is of finite training data: below the floor then means memorised, and passes with a note.
    """
    allowed = math.log(1 / FALSE_ALARM) / max(1, tokens_scored)
    below = floor_nats - nats_per_token
    outcome: CheckOutcome = "fail" if below > allowed else "pass"
    message = f"loss {nats_per_token:.4f} nats, floor {floor_nats:.4f}, chance allows {allowed:.4f} below"
    if outcome == "fail" and trained_on:
        outcome, message = "pass", f"warning: memorised training data: {message}"
    if allowed > floor_nats and outcome == "pass" and not trained_on:
        outcome, message = "could_not_tell", f"{message}: no loss above 0 could have failed"
    return Finding(
        check="C8.exact_floor",
        outcome=outcome,
        law="no predictor beats the entropy of its source",
        message=message,
        numbers={
            "nats_below_floor": below,
            "nats_per_token": nats_per_token,
            "floor_nats": floor_nats,
            "tokens_scored": tokens_scored,
            "warnings": int(below > allowed and trained_on),
        },
        threshold=allowed,
    )


def check_text_floor(
    nats_per_token: float, bits_per_byte: float | None, floor: TextFloor, train_nats_per_token: float | None = None
) -> Finding:
    """A loss on natural text against n-grams (warn .7, fail .45), the compressor (warn .35) and .5 bits per byte (fail).

    Good small transformers reach .88 of the n-gram loss on a 1.1 MB play corpus; the published leak reached .2.
    """
    ngram = floor.ngrams
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
    compressor = floor.compressor_bits_per_byte
    if compressor is not None and bits_per_byte is not None and bits_per_byte < COMPRESSOR_WARN * compressor:
        warnings.append(f"below {COMPRESSOR_WARN} of what xz needs")
    told = f"{nats_per_token:.4f} nats is {share:.2f} of the order-{ngram.best_order} n-gram loss {ngram.nats:.4f}"
    reasons = "; ".join([*failures, *warnings])
    prefix = "warning: " if warnings and not failures else ""
    return Finding(
        check="C8.text_floor",
        outcome="fail" if failures else "pass",
        law="a small model of text does not halve the loss of n-grams counted on the same train split",
        message=f"{prefix}{told}{': ' + reasons if reasons else ''}",
        numbers={
            "share_of_ngram_loss": share,
            "nats_per_token": nats_per_token,
            "ngram_nats": ngram.nats,
            "ngram_order": ngram.best_order,
            "ngram_train_tokens": ngram.train_tokens,
            "bits_per_byte": bits_per_byte,
            "compressor_bits_per_byte": compressor,
            "warnings": len(warnings),
        },
        threshold=NGRAM_FAIL,
    )


def check_falls(evaluations: Sequence[tuple[int, float]]) -> Finding:
    """A loss that falls by more than 30 % between two evaluations warns: leaks are found suddenly, language is not.

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
    told = (
        f"the largest fall is {worst:.0%}, between steps {start} and {end}" if falls else "fewer than two evaluations"
    )
    return Finding(
        check="C8.falls",
        outcome="pass" if falls else "could_not_tell",
        law="the loss does not fall suddenly",
        message=f"warning: {told}" if sudden else told,
        numbers={"largest_fall_relative": float(np.clip(worst, -1e6, 1)), "warnings": int(sudden)},
        threshold=FALL_WARN,
    )


def _directions_finding(outcome: CheckOutcome, message: str, numbers: Mapping[str, float | int | None]) -> Finding:
    return Finding(
        check="C8.directions",
        outcome=outcome,
        law="rtl is no easier than ltr on the same tokens",
        message=message,
        numbers=dict(numbers),
        threshold=RATIO_FAIL,
    )
