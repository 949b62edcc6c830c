"""The embedding loss: aggregations start as the mean and never look ahead; scores, gradient paths, and what shows a collapse."""

import math
from functools import cache

import pytest
import torch
from torch.nn import functional as F

from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.seeds import generator
from palinode.base.visibility import Ltr, Prefix
from palinode.models import EmbeddingLoss, EncoderDecoderConfig
from palinode.models.base import AuxiliaryTerm, together
from palinode.models.direction import read_and_terms
from palinode.models.encoder_decoder import EMBEDDING_LOSS
from palinode.models.init import InitRule, initialise
from palinode.models.mixers.base import Reading
from palinode.models.parts.embedding_loss import AGGREGATES, Ema, EmbeddingTerm, Mean, infonce, shuffled
from palinode.objectives import BothObjective, Progress

CAUSAL = Reading("causal")
WIDTH, LONGEST = 6, 16
KINDS = ("mean", "window", "ema", "matrix")


def noise(*shape: int, name: str = "noise") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def aggregate(kind: str, opened: bool = False, window_slots: int | None = None):
    """At its start, or with weights that differ from slot to slot and channel to channel."""
    made = AGGREGATES[kind](WIDTH, window_slots or LONGEST).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            made.start(name, parameter, generator(0, name))
            if opened:
                parameter.copy_(noise(*parameter.shape, name=name))
    return made


def term_of(**options) -> EmbeddingTerm:
    term = EmbeddingTerm(EmbeddingLoss(**options), WIDTH, LONGEST)
    initialise(term, InitRule("gpt2", 1, False, False), 0)
    return term.double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 2, 7, LONGEST])
def test_every_aggregation_starts_as_the_cumulative_mean(kind, slots):
    x = noise(3, slots, WIDTH)
    expected = torch.stack([x[:, : t + 1].mean(1) for t in range(slots)], 1)
    assert (aggregate(kind)(x, CAUSAL) - expected).abs().max() < 1e-12


def test_a_window_starts_as_the_mean_of_its_last_slots():
    x = noise(2, 9, WIDTH)
    expected = torch.stack([x[:, max(0, t - 2) : t + 1].mean(1) for t in range(9)], 1)
    assert (aggregate("window", window_slots=3)(x, CAUSAL) - expected).abs().max() < 1e-12


def by_hand(made, kind: str, x: torch.Tensor) -> torch.Tensor:
    """Weighted sums over single slots."""
    out = torch.zeros_like(x)
    for t in range(x.shape[1]):
        seen = range(t + 1)
        if kind == "mean":
            weights = torch.ones(t + 1, WIDTH).double()
        elif kind == "window":
            weights = torch.stack([made.logits[:, t - k].exp() for k in seen])
        elif kind == "ema":
            decay = torch.sigmoid(made.rate + 4) / torch.sigmoid(torch.tensor(4.0).double())
            weights = torch.stack([decay ** (t - k) for k in seen])
        else:
            weights = made.logits[t, : t + 1].exp()[:, None].expand(-1, WIDTH)
        out[:, t] = (x[:, : t + 1] * weights).sum(1) / weights.sum(0)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_learned_aggregations_are_weighted_means(kind):
    made, x = aggregate(kind, opened=True), noise(2, 11, WIDTH)
    assert (made(x, CAUSAL) - by_hand(made, kind, x)).abs().max() < 1e-12
    if kind != "mean":
        assert (made(x, CAUSAL) - Mean(WIDTH, LONGEST)(x, CAUSAL)).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_no_aggregation_looks_ahead_and_a_shorter_row_gives_the_same(kind):
    made, x = aggregate(kind, opened=True), noise(1, 12, WIDTH)
    whole = made(x, CAUSAL)
    for slot in range(12):
        changed = x.clone()
        changed[:, slot] += 1
        moved = (made(changed, CAUSAL) - whole).abs().amax((0, 2)) > 1e-12
        assert not moved[:slot].any()
        assert moved[slot:].all()
        assert (made(x[:, : slot + 1], CAUSAL) - whole[:, : slot + 1]).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["mean", "matrix"])
def test_other_visibilities_give_the_mean_of_what_may_be_read(kind):
    x, mask = noise(2, 8, WIDTH), Prefix(length_slots=3).mask(8)
    expected = torch.stack([x[:, mask[t]].mean(1) for t in range(8)], 1)
    assert (aggregate(kind)(x, Reading("mask", mask)) - expected).abs().max() < 1e-12
    full = aggregate(kind)(x, Reading("full"))
    assert (full - x.mean(1, keepdim=True)).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["window", "ema"])
def test_aggregations_with_an_order_refuse_other_visibilities_by_name(kind):
    with pytest.raises(BadInput, match=f"model.embedding_loss.aggregate: '{kind}' needs causal rows"):
        aggregate(kind)(noise(1, 4, WIDTH), Reading("full"))


def test_decays_stay_finite_whatever_is_learned():
    for rate in (-1e3, -5.0, 5.0, 1e3):
        made = Ema(WIDTH, 4096).float()
        with torch.no_grad():
            made.rate.fill_(rate)
        out = made(torch.ones(1, 4096, WIDTH), CAUSAL)
        assert torch.allclose(out, torch.ones(()), atol=1e-3), rate


def test_scores_are_those_of_the_formulas():
    left, right = noise(3, 5, WIDTH, name="left"), noise(3, 5, WIDTH, name="right")
    cosine = (left * right).sum(-1) / (left.norm(dim=-1) * right.norm(dim=-1))
    expected = {
        "mse": (left - right).square().mean(),
        "cosine": (1 - (cosine + 1) / 2).mean(),
        "log_cosine": (-((cosine + 1) / 2).log()).mean(),
    }
    for score, value in expected.items():
        assert term_of(score=score)._score(left, right).item() == pytest.approx(value.item(), abs=1e-12)
    opposite = term_of(score="log_cosine")._score(left, -left)
    assert opposite.item() == pytest.approx(-math.log(1e-6)), "clamped, not infinite"


def test_infonce_tells_pairs_apart():
    left = noise(300, 40, name="left")  # two groups: 150 each
    by_hand = 0.0
    unit, right = F.normalize(left, dim=-1), F.normalize(noise(300, 40, name="right"), dim=-1)
    for group in range(2):
        logits = unit[group::2] @ right[group::2].T / 0.1
        answers = torch.arange(150)
        by_hand += (F.cross_entropy(logits, answers) + F.cross_entropy(logits.T, answers)).item() / 4
    assert infonce(left, right, 0.1).item() == pytest.approx(by_hand, abs=1e-12)
    assert infonce(left, left, 0.1).item() < 0.1 < math.log(150) < infonce(left, right, 0.1).item() + 1


NORMS = [
    (before, output, affine)
    for before in ("none", "before", "after")
    for output in (True, False)
    for affine in (True, False)
    if (before, output, affine) != ("none", False, True)  # refused: there is no norm
]


def less_its_means(x: torch.Tensor) -> torch.Tensor:
    """Each slot less the mean of those up to it."""
    return x - torch.stack([x[:, : t + 1].mean(1) for t in range(x.shape[1])], 1)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("input_norm", "output_norm", "norm_affine"), NORMS)
def test_the_loss_is_that_of_the_formulas(input_norm, output_norm, norm_affine, centred):
    term = term_of(input_norm=input_norm, output_norm=output_norm, norm_affine=norm_affine, centred=centred)
    with torch.no_grad():
        for name, parameter in term.named_parameters():
            parameter.copy_(noise(*parameter.shape, name=name))

    def normed(x, norm):
        return F.layer_norm(x, (WIDTH,), norm.gain, norm.shift, 1e-8 if centred else 1e-5)

    x, o = given = noise(3, 5, WIDTH, name="x"), noise(3, 5, WIDTH, name="o")
    if centred:
        x, o = less_its_means(x), less_its_means(o)
    before = normed(x, term.input_norm) if input_norm == "before" else x
    means = torch.stack([before[:, : t + 1].mean(1) for t in range(5)], 1)
    means = normed(means, term.input_norm) if input_norm == "after" else means
    states = normed(o, term.output_norm) if output_norm else o
    auxiliary = term(*given, CAUSAL)
    assert auxiliary.value.item() == pytest.approx((means - states).square().mean().item(), abs=1e-12)
    assert auxiliary.measured["shuffled"].item() == pytest.approx((means - states.roll(1, 0)).square().mean().item())
    gains = [norm.gain.abs() for norm in (term.input_norm, term.output_norm) if norm is not None and norm_affine]
    assert auxiliary.measured["gain"].item() == pytest.approx(min((gain.mean().item() for gain in gains), default=1.0))
    assert auxiliary.measured["least_gain"].item() == pytest.approx(
        min((gain.min().item() for gain in gains), default=1.0)
    )
    spread = min(one.flatten(0, 1).var(0, correction=0).mean().item() for one in (means, states))
    assert auxiliary.measured["variance"].item() == pytest.approx(spread)
    assert (term.aggregated(given[0], CAUSAL) - means).abs().max() < 1e-12


@pytest.mark.parametrize("score", ["mse", "cosine", "log_cosine", "infonce"])
def test_a_vector_that_all_slots_share_changes_nothing_and_makes_the_loss_vanish_where_nothing_is_centred(score):
    x, o, shared = noise(4, 9, WIDTH, name="x"), noise(4, 9, WIDTH, name="o"), 1e3 * noise(WIDTH, name="shared")
    values = {
        centred: [
            term_of(score=score, centred=centred)(x + c, o + c, CAUSAL).value.item() for c in (0 * shared, shared)
        ]
        for centred in (True, False)
    }
    assert values[True][1] == pytest.approx(values[True][0], rel=1e-6)
    if score != "infonce":  # strangers are as near: it cannot vanish so
        assert values[False][1] < 1e-4 < 0.05 < values[False][0]


@pytest.mark.parametrize("score", ["mse", "cosine", "log_cosine", "infonce"])
@pytest.mark.parametrize("detach", ["none", "encoder"])
def test_the_first_slot_of_which_nothing_is_left_does_not_spoil_the_gradient(score, detach):
    """A norm at 0 is as steep as 1 / sqrt(epsilon): in float32 its slopes would drown those of the other slots."""
    x, o = noise(2, 7, WIDTH, name="x"), noise(2, 7, WIDTH, name="o")
    result = {}
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype).requires_grad_()
        term_of(score=score, detach=detach).to(dtype)(leaf, o.to(dtype), CAUSAL).value.backward()
        result[dtype] = leaf.grad.double()
    assert result[torch.float64].abs().max() > 1e-3
    assert (result[torch.float32] - result[torch.float64]).abs().max() < 1e-5 * result[torch.float64].abs().max()


def test_the_variance_floor_holds_both_sides_open_and_is_not_part_of_the_score():
    x, o = noise(3, 5, WIDTH, name="x"), 0.01 * noise(3, 5, WIDTH, name="o")
    options = {"input_norm": "none", "output_norm": False, "centred": False}
    plain, floored = term_of(**options)(x, o, CAUSAL), term_of(**options, variance_floor=2.0)(x, o, CAUSAL)
    means = torch.stack([x[:, : t + 1].mean(1) for t in range(5)], 1)
    lacking = sum((1 - (z.flatten(0, 1).var(0, correction=0) + 1e-4).sqrt()).clamp_min(0).mean() for z in (means, o))
    assert floored.value.item() == pytest.approx((plain.value + 2.0 * lacking).item())
    assert floored.measured["value"] == plain.value


def test_one_row_is_shuffled_against_its_own_other_half():
    x = noise(1, 6, WIDTH)
    assert torch.equal(shuffled(x), torch.cat([x[:, 3:], x[:, :3]], 1))
    assert torch.equal(shuffled(x.expand(2, -1, -1)), x.expand(2, -1, -1))


PATHS = {
    "encoder": ({"embedding.weight", "position.weight"}, {"encoder.0.mixer.q.weight", "bridge.weight"}),
    "input": (
        {"embedding.weight", "position.weight", "encoder.0.mixer.q.weight"},
        {"bridge.weight", "blocks.0.cross.q.weight"},
    ),
    "none": ({"embedding.weight", "position.weight", "encoder.0.mixer.q.weight"}, {"bridge.weight"}),
}


@cache
def gradients(detach: str, affine: bool = True) -> dict[str, torch.Tensor | None]:
    loss = EmbeddingLoss(detach=detach, norm_affine=affine)
    model = EncoderDecoderConfig(encoder_layers=1, decoder_layers=1, width=16, heads=2, embedding_loss=loss).build(
        30, 8, 0
    )
    tokens = torch.randint(0, 30, (3, 8), generator=generator(0, "tokens"))
    _, terms = model.train().hidden_and_terms(tokens, Ltr())
    terms[EMBEDDING_LOSS].value.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("detach", PATHS)
def test_gradient_paths(detach):
    reached, others = PATHS[detach]
    gradient_of = gradients(detach)
    norms = {f"embedding_loss.{side}_norm.{name}" for side in ("input", "output") for name in ("gain", "shift")}
    for name in reached | norms:
        assert gradient_of[name] is not None, name
        assert gradient_of[name].abs().sum() > 0, name
    assert all(gradient_of[name] is None for name in others)


def test_with_the_input_detached_embeddings_are_reached_through_the_encoder_alone():
    both, through = gradients("none")["embedding.weight"], gradients("input")["embedding.weight"]
    direct = gradients("encoder")["embedding.weight"]
    assert torch.allclose(both, through + direct, atol=1e-7)
    assert not torch.allclose(both, through, atol=1e-7)


def test_terms_are_made_in_training_alone():
    model = EncoderDecoderConfig(encoder_layers=1, decoder_layers=1, width=16, heads=2).build(30, 8, 0)
    tokens = torch.randint(0, 30, (3, 8), generator=generator(0, "tokens"))
    states, terms = model.train().hidden_and_terms(tokens, Ltr())
    assert set(terms) == {EMBEDDING_LOSS}
    assert torch.equal(states, model.hidden(tokens, Ltr()))
    assert model.eval().hidden_and_terms(tokens, Ltr())[1] == {}
    none = model.config.with_(embedding_loss=None).build(30, 8, 0).train()
    assert none.hidden_and_terms(tokens, Ltr())[1] == {}
    assert not [name for name, _ in none.named_parameters() if "loss" in name]


def test_the_score_is_taken_in_float32_under_autocast():
    model = EncoderDecoderConfig(encoder_layers=1, decoder_layers=1, width=16, heads=2).build(30, 8, 0).train()
    tokens = torch.randint(0, 30, (3, 8), generator=generator(0, "tokens"))
    exact = model.hidden_and_terms(tokens, Ltr())[1][EMBEDDING_LOSS]
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model.hidden_and_terms(tokens, Ltr())[1][EMBEDDING_LOSS]
    assert coarse.value.dtype == torch.float32
    assert coarse.value.item() == pytest.approx(exact.value.item(), rel=0.02)


def test_terms_of_several_readings_are_weighted_by_rows():
    def term(value, rows):
        return AuxiliaryTerm(torch.tensor(value, requires_grad=True), 2.0, rows, {"gain": torch.tensor(10 * value)})

    one, three = term(1.0, 1), term(5.0, 3)
    mean = together([{"x": one}, {"x": three, "y": one}])
    assert (mean["x"].value.item(), mean["x"].rows, mean["x"].coefficient) == (4.0, 4, 2.0)
    assert mean["x"].measured["gain"].item() == 40.0
    assert mean["y"] is one
    mean["x"].value.backward()
    assert (one.value.grad.item(), three.value.grad.item()) == (0.25, 0.75)


def test_both_directions_share_one_term_over_all_their_rows():
    model = EncoderDecoderConfig(encoder_layers=1, decoder_layers=1, width=16, heads=2).build(31 + 11, 8, 0).train()
    objective, specials = BothObjective(), SpecialTokens(31)
    windows = torch.randint(0, 31, (4, 8), generator=generator(0, "tokens"))
    draw = objective.draw(4, 8, generator(0, "draw"), Progress())
    example = objective.example(windows, draw, specials)
    states, terms = read_and_terms(model, example)
    assert terms[EMBEDDING_LOSS].rows == len(example.inputs)
    assert states.shape[:2] == example.inputs.shape
