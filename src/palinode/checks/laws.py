"""The law of every check, by the check's code, and the function that makes a finding from a measurement.

The codes are stored with every audit and never change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome

LARGEST = 1e9  # an infinite or undefined difference is stored as this value
LAWS: Mapping[str, str] = {
    "C1.provenance": "with the same Draw, replacing token s changes the ids whose source is s, and nothing else",
    "C1.identity": "inputs[i] is window[input_source[i]] and targets[i] is window[target_source[i]], wherever a source is given",
    "C1.perturbation": "no target is influenced by itself, or by a window token that may_inform forbids",
    "C1.two-sided": "every target is influenced by its nearest allowed token, and by all allowed tokens within reach",
    "C1.neighbours": "the logits of a window do not depend on the other windows of its batch",
    "C1.prefix": "the logits of a token do not depend on how much text lies beyond it",
    "C1.memory": "a call leaves nothing behind: a row gets the same logits after another row as before it",
    "C1.gradient": "no gradient flows from the logits of a target to the embedding of itself or of a forbidden token",
    "C2.canary": "on independent uniform tokens no honest model beats ln V: the evidence stays below e^20.7 (P <= 1e-9)",
    "C2.frozen": "with frozen weights the mean loss on new uniform tokens is below ln V by at most ln(1e9) / tokens",
    "C2.neighbours": "no honest model predicts a uniform row better when the batch holds shifted copies of it",
    "C2.markov": "no honest model beats the true conditional probability of a Markov chain, given all that it may see",
    "C2.markov-excess": "a model that uses all that it may see comes within 0.05 nat of the lowest loss on the Markov chain",
    "C3.repeats": "two evaluations of the same weights give the same bits",
    "C3.leaves_no_trace": "evaluation changes no parameter, no optimizer state, no mode flag and no random generator",
    "C3.training_undisturbed": "evaluating after every step changes neither the weights nor the next batch",
    "C3.batching": "the loss does not depend on the batch size or on the order of the windows",
    "C4.exact_windows": "no held-out window occurs in the train split, at any offset",
    "C4.half_windows": "held-out windows share half of themselves with train no more often than windows of two parts of train do",
    "C4.training_stream": "the windows that the trainer reads lie in the train split, and an epoch reads each once",
    "C4.ngram_overlap": "held-out n-grams occur in train no more often than n-grams of one part of train occur in another part",
    "C4.longest_run": "the longest run of tokens that both splits hold is no longer than chance and quotation explain",
    "C4.prompt_splits": "the splits of a synthetic task share no prompt",
    "C5.runs": "no run of any arm is missing or was dropped",
    "C5.counters": "the counters of a run are those that its spec implies",
    "C5.declared_axis": "the cost that the experiment declares equal is equal in all arms, to 0.1 %",
    "C5.parameters": "every arm has the same number of parameters, to 1 %, unless the arms change the model on purpose",
    "C5.selection": "every arm had the same number of tuning trials, tuning tokens and evaluations",
    "C5.differences": "every other difference above 1 % is printed",
    "C6.generation": "logits during generation equal the logits of one pass over the finished text",
    "C6.nats": "logits and nats per token of fixed windows are the same step by step and in one pass",
    "C6.state": "logits computed from the kept state, in chunks of any size, equal the logits of one pass",
    "C7.collapse": "an auxiliary term falls because its pairs come to agree, not because both sides vanish",
    "C7.probe": "an auxiliary term falls because its pairs come to agree, not because both sides vanish",
    "C8.directions": "the rtl loss is not below 0.97 of the ltr loss on the same tokens",
    "C8.text_floor": "a small model of text does not halve the loss of n-grams counted on the same train split",
    "C8.reference": "the n-grams are counted on the same two splits as the losses that are compared with them",
    "C8.falls": "the loss does not fall suddenly between two evaluations",
    "C9.copies": "a scored target equals the id at its own slot only by chance",
    "C9.streams": "every random stream of a run is its own",
    "C9.training_loss": "the training loss is sum(weight * nats) / denominator over the whole batch",
    "C9.evaluation_sums": "an evaluation is sums over scored targets that are no special ids: nats over tokens, bits over bytes",
    "C9.every_token": "an ltr or rtl evaluation of all labels scores every window token that training scores, once",
    "C9.split_bytes": "the bytes scored are those of the split",
    "C9.sum_over_sum": "a batch is weighted by its scored tokens, however it is cut into micro-batches",
    "C9.auxiliary": "no auxiliary term is part of an evaluation loss",
    "C9.auxiliary_causal": "the state that a slot is compared with depends on no later slot, and not on the length of the row",
    "C9.initial_loss": "an untrained model predicts no better than chance, and no worse where its head starts at zero",
}


def finding(
    check: str,
    outcome: CheckOutcome,
    message: str,
    numbers: Mapping[str, Any],
    threshold: float | None = None,
    *,
    reproduce: Mapping[str, Any] | None = None,
    pictures: Mapping[str, tuple[tuple[float, ...], ...]] | None = None,
) -> Finding:
    """A finding of this check, with the law of the check. A number that is not finite is stored as None: JSON has no infinity.

    Raises:
        KeyError: the check has no law.
    """
    stored = {name: None if _is_not_finite(number) else number for name, number in numbers.items()}
    return Finding(
        check=check,
        outcome=outcome,
        law=LAWS[check],
        message=message,
        numbers=stored,
        threshold=threshold,
        reproduce=reproduce or {},
        pictures=pictures or {},
    )


def outcome_of(*, wrong: object, can_tell: object) -> CheckOutcome:
    """The outcome of a measurement: a violation fails; without a violation the check passes only if its positive control worked."""
    return "fail" if wrong else "pass" if can_tell else "could_not_tell"


def _is_not_finite(number: object) -> bool:
    return isinstance(number, float) and not math.isfinite(number)
