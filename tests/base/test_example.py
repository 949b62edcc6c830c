"""Examples refuse what does not fit together, and are built from sources, so that ids and sources cannot disagree."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palinode.base.example import NO_SOURCE, SPECIAL_NAMES, Draw, Example, Group, SpecialTokens, joined, one_pass
from palinode.base.visibility import Ltr, Rtl

WINDOWS = torch.tensor([[10, 11, 12], [20, 21, 22]])


def simple(windows=WINDOWS, **options):
    sources = torch.arange(windows.shape[1])
    return one_pass(
        windows, name="ltr", sees=Ltr(), input_source=sources - 1, target_source=sources, special_input=99, **options
    )


def test_special_ids_follow_the_vocabulary():
    specials = SpecialTokens(256)
    assert specials["[L]"] == 256
    assert [specials[name] for name in SPECIAL_NAMES] == list(range(256, specials.vocab_size))
    with pytest.raises(ValueError, match="not in"):
        specials["[X]"]


def test_one_pass_gathers():
    example = simple()
    assert example.inputs.tolist() == [[99, 10, 11], [99, 20, 21]]
    assert example.input_source.tolist() == [[-1, 0, 1]] * 2
    assert example.targets.tolist() == WINDOWS.tolist()
    assert example.loss_weight.tolist() == [[1.0] * 3] * 2
    assert example.loss_weight.dtype == torch.float32
    assert example.window_row.tolist() == [0, 1]
    assert example.groups == (Group("ltr", Ltr(), 2),)


def test_one_pass_over_chosen_rows_with_sources_of_their_own():
    sources = torch.tensor([[2, NO_SOURCE], [0, 1], [1, 1]])
    example = one_pass(
        WINDOWS,
        name="any",
        sees=Ltr(),
        input_source=sources,
        target_source=sources.flip(1),
        special_input=torch.tensor([[7, 8]] * 3),
        special_target=5,
        window_row=torch.tensor([1, 0, 1]),
    )
    assert example.inputs.tolist() == [[22, 8], [10, 11], [21, 21]]
    assert example.targets.tolist() == [[5, 22], [11, 10], [21, 21]]
    assert example.loss_weight.tolist() == [[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]  # a special target is not scored


def test_weights_may_be_given():
    weights = torch.tensor([[0.0, 0.5, 1.0]])
    assert simple(loss_weight=weights).loss_weight.tolist() == [[0.0, 0.5, 1.0]] * 2
    assert simple(loss_weight=weights).denominator == 3.0


@given(batch=st.integers(1, 4), length=st.integers(1, 5), data=st.data())
def test_ids_are_where_their_sources_say(batch, length, data):
    rows = data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=5))
    slots = data.draw(st.integers(1, 6))
    sources = torch.tensor(
        data.draw(
            st.lists(
                st.lists(st.integers(-1, length - 1), min_size=slots, max_size=slots),
                min_size=len(rows),
                max_size=len(rows),
            )
        )
    )
    windows = torch.arange(batch * length).reshape(batch, length)
    example = one_pass(
        windows, name="x", sees=Ltr(), input_source=sources, target_source=sources, special_input=-5,
        special_target=-6, window_row=torch.tensor(rows),
    )  # fmt: skip
    for row, window in enumerate(rows):
        for slot in range(slots):
            source = int(sources[row, slot])
            assert example.inputs[row, slot] == (-5 if source < 0 else windows[window, source])
            assert example.targets[row, slot] == (-6 if source < 0 else windows[window, source])
            assert example.loss_weight[row, slot] == float(source >= 0)


def test_joined_passes_keep_rows_and_groups():
    first, second = simple(), simple(window_row=torch.tensor([1]))
    both = joined([first, replace(second, groups=(Group("rtl", Rtl(), 1),))], loss_denominator=6.0)
    assert both.inputs.shape == (3, 3)
    assert both.window_row.tolist() == [0, 1, 1]
    assert [(group.name, rows.start, rows.stop) for group, rows in both.by_group()] == [("ltr", 0, 2), ("rtl", 2, 3)]
    assert both.denominator == 6.0
    assert joined([first]).denominator == 6.0  # one pass: the sum of its weights
    assert joined([first], 2.5).denominator == 2.5


def test_passes_without_rows_are_left_out():
    nothing = simple(window_row=torch.tensor([], dtype=torch.long))
    assert [group.name for group, _ in joined([nothing, simple()]).by_group()] == ["ltr"]


@pytest.mark.parametrize("name", ["input_source", "targets", "target_source", "loss_weight"])
def test_fields_of_another_shape_are_refused(name):
    example = simple()
    with pytest.raises(ValueError, match=f"{name} is"):
        replace(example, **{name: getattr(example, name)[:, :2]})


def test_groups_must_cover_the_rows():
    with pytest.raises(ValueError, match="groups cover 3 rows"):
        replace(simple(), groups=(Group("ltr", Ltr(), 3),))


def test_sources_outside_the_window_are_refused():
    with pytest.raises((RuntimeError, IndexError)):
        one_pass(WINDOWS, name="x", sees=Ltr(), input_source=torch.tensor([3]), target_source=torch.tensor([0]))


def test_moving_moves_every_tensor():
    example = simple()
    moved = example.to(torch.device("meta"))
    tensors = [name for name, value in vars(moved).items() if isinstance(value, torch.Tensor)]
    assert sorted(tensors) == sorted(name for name, value in vars(example).items() if isinstance(value, torch.Tensor))
    assert {getattr(moved, name).device.type for name in tensors} == {"meta"}
    assert isinstance(moved, Example)
    assert moved.groups == example.groups


def test_draws_by_window():
    draw = Draw({"a": torch.tensor([1, 2, 3]), "b": torch.arange(6).reshape(3, 2)})
    assert draw["a"].tolist() == [1, 2, 3]
    assert draw.of_row(1)["b"].tolist() == [2, 3]
    repeated = draw.repeated(4)
    assert repeated["a"].tolist() == [1] * 4
    assert repeated["b"].tolist() == [[0, 1]] * 4
    with pytest.raises(KeyError):
        draw["c"]
