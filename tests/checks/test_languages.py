"""The canary's languages: what targets may see of one another, and what their windows are made of."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palinode.base.markov import symmetric_chain
from palinode.base.seeds import generator
from palinode.checks.languages import AlternatingLanguage, ChainLanguage, Context, NeighbourLanguage, UniformLanguage

EVERY = torch.ones(6, dtype=torch.bool)
INDEX = torch.arange(6)
SOURCE, TARGET = INDEX[:, None], INDEX[None, :]
HIDDEN = torch.tensor([0, 1, 1, 0, 1, 0], dtype=torch.bool)


@pytest.mark.parametrize(
    ("allowed", "scored", "acyclic", "nested"),
    [
        (SOURCE < TARGET, EVERY, True, True),  # ltr
        (SOURCE > TARGET, EVERY, True, True),  # rtl
        (SOURCE <= TARGET - 2, EVERY, True, False),  # a second head: the token between is not seen
        ((~HIDDEN)[:, None].expand(6, 6), HIDDEN, True, False),  # masked LM: hidden tokens depend on one another
        (SOURCE != TARGET, EVERY, False, False),  # each from all others
        ((SOURCE < 3) | (SOURCE < TARGET), INDEX >= 3, True, True),  # prefix
    ],
)
def test_which_targets_may_be_bet_on_one_after_the_other(allowed, scored, acyclic, nested):
    context = Context.of(allowed, scored)
    assert (context.acyclic, context.nested) == (acyclic, nested)


def test_nearest_allowed_neighbours_of_a_masked_window():
    context = Context.of((~HIDDEN)[:, None].expand(6, 6) & (SOURCE != TARGET), HIDDEN)
    assert context.left.tolist() == [-1, 0, 0, 0, 3, 3]
    assert context.right.tolist() == [3, 3, 3, 5, 5, -1]
    assert context.bets.tolist() == HIDDEN.tolist()


def test_a_target_that_may_see_itself_is_not_bet_on():
    assert not Context.of(SOURCE <= TARGET, EVERY).bets.any()


@given(st.integers(0, 2**32), st.integers(2, 6))
def test_nested_implies_acyclic(seed, size):
    allowed = torch.rand(size, size, generator=generator(seed, "test")) < 0.5
    allowed.fill_diagonal_(False)
    context = Context.of(allowed, torch.ones(size, dtype=torch.bool))
    assert context.acyclic or not context.nested


def test_chains_need_nested_contexts_uniform_tokens_do_not():
    context = Context.of(SOURCE <= TARGET - 2, EVERY)
    assert UniformLanguage(16).in_sequence(context)
    assert not ChainLanguage(symmetric_chain()).in_sequence(context)


def test_neighbours_hold_at_every_slot_what_a_pass_predicts_there():
    windows, counts = NeighbourLanguage(16).windows(8, 20, generator(0, "test"))
    left, right = counts.nonzero().flatten().tolist()
    for row, copies in ((left, range(4)), (right, range(4, 8))):
        for copy in copies:
            if copy != row and row == left:
                assert torch.equal(windows[copy, :-1], windows[row, 1:])
            elif copy != row:
                assert torch.equal(windows[copy, 1:], windows[row, :-1])
        assert min(copies) < row < max(copies)  # neighbours before it and after it


def test_alternating_windows_tell_all_from_any_token_and_never_repeat_one():
    windows, _ = AlternatingLanguage(16).windows(50, 9, generator(0, "test"))
    assert (windows[:, 1:] != windows[:, :-1]).all()
    assert all(len(set(window.tolist())) == 2 for window in windows)
    assert len(set(windows[:, 0].tolist())) > 8
