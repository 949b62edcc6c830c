"""A text of any length: each token is scored once, in blocks of a window, and as a pass over the block scores it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.seeds import generator
from palinode.base.visibility import Full, Ltr
from palinode.evaluate.sliding import SlidingContext, blocks, in_order, pass_of
from palinode.models import gpt2
from palinode.objectives import (
    BothObjective,
    BottleneckObjective,
    LtrObjective,
    MaskedInputObjective,
    MaskedObjective,
    RtlObjective,
)

N, V = 6, 7
SPECIALS = SpecialTokens(V)


@pytest.fixture(scope="module")
def model():
    made = gpt2(layers=2, width=16, heads=2).build(SPECIALS.vocab_size, N, 0).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(0.0, 0.4, generator=generator(0, "weights", name))
    return made.eval()


def context(model, objective=None, direction="ltr", stride=3, **options):
    own = objective or {"ltr": LtrObjective(), "rtl": RtlObjective()}[direction]
    return SlidingContext(model, SPECIALS, pass_of(own, direction), direction, N, stride, 4 * N, **options)


def document(tokens):
    return torch.randint(0, V, (tokens,), generator=generator(tokens, "document")).tolist()


def by_hand(model, ids, direction, stride):
    """Each token from a pass of its own over what its block shows before it."""
    order, start = (ids, "[L]") if direction == "ltr" else (ids[::-1], "[R]")
    nats = []
    for place, token in enumerate(order):
        end = N if place < N else min(len(ids), N + stride * math.ceil((place + 1 - N) / stride))
        seen = [SPECIALS[start], *order[max(0, end - N) : place]]
        with torch.no_grad():
            logits = model.logits(model.hidden(torch.tensor([seen]), Ltr())[0, -1])
        nats.append(-float(logits.float().log_softmax(-1)[token]))
    return nats if direction == "ltr" else nats[::-1]


@given(st.integers(0, 40), st.integers(1, 9), st.data())
def test_blocks_score_each_token_once_with_the_context_that_is_promised(tokens, window, data):
    stride = data.draw(st.integers(1, window))
    made = list(blocks(tokens, window, stride))
    assert [place for one in made for place in range(one.scored, one.end)] == list(range(tokens))
    for one in made:
        assert one.end - one.start == min(window, tokens)
        assert one.start <= one.scored
        assert one.start == 0 or one.scored - one.start >= window - stride


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
@pytest.mark.parametrize("tokens", [1, N - 1, N, N + 1, N + 3, 2 * N + 1])
@pytest.mark.parametrize("stride", [1, 3, N])
def test_each_token_has_the_nats_of_its_own_pass(model, direction, tokens, stride):
    ids = document(tokens)
    [nats] = context(model, direction=direction, stride=stride).nats([ids])
    assert nats == pytest.approx(by_hand(model, ids, direction, stride), abs=1e-6)


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_documents_together_have_the_nats_of_documents_alone(model, direction):
    texts = [document(tokens) for tokens in (0, 1, 13, 6, 20, 13)]
    together = context(model, direction=direction).nats(texts)
    for ids, nats in zip(texts, together, strict=True):
        assert nats == pytest.approx(context(model, direction=direction).nats([ids])[0], abs=1e-6)
        assert len(nats) == len(ids)


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
@pytest.mark.parametrize("tokens", [1, 2, N, N + 1, 2 * N + 1])
@pytest.mark.parametrize("stride", [3, N])
def test_without_a_direction_token_only_the_first_token_is_left_out(model, direction, tokens, stride):
    objective = BothObjective(p=0.5, direction_token=False)
    [nats] = context(model, objective, direction, stride).nats([document(tokens)])
    missing = np.flatnonzero(np.isnan(nats)).tolist()
    assert missing == [0 if direction == "ltr" else tokens - 1]


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_a_model_that_fills_masks_is_scored_in_order(model, direction):
    """Of a row of T tokens, row t shows the t tokens before it. The probabilities of all texts of two tokens sum to 1."""
    masked = MaskedObjective(hide_answers=False, rate=0.3)
    ids = document(N + 2)
    [nats] = context(model, masked, direction).nats([ids])
    order = ids if direction == "ltr" else ids[::-1]
    hidden = [*order[:2], *[SPECIALS["[MASK]"]] * (N - 2)]
    row = hidden if direction == "ltr" else hidden[::-1]
    slot = 2 if direction == "ltr" else N - 3
    with torch.no_grad():
        logits = model.logits(model.hidden(torch.tensor([row]), Full())[0, slot])
    place = 2 if direction == "ltr" else N - 1
    assert nats[place] == pytest.approx(-float(logits.float().log_softmax(-1)[order[2]]), abs=1e-6)
    every = [[a, b] for a in range(V) for b in range(V)]
    sums = [text.sum() for text in context(model, masked, direction, only_text=True).nats(every)]
    assert np.exp(-np.array(sums)).sum() == pytest.approx(1, abs=1e-6)


def test_rows_in_order_show_only_what_stands_before_their_target():
    windows = torch.tensor([[5, 6, 7]])
    ltr, rtl = (in_order(windows, 2, SpecialTokens(10), way) for way in ("ltr", "rtl"))
    mask = SpecialTokens(10)["[MASK]"]
    assert ltr.inputs.tolist() == [[5, mask, mask], [5, 6, mask]]
    assert ltr.loss_weight.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert rtl.inputs.tolist() == [[mask, mask, 7], [mask, 6, 7]]
    assert rtl.loss_weight.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_text_alone_has_all_the_probability(model):
    [plain], [text] = (context(model, only_text=only).nats([document(9)]) for only in (False, True))
    assert (text < plain).all()


def test_hidden_answers_are_no_part_of_a_text(model):
    hides = MaskedInputObjective(rate=0.0, hide_answers=True)
    ids = document(9)
    assert context(model, hides).nats([ids])[0] == pytest.approx(context(model).nats([ids])[0], abs=1e-6)


def test_what_cannot_be_scored_is_refused(model):
    for stride in (0, N + 1):
        with pytest.raises(BadInput, match="stride: must be from 1 to 6"):
            context(model, stride=stride)
    for objective in (BottleneckObjective(), MaskedObjective()):
        with pytest.raises(BadInput, match="gives no probability of a text"):
            context(model, objective)
    with pytest.raises(BadInput, match="token 7 is not in the vocabulary of 7"):
        context(model).nats([[V]])
    broken = gpt2(layers=1, width=16, heads=2).build(SPECIALS.vocab_size, N, 0)
    torch.nn.init.constant_(broken.embedding.weight, math.nan)
    with pytest.raises(BadInput, match="not a finite number"):
        context(broken).nats([[1, 2]])
