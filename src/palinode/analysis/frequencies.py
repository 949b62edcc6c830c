"""The loss that token frequencies alone reach. A model above it has learned nothing of the order of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palinode.results.record import ExperimentRecord, ExperimentRun
from palinode.results.store import Store

# The findings of audits that keep what counting n-grams reaches, and the number for single tokens.
TEXT_FLOOR, REFERENCE, ORDER_1 = "C8.text_floor", "C8.reference", "nats_per_token_order_1"


def token_frequencies(store: Store, record: ExperimentRecord) -> float | None:
    """Nats per validation token for the token frequencies of the train split, as the audits counted them.

    Returns:
        None where no audit of the store counted them for the data of this experiment.
    """
    counted = next((numbers for run in record.runs if (numbers := _ngrams(run))), None)
    if counted is None:
        return None
    order = f"nats_per_token_order_{counted['ngram_order']:.0f}"
    for audit_hash in store.audits():
        report = store.audit(audit_hash)
        for finding in report.findings if report else ():
            numbers = finding.numbers if finding.check == REFERENCE else {}
            same_data = numbers.get("train_tokens") == counted["ngram_train_tokens"]
            if same_data and numbers.get(order) == counted["ngram_nats"]:
                return float(numbers[ORDER_1] or 0.0)
    return None


def _ngrams(run: ExperimentRun) -> Mapping[str, Any] | None:
    """The n-gram loss that the audit of a run compared its losses with."""
    report = run.record.audit_report() if run.record is not None else None
    findings = report.findings if report is not None else ()
    return next((f.numbers for f in findings if f.check == TEXT_FLOOR and "ngram_nats" in f.numbers), None)
