"""C8: is the loss of a run on text too good to be honest?

A text is a little harder to read from its end than from its start (1.000 to 1.03 times the loss), and no model that fits a laptop
halves the loss of counted n-grams. A loss below these limits counts as a leak until the contrary is shown.

A warning passes, with a message that starts with `warning:` and `warnings` above 0; only the lower limits fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome
from palinode.checks.laws import finding, outcome_of
from palinode.checks.witten_bell import NgramScores

RATIO_WARN, RATIO_FAIL = 0.995, 0.97
NGRAM_WARN, NGRAM_FAIL = 0.7, 0.45
BITS_PER_BYTE_FAIL = 0.5
FALL_WARN = 0.3
# Nats per token of the two directions differ with a standard deviation near 2 on text; a ratio is judged beyond 4 such errors.
DIRECTION_DEVIATION_NATS, DEVIATIONS = 2.0, 4.0


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


def check_text_floor(nats_per_token: float, bits_per_byte: float | None, ngram: NgramScores) -> Finding:
    """C8.text_floor: a loss on text against that of n-grams (warns below 0.7, fails below 0.45), and against 0.5 bits per byte.

    Good small transformers reach 0.88 of the n-gram loss on a 1.1 MB play corpus; the published leak reached 0.2.
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
