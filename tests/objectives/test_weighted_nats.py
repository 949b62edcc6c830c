"""The loss: equal to the naive one, sum by sum and gradient by gradient, however it is cut into chunks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from palinode.base.example import Draw, SpecialTokens, joined
from palinode.base.head import LinearHead, SoftCap
from palinode.base.seeds import generator
from palinode.objectives import LtrObjective, RtlObjective
from palinode.objectives.loss import CHUNK_LOGITS, DIRECT_LOGITS, loss_of_slots, weighted_nats

SPECIALS = SpecialTokens(13)
WIDTH = 6
HEADS = {
    "function": lambda head: lambda states: states @ head.T,
    "matrix": LinearHead,
    "matrix, then any function": lambda head: LinearHead(head, None, lambda raw: raw),
}


def example_of(rows: int, tokens: int, share_unscored: float, seed: int):
    windows = torch.randint(0, 13, (rows, tokens), generator=generator(seed, "windows"))
    example = joined([objective.example(windows, Draw(), SPECIALS) for objective in (LtrObjective(), RtlObjective())])
    weight = torch.rand(example.inputs.shape, generator=generator(seed, "weight")) * 2
    weight[torch.rand(weight.shape, generator=generator(seed, "unscored")) < share_unscored] = 0.0
    object.__setattr__(example, "loss_weight", weight)
    return example


def states_and_head(example, seed: int, dtype: torch.dtype = torch.float64):
    hidden = torch.randn(*example.inputs.shape, WIDTH, generator=generator(seed, "hidden"), dtype=dtype)
    head = torch.randn(SPECIALS.vocab_size, WIDTH, generator=generator(seed, "head"), dtype=dtype)
    return hidden.requires_grad_(), head.requires_grad_()


def naive(example, hidden, head):
    return naive_of(example, hidden @ head.T)


def naive_of(example, logits):
    return -logits.log_softmax(-1).gather(-1, example.targets[..., None])[..., 0] * example.loss_weight


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    tokens=st.integers(1, 9),
    share=st.sampled_from([0.0, 0.4, 1.0]),
    chunk=st.sampled_from([None, 1, 3, 7, 1000]),
    kind=st.sampled_from(sorted(HEADS)),
    seed=st.integers(0, 5),
)
def test_equals_the_naive_loss_and_its_gradients(rows, tokens, share, chunk, kind, seed):
    example = example_of(rows, tokens, share, seed)
    hidden, head = states_and_head(example, seed)
    loss = weighted_nats(example, hidden, HEADS[kind](head), chunk)
    loss.total.backward()
    result = [hidden.grad.clone(), head.grad.clone()]
    hidden.grad = head.grad = None
    wanted = naive(example, hidden, head)
    wanted.sum().backward()
    assert torch.allclose(loss.total, wanted.sum(), atol=1e-10, rtol=0)
    for mine, theirs in zip(result, (hidden.grad, head.grad), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10, rtol=0)
    for name, part in (("ltr", slice(0, rows)), ("rtl", slice(rows, 2 * rows))):
        assert torch.allclose(loss.nats_by_group[name], wanted[part].sum(), atol=1e-10, rtol=0)
        assert loss.scored_by_group[name] == int((example.loss_weight[part] > 0).sum())
        assert not loss.nats_by_group[name].requires_grad


@pytest.mark.parametrize("kind", HEADS)
def test_float32_chunks_agree_to_a_millionth(kind):
    example = example_of(4, 64, 0.1, 0)
    hidden, head = states_and_head(example, 0, torch.float32)
    totals, gradients = [], []
    for chunk in (10_000, 17):
        hidden.grad = head.grad = None
        loss = weighted_nats(example, hidden, HEADS[kind](head), chunk)
        loss.total.backward()
        totals.append(loss.total.item())
        gradients.append((hidden.grad.clone(), head.grad.clone()))
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() <= 1e-6 * one.abs().max()


def test_unscored_slots_never_reach_the_head():
    example = example_of(2, 8, 0.5, 1)
    hidden, head = states_and_head(example, 1)
    seen = []
    weighted_nats(example, hidden, lambda h: seen.append(len(h)) or h @ head.T)
    assert sum(seen) == int((example.loss_weight > 0).sum())


def test_large_logits_never_exist_at_once():
    """With a vocabulary as large as GPT-2's, 1024 slots are 51 million logits: more than may exist at once."""
    vocabulary, slots = 50257, 256
    windows = torch.randint(0, 13, (1, slots), generator=generator(0, "windows"))
    example = LtrObjective().example(windows, Draw(), SPECIALS)
    head = torch.zeros(vocabulary, 2)
    made = []
    hidden = torch.zeros(1, slots, 2, requires_grad=True)
    loss = weighted_nats(example, hidden, lambda h: made.append(len(h)) or h @ head.T)
    assert slots * vocabulary > DIRECT_LOGITS
    assert max(made) * vocabulary <= CHUNK_LOGITS
    assert sum(made) == slots + 1, "every slot once, and one slot to find the head's parameters"
    assert loss.total.item() == pytest.approx(slots * float(torch.tensor(vocabulary).log()), rel=1e-6)
    small = torch.zeros(20, 2)
    made.clear()
    weighted_nats(example, hidden, lambda h: made.append(len(h)) or h @ small.T)
    assert [count for count in made if count] == [slots]


def test_chunks_without_gradient_give_the_same_bits():
    example = example_of(3, 32, 0.0, 2)
    hidden, head = states_and_head(example, 2)
    with_gradient = weighted_nats(example, hidden, lambda h: h @ head.T, 10)
    with torch.no_grad():
        without = weighted_nats(example, hidden, lambda h: h @ head.T, 10)
    assert torch.equal(with_gradient.total, without.total)
    assert not without.total.requires_grad


def test_half_precision_logits_are_summed_in_float32():
    example = example_of(2, 16, 0.0, 3)
    hidden, head = states_and_head(example, 3, torch.bfloat16)
    loss = weighted_nats(example, hidden, lambda h: h @ head.T)
    assert loss.total.dtype == torch.float32
    assert F.cross_entropy((hidden @ head.T).float().flatten(0, 1), example.targets.flatten()).isfinite()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("trained", ["states", "head", "neither"])
def test_chunks_with_frozen_parts(trained, kind):
    """A frozen trunk (a head refitted on it) or a frozen head: gradients go only where they are wanted."""
    example = example_of(2, 16, 0.2, 4)
    hidden, head = states_and_head(example, 4)
    hidden.requires_grad_(trained == "states")
    head.requires_grad_(trained == "head")
    loss = weighted_nats(example, hidden, HEADS[kind](head), 5)
    assert torch.allclose(loss.total, naive(example, hidden, head).sum(), atol=1e-10, rtol=0)
    assert loss.total.requires_grad == (trained != "neither")
    for name, tensor in (("states", hidden), ("head", head)):
        if trained == name:
            (wanted,) = torch.autograd.grad(naive(example, hidden, head).sum(), tensor)
            loss.total.backward()
            assert torch.allclose(tensor.grad, wanted, atol=1e-10, rtol=0)
        else:
            assert tensor.grad is None


def cap_function(raw):
    return 3 * torch.tanh(raw / 3)


@pytest.mark.parametrize("finish", [None, cap_function, SoftCap("tanh", 3.0)], ids=["function", "matrix", "soft cap"])
def test_chunks_with_a_head_made_elsewhere_and_a_soft_cap(finish):
    """The head's matrix may itself be computed: the gradient reaches what it was computed from, scaled by what follows."""
    example = example_of(2, 16, 0.2, 5)
    hidden, head = states_and_head(example, 5)
    bias = torch.zeros(SPECIALS.vocab_size, dtype=torch.float64, requires_grad=True)
    made = torch.tanh(head)
    parts = [hidden, head, bias]

    def logits_of(h):
        return cap_function(h @ made.T + bias)

    wanted = torch.autograd.grad((naive_of(example, logits_of(hidden)).sum() / 7) ** 2, parts, retain_graph=True)
    loss = weighted_nats(example, hidden, logits_of if finish is None else LinearHead(made, bias, finish), 5)
    result = torch.autograd.grad((loss.total / 7) ** 2, parts)
    for mine, theirs in zip(result, wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("cap", [SoftCap(), SoftCap("rsqrt", 4.0), SoftCap("tanh", 4.0)], ids=lambda cap: cap.kind)
@pytest.mark.parametrize("vocab", [2, 40, 259, 4096])
@pytest.mark.parametrize("bias", [True, False])
def test_the_written_out_loss_of_a_matrix_equals_autograd(cap, vocab, bias):
    """The oracle: log-softmax of the capped logits in float64, with weights that are 0, fractions and above 1."""
    slots, rng = 150, generator(7, "written out", vocab)
    states = torch.randn(slots, WIDTH, generator=rng, dtype=torch.float64, requires_grad=True)
    head = (3 * torch.randn(vocab, WIDTH, generator=rng, dtype=torch.float64)).requires_grad_()
    shift = torch.randn(vocab, generator=rng, dtype=torch.float64).requires_grad_() if bias else None
    targets = torch.randint(0, vocab, (slots,), generator=rng)
    weight = torch.rand(slots, generator=rng) * 2 * (torch.rand(slots, generator=rng) > 0.2)
    parts = [part for part in (states, head, shift) if part is not None]
    linear = LinearHead(head, shift, cap)
    wanted_nats = F.cross_entropy(linear(states), targets, reduction="none") * weight
    wanted = torch.autograd.grad(wanted_nats.sum() / 7, parts)
    total, nats = loss_of_slots(states, targets, weight, linear, None)
    assert torch.allclose(nats, wanted_nats, atol=1e-12, rtol=1e-12)
    assert torch.allclose(total, nats.sum(), atol=0, rtol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(total / 7, parts), wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12, rtol=1e-12)
    with torch.no_grad():
        assert torch.equal(loss_of_slots(states, targets, weight, linear, None)[1], nats)


def test_logits_far_outside_the_range_of_float32_give_finite_nats():
    states = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    head = torch.tensor([[1e4], [0.0], [-1e4]], requires_grad=True)
    total, nats = loss_of_slots(states, torch.tensor([2, 2]), torch.ones(2), LinearHead(head), None)
    assert nats.tolist() == [2e8, 0.0]
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, [states, head]))


def test_gradients_of_a_chunked_loss_are_handed_over_once():
    example = example_of(1, 16, 0.0, 6)
    hidden, head = states_and_head(example, 6)
    loss = weighted_nats(example, hidden, HEADS["matrix"](head), 5)
    loss.total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        loss.total.backward()


def test_second_derivatives_of_a_chunked_loss_are_refused():
    example = example_of(1, 16, 0.0, 6)
    hidden, head = states_and_head(example, 6)
    (first,) = torch.autograd.grad(
        weighted_nats(example, hidden, lambda h: h @ head.T, 5).total, hidden, create_graph=True
    )
    with pytest.raises(RuntimeError, match="does not require grad|once_differentiable"):
        first.sum().backward()


def test_an_example_with_nothing_to_score_costs_nothing():
    example = example_of(2, 4, 1.0, 0)
    hidden, head = states_and_head(example, 0)
    loss = weighted_nats(example, hidden, lambda h: h @ head.T)
    loss.total.backward()
    assert loss.total.item() == 0
    assert loss.scored_by_group == {"ltr": 0, "rtl": 0}
