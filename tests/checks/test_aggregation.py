"""C9 sums by hand: the honest trainer and evaluator agree with numpy, and each planted way of averaging is caught."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palinode.base.example import NO_SOURCE, Draw, SpecialTokens
from palinode.base.seeds import generator
from palinode.checks.aggregation import (
    check_auxiliary,
    check_evaluation_sums,
    check_initial_loss,
    check_split_bytes,
    check_sum_over_sum,
    check_training_loss,
    hand_loss,
    hand_sums,
)
from palinode.objectives import BothObjective, LtrObjective, RtlObjective
from palinode.objectives.probability import Constant

VOCABULARY, WINDOW = 12, 100
SPECIALS = SpecialTokens(VOCABULARY)
BYTES = np.arange(1, VOCABULARY + 1)


@dataclass
class Reported:
    """What an evaluator says of one pass."""

    tokens_scored: int
    nats_sum: float
    bytes_scored: int
    hits: int
    bits_per_byte: float | None


@pytest.fixture(scope="module")
def head():
    """A model without context is enough for sums: every slot's logits depend on its own input."""
    made = nn.Embedding(SPECIALS.vocab_size, SPECIALS.vocab_size)
    with torch.no_grad():
        made.weight.copy_(torch.randn(made.weight.shape, generator=generator(0, "head")))
    return made


@pytest.fixture(scope="module")
def windows():
    return torch.randint(VOCABULARY, (6, WINDOW), generator=generator(0, "windows"))


def nats(head, example):
    logits = head(example.inputs)
    return F.cross_entropy(logits.flatten(0, 1), example.targets.flatten(), reduction="none").view(
        example.targets.shape
    )


def both(windows, combine="sum"):
    objective = BothObjective(p=Constant(p=0.5), granularity="row", combine=combine)
    draw = Draw({"rtl": torch.arange(len(windows)) % 2 == 0})
    return objective.example(windows, draw, SPECIALS)


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_training_loss_by_hand(head, windows, combine):
    example = both(windows, combine)
    per_slot = nats(head, example)
    ltr, rtl = per_slot[:6], per_slot[6:]
    loss = ltr.mean() + rtl.sum() / ltr.numel() if combine == "sum" else per_slot.mean()
    finding = check_training_loss(example, head(example.inputs), loss.item())
    assert finding.outcome == "pass", finding.message
    wrong = per_slot.mean() if combine == "sum" else ltr.mean() + rtl.mean()
    assert check_training_loss(example, head(example.inputs), wrong.item()).outcome == "fail"


def test_training_loss_counts_weights(head, windows):
    example = LtrObjective().example(windows, Draw(), SPECIALS)
    weights = torch.rand(example.targets.shape, generator=generator(0, "weights")) + 0.1
    weighted = replace(example, loss_weight=weights)
    loss = (weights * nats(head, example)).sum() / weights.sum()
    assert check_training_loss(weighted, head(example.inputs), loss.item()).outcome == "pass"
    assert check_training_loss(weighted, head(example.inputs), nats(head, example).mean().item()).outcome == "fail"


def test_m38_an_auxiliary_term_in_the_loss_is_not_the_loss_by_hand(head, windows):
    example = LtrObjective().example(windows, Draw(), SPECIALS)
    logits = head(example.inputs)
    z_loss = 1e-4 * logits.logsumexp(-1).square().mean()
    assert check_training_loss(example, logits, nats(head, example).mean().item()).outcome == "pass"
    assert check_training_loss(example, logits, (nats(head, example).mean() + z_loss).item()).outcome == "fail"


def test_a_loss_that_is_not_a_number_fails(head, windows):
    example = LtrObjective().example(windows, Draw(), SPECIALS)
    assert check_training_loss(example, head(example.inputs), math.nan).outcome == "fail"


def evaluated(head, batches, bytes_of="targets", mean_of_ratios=False, special=False):
    """An evaluator in torch, with the defects as options."""
    table = torch.zeros(SPECIALS.vocab_size, dtype=torch.long)
    table[:VOCABULARY] = torch.from_numpy(BYTES)
    tokens, total, size, hits, ratios = 0, 0.0, 0, 0, []
    for example in batches:
        scored = (example.loss_weight > 0) & ((example.target_source != NO_SOURCE) | special)
        batch_nats = nats(head, example).double()[scored].sum().item()
        batch_bytes = int(table[getattr(example, bytes_of)][scored].sum())
        ratios.append(batch_nats / math.log(2) / batch_bytes)
        tokens += int(scored.sum())
        total += batch_nats
        size += batch_bytes
        hits += int((head(example.inputs).argmax(-1) == example.targets)[scored].sum())
    bits = sum(ratios) / len(ratios) if mean_of_ratios else total / math.log(2) / size
    return Reported(tokens, total, size, hits, bits)


def split_batches(windows, objective):
    """Two batches of unlike size, the last with a short window."""
    pieces = (windows[:4], windows[4:], windows[:1, :17])
    return [objective.example(piece, Draw(), SPECIALS) for piece in pieces]


def by_hand(head, batches):
    return hand_sums([(example, head(example.inputs).detach()) for example in batches], SPECIALS, BYTES)


@pytest.mark.parametrize("objective", [LtrObjective(), RtlObjective(), LtrObjective(direction_token=False)])
def test_evaluation_by_hand(head, windows, objective):
    batches = split_batches(windows, objective)
    finding = check_evaluation_sums(evaluated(head, batches), by_hand(head, batches))
    assert finding.outcome == "pass", finding.message
    assert finding.numbers["tokens_scored"] == sum(int(example.loss_weight.sum()) for example in batches)


def test_targets_without_weight_are_not_evaluated(head, windows):
    honest = LtrObjective().example(windows, Draw(), SPECIALS)
    answers = [replace(honest, loss_weight=torch.arange(WINDOW).gt(WINDOW // 2).float().expand(honest.targets.shape))]
    every_slot = evaluated(head, [honest])
    assert check_evaluation_sums(evaluated(head, answers), by_hand(head, answers)).outcome == "pass"
    finding = check_evaluation_sums(every_slot, by_hand(head, answers))
    assert (finding.outcome, "tokens_scored is 600, by hand 294" in finding.message) == ("fail", True)


def test_a_zero_head_hides_what_was_read(windows):
    blind = nn.Embedding(SPECIALS.vocab_size, SPECIALS.vocab_size)
    nn.init.zeros_(blind.weight)
    batches = split_batches(windows, LtrObjective())
    finding = check_evaluation_sums(evaluated(blind, batches), by_hand(blind, batches))
    assert (finding.outcome, "every target the same loss" in finding.message) == ("could_not_tell", True)


def test_m41_bits_per_byte_as_a_mean_of_batch_ratios(head, windows):
    batches = split_batches(windows, LtrObjective())
    finding = check_evaluation_sums(evaluated(head, batches, mean_of_ratios=True), by_hand(head, batches))
    assert (finding.outcome, "bits_per_byte is" in finding.message) == ("fail", True)


def test_m41_bytes_of_the_inputs(head, windows):
    batches = split_batches(windows, LtrObjective(direction_token=False))
    finding = check_evaluation_sums(evaluated(head, batches, bytes_of="inputs"), by_hand(head, batches))
    assert (finding.outcome, "bytes_scored is" in finding.message) == ("fail", True)


def test_m37_evaluation_with_masked_inputs(head, windows):
    honest = split_batches(windows, LtrObjective())
    rng = generator(0, "masks")
    masked = [
        replace(e, inputs=torch.where(torch.rand(e.inputs.shape, generator=rng) < 0.15, SPECIALS["[MASK]"], e.inputs))
        for e in honest
    ]
    finding = check_evaluation_sums(evaluated(head, masked), by_hand(head, honest))
    assert (finding.outcome, "nats_sum is" in finding.message) == ("fail", True)


def test_special_targets_in_an_evaluation_fail(head, windows):
    honest = LtrObjective().example(windows, Draw(), SPECIALS)
    targets, sources = honest.targets.clone(), honest.target_source.clone()
    targets[:, -1], sources[:, -1] = SPECIALS["[EOM]"], NO_SOURCE
    trained_on_special = [replace(honest, targets=targets, target_source=sources)]
    hand = by_hand(head, trained_on_special)
    assert hand.special_targets == 0  # left out, as it must be
    assert check_evaluation_sums(evaluated(head, trained_on_special), hand).outcome == "pass"
    assert check_evaluation_sums(evaluated(head, trained_on_special, special=True), hand).outcome == "fail"
    claimed = [replace(honest, targets=targets)]  # a special id that claims to be a token of the window
    assert "special ids" in check_evaluation_sums(evaluated(head, claimed), by_hand(head, claimed)).message


def test_bytes_of_a_split_add_up(head, windows):
    split = windows.flatten().numpy()
    whole = int(BYTES[split].sum())
    assert check_split_bytes(whole, split, BYTES).outcome == "pass"
    bare = evaluated(head, [LtrObjective(direction_token=False).example(windows, Draw(), SPECIALS)])
    assert check_split_bytes(bare.bytes_scored, split, BYTES).outcome == "fail"
    assert check_split_bytes(0, split, np.zeros(VOCABULARY, int)).outcome == "could_not_tell"


def stepper(head, batch_loss):
    """(micro-batches) -> loss and gradient of one optimizer step."""

    def step(examples):
        head.zero_grad()
        loss = batch_loss(head, examples)
        loss.backward()
        return loss.item(), head.weight.grad.numpy().copy().reshape(-1)

    return step


def sum_over_sum(head, examples):
    return sum((e.loss_weight * nats(head, e)).sum() for e in examples) / sum(e.denominator for e in examples)


def mean_of_means(head, examples):
    """M40: every micro-batch weighs the same."""
    return sum((e.loss_weight * nats(head, e)).sum() / e.denominator for e in examples) / len(examples)


def mean_over_rows(head, examples):
    """M40 one level deeper: the mean of the rows' means, the same however the batch is cut."""
    rows = [(e.loss_weight * nats(head, e)).sum(1) / e.loss_weight.sum(1) for e in examples]
    return torch.cat(rows).mean()


def test_m40_mean_of_micro_batch_means(head, windows):
    example = LtrObjective().example(windows, Draw(), SPECIALS)
    honest = check_sum_over_sum(stepper(head, sum_over_sum), example)
    assert honest.outcome == "pass", honest.message
    assert "two of 1 and 99 scored tokens" in honest.message
    for defect in (mean_of_means, mean_over_rows):
        assert check_sum_over_sum(stepper(head, defect), example).outcome == "fail"


def test_m40_in_the_gradient_alone(head, windows):
    """The reported loss is right; each micro-batch was divided by its own tokens before going backward."""

    def step(examples):
        head.zero_grad()
        (mean_of_means(head, examples)).backward()
        return sum_over_sum(head, examples).item(), head.weight.grad.numpy().copy().reshape(-1)

    finding = check_sum_over_sum(step, LtrObjective().example(windows, Draw(), SPECIALS))
    assert finding.outcome == "fail"
    assert finding.numbers["relative_loss_difference"] < 1e-6
    assert finding.numbers["relative_gradient_difference"] > 1e-3


def test_sum_over_sum_needs_unlike_micro_batches(windows):
    flat = nn.Embedding(SPECIALS.vocab_size, SPECIALS.vocab_size)
    nn.init.zeros_(flat.weight)  # every token costs ln V: a mean of means is the same number
    example = LtrObjective().example(windows, Draw(), SPECIALS)
    assert check_sum_over_sum(stepper(flat, mean_of_means), example).outcome != "pass"
    assert check_sum_over_sum(stepper(flat, sum_over_sum), example).outcome == "could_not_tell"


def test_sum_over_sum_with_short_windows(head, windows):
    example = RtlObjective().example(windows[:, :7], Draw(), SPECIALS)
    finding = check_sum_over_sum(stepper(head, sum_over_sum), example)
    assert (finding.outcome, "two of 1 and 7" in finding.message) == ("pass", True)


def test_sum_over_sum_where_every_row_scores_one_token(head, windows):
    """A task trained on its answer: one row in each micro-batch would weigh the same either way."""
    example = LtrObjective().example(torch.cat([windows] * 3)[:6], Draw(), SPECIALS)
    weight = torch.zeros_like(example.loss_weight)
    weight[:, 40] = 1.0
    one_each = replace(example, loss_weight=weight)
    finding = check_sum_over_sum(stepper(head, sum_over_sum), one_each)
    assert (finding.outcome, "two of 1 and 5 scored tokens" in finding.message) == ("pass", True)
    assert check_sum_over_sum(stepper(head, mean_of_means), one_each).outcome == "fail"


def test_sum_over_sum_looks_on_where_two_rows_are_alike(windows):
    """The first two rows cost the same per token, so they cannot show how they are weighted; the third can."""
    uneven = nn.Embedding(SPECIALS.vocab_size, SPECIALS.vocab_size)
    nn.init.zeros_(uneven.weight)
    with torch.no_grad():
        uneven.weight[3, 4] = 2.0
    rows = torch.full((3, WINDOW), 5)
    rows[2, ::2], rows[2, 1::2] = 3, 4
    example = LtrObjective().example(rows, Draw(), SPECIALS)
    assert check_sum_over_sum(stepper(uneven, sum_over_sum), example).outcome == "pass"
    assert check_sum_over_sum(stepper(uneven, mean_of_means), example).outcome == "fail"


def test_m38_coefficients_times_ten():
    def training(factor):
        return 2.5 + factor * 0.01

    assert check_auxiliary(lambda factor: 2.5, training).outcome == "pass"
    assert check_auxiliary(training, training).outcome == "fail"
    assert check_auxiliary(lambda factor: 2.5, lambda factor: 2.5).outcome == "could_not_tell"


@pytest.mark.parametrize(
    ("nats", "zero_head", "outcome"),
    [
        (math.log(267), True, "pass"),
        (math.log(267) + 0.09, True, "pass"),
        (math.log(267) + 0.11, True, "fail"),
        (math.log(267) - 0.11, True, "fail"),
        (math.log(267) + 3.0, False, "pass"),
        (math.log(267) - 0.11, False, "fail"),
        (math.inf, False, "fail"),
    ],
)
def test_initial_loss(nats, zero_head, outcome):
    assert check_initial_loss(nats, 267, zero_head=zero_head).outcome == outcome


def test_hand_loss_is_the_formula():
    example = LtrObjective().example(torch.tensor([[0, 1]]), Draw(), SPECIALS)
    logits = torch.zeros(1, 2, SPECIALS.vocab_size)
    logits[0, 1, 1] = math.log(5)
    v = SPECIALS.vocab_size
    assert hand_loss(example, logits) == pytest.approx((math.log(v) + math.log((v - 1 + 5) / 5)) / 2)
