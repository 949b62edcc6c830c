"""What the frequencies of tokens alone reach: a loss that is not below it says nothing of what a model can learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palinode.results.record import ExperimentRecord, ExperimentRun
from palinode.results.store import Store

# Where audits keep what counting reaches.
FLOOR, REFERENCE, ORDER_1 = "C8.text_floor", "C8.reference", "nats_per_token_order_1"


def token_frequencies(store: Store, record: ExperimentRecord) -> float | None:
    """Nats per token that the train split's token frequencies reach on the validation tokens, as the audits counted them."""
    wanted = next((numbers for run in record.runs for numbers in [ngrams_of(run)] if numbers), None)
    if wanted is None:
        return None
    order = f"nats_per_token_order_{wanted['ngram_order']:.0f}"
    for audit_hash in store.audits():
        report = store.audit(audit_hash)
        for finding in report.findings if report else ():
            known = finding.numbers if finding.check == REFERENCE else {}
            same = known.get("train_tokens") == wanted["ngram_train_tokens"]
            if same and known.get(order) == wanted["ngram_nats"]:
                return float(known[ORDER_1] or 0.0)
    return None


def ngrams_of(run: ExperimentRun) -> Mapping[str, Any] | None:
    """What the audit of a run held its losses against."""
    report = run.record.audit_report() if run.record is not None else None
    findings = report.findings if report is not None else ()
    return next((found.numbers for found in findings if found.check == FLOOR and "ngram_nats" in found.numbers), None)
