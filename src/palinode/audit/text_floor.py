"""The loss of n-gram counts on the evaluated split. All runs on one text share this loss, so it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palinode.audit.cache import cached_part, part_key
from palinode.base.config import encode
from palinode.base.finding import Finding
from palinode.checks.laws import finding
from palinode.checks.loss_floor import NgramScores, witten_bell
from palinode.data.config import VALIDATION
from palinode.data.source import WithTokenizer
from palinode.data.store import TokenStore
from palinode.results.store import Store
from palinode.spec.run_spec import RunSettings

CHECK = "C8.reference"
ORDER = "nats_per_token_order_"


def floor_of(settings: RunSettings, data: TokenStore | WithTokenizer, store: Store | None) -> NgramScores:
    """The n-gram loss on the tokens that this evaluation reads.

    The function takes the loss from the store when the store holds it.
    """
    report = cached_part(store, "text floor", _key(settings, data), lambda: (_measured(settings, data),))
    return _decoded(report.findings[0].numbers)


def _key(settings: RunSettings, data: TokenStore | WithTokenizer) -> str:
    tokens = {split: len(data.tokens(split)) for split in ("train", VALIDATION)}
    return part_key("text_floor", encode(settings.data), data.sha256, tokens, settings.evaluation.max_tokens)


def _measured(settings: RunSettings, data: TokenStore | WithTokenizer) -> Finding:
    held_out = data.tokens(VALIDATION)[: settings.evaluation.max_tokens]
    ngrams = witten_bell(data.tokens("train"), held_out, data.vocab_size)
    return finding(
        CHECK,
        "pass",
        f"n-grams of order {ngrams.best_order} reach {ngrams.nats:.4f} nats per token",
        {
            **{f"{ORDER}{order}": nats for order, nats in enumerate(ngrams.nats_by_order, start=1)},
            "train_tokens": ngrams.train_tokens,
            "held_out_tokens": ngrams.held_out_tokens,
            "truncated": int(ngrams.truncated),
        },
    )


def _decoded(numbers: Mapping[str, Any]) -> NgramScores:
    orders = sum(name.startswith(ORDER) for name in numbers)
    return NgramScores(
        nats_by_order=tuple(float(numbers[f"{ORDER}{order}"]) for order in range(1, orders + 1)),
        train_tokens=int(numbers["train_tokens"]),
        held_out_tokens=int(numbers["held_out_tokens"]),
        truncated=bool(numbers["truncated"]),
    )
