"""A label mask changes the weights of the loss and nothing else, in either direction and for mixtures of them."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palinode import BothObjective, ChooseObjective, Constant, LtrObjective, MaskedInputObjective, RtlObjective
from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens, Windows
from palinode.base.seeds import generator
from palinode.objectives import Progress
from palinode.objectives.label_mask import chosen_tokens, masked

SPECIALS = SpecialTokens(7)
OBJECTIVES = (
    LtrObjective(),
    LtrObjective(direction_token=False),
    RtlObjective(),
    BothObjective(p=Constant(p=1.0)),
    BothObjective(p=Constant(p=1.0), combine="mean"),
    ChooseObjective(p=Constant(p=0.5)),
    MaskedInputObjective(rate=0.4),
)


def windows_of(seed: int, count: int = 5, length: int = 9, *, marked: bool = True) -> Windows:
    rng = generator(seed, "windows")
    tokens = torch.randint(0, 7, (count, length), generator=rng)
    return Windows(tokens, torch.rand(count, length, generator=rng) < 0.4 if marked else None)


def example_of(objective, windows: Windows):
    draw = objective.draw(*windows.tokens.shape, generator(0, "objective"), Progress(0, 10))
    return objective.example(windows.tokens, windows.decisions(draw), SPECIALS)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("labels", ["answer", "last"])
@given(seed=st.integers(0, 1000))
def test_only_weights_change_and_only_to_the_answers(objective, labels, seed):
    windows = windows_of(seed)
    plain = example_of(objective, windows)
    masked_example = masked(plain, windows, labels)
    for name in (field.name for field in fields(plain)):
        if name not in ("loss_weight", "loss_denominator"):
            before, after = getattr(plain, name), getattr(masked_example, name)
            assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after
    for row in range(len(plain.inputs)):
        window = int(plain.window_row[row])
        answers = windows.answers[window].nonzero().flatten().tolist()
        wanted = set(answers if labels == "answer" else answers[-1:])
        for slot, source in enumerate(plain.target_source[row].tolist()):
            expected = float(plain.loss_weight[row, slot]) if source in wanted else 0.0
            assert float(masked_example.loss_weight[row, slot]) == expected


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_all_labels_are_no_mask(objective):
    windows = windows_of(1)
    plain = example_of(objective, windows)
    assert masked(plain, windows, "all") is plain


def test_a_sum_of_two_directions_stays_a_sum():
    """`both` divides by the ltr targets: masked, by the masked ltr targets, so that rtl is not weighted down."""
    windows = windows_of(3)
    masked_example = masked(example_of(BothObjective(p=Constant(p=1.0)), windows), windows, "answer")
    assert masked_example.denominator == pytest.approx(float(windows.answers.sum()))
    assert float(masked_example.loss_weight.sum()) == 2 * float(windows.answers.sum())


@pytest.mark.parametrize("granularity", ["batch", "row"])
def test_a_sum_of_two_directions_counts_what_its_ltr_pass_scores(granularity):
    objective = BothObjective(p=Constant(p=0.7), granularity=granularity)
    windows = windows_of(3)
    masked_example = masked(example_of(objective, windows), windows, "answer")
    assert masked_example.denominator == pytest.approx(float(windows.answers.sum()))


@pytest.mark.parametrize(("answer_at", "scorer"), [(0, RtlObjective), (8, LtrObjective)])
def test_a_pass_that_can_score_no_label_does_not_weaken_the_other(answer_at, scorer):
    """Without a direction token ltr never scores the first token, nor rtl the last: their sum is then the other's mean loss."""
    answers = torch.zeros(5, 9, dtype=torch.bool)
    answers[:, answer_at] = True
    windows = Windows(windows_of(3).tokens, answers)
    both = masked(example_of(BothObjective(p=Constant(p=1.0), direction_token=False), windows), windows, "answer")
    alone = masked(example_of(scorer(direction_token=False), windows), windows, "answer")
    assert both.denominator == pytest.approx(alone.denominator) == 5
    assert float(both.loss_weight.sum()) == float(alone.loss_weight.sum())


def test_the_last_label_of_text_is_the_last_token():
    windows = windows_of(0, marked=False)
    assert chosen_tokens(windows, "last").nonzero()[:, 1].tolist() == [8] * 5
    with pytest.raises(BadInput, match="only a task marks answers"):
        chosen_tokens(windows, "answer")
