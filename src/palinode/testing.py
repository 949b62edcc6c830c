"""A function for the test suites of users: `assert_causal(model)` fails when a model can see its own answer."""

from __future__ import annotations

from torch import nn

from palinode.audit.any_model import CHECKS, QUICK, QUICK_CHECKS, CheckOptions, check
from palinode.audit.targets import WINDOW_TOKENS, vocabulary_of
from palinode.checks.text import audit_text


def assert_causal(
    model: nn.Module,
    *,
    vocab_size: int | None = None,
    window_tokens: int = WINDOW_TOKENS,
    quick: bool = True,
    options: CheckOptions | None = None,
) -> None:
    """Audit a model that predicts the next token; the model is not changed.

    Args:
        model: maps (B, T) token ids to (B, T, V) logits, or to an object with `.logits`.
        vocab_size: V; default: the number of ids of its first embedding.
        window_tokens: T, the length of a training window.
        quick: True runs checks C1 and C6 at this length only, in about a second for a small model; False runs all of `audit.check`.
        options: the `options` of `audit.check`. With them, `quick` only chooses which checks run.

    Raises:
        AssertionError: the audit as text, when a check failed.
        BadInput: ids beyond the vocabulary, or a forward that does not return logits.
    """
    name = type(model).__name__
    report = check(
        model,
        vocab_size=vocab_size or vocabulary_of(model, name),
        window_tokens=window_tokens,
        checks=QUICK_CHECKS if quick else CHECKS,
        name=name,
        options=options or (QUICK if quick else None),
    )
    if report.outcome == "fail":
        raise AssertionError(audit_text(report))
