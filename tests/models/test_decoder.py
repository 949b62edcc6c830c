"""The decoder: exact sizes, first weights, groups, options that must be refused, and silence in evaluation."""

import math

import pytest
import torch

from palinode.base.config import decode, encode
from palinode.base.errors import BadInput
from palinode.base.head import LinearHead, SoftCap
from palinode.base.seeds import generator
from palinode.base.visibility import Flipped, FlippedLowerTriangle, Intersection, Ltr, Prefix, Rtl
from palinode.models import MODELS, DecoderConfig, gpt2, modern
from palinode.models.base import GROUPS, LanguageModel
from palinode.models.block import hidden_width
from palinode.models.decoder import Decoder
from palinode.models.stack import explicit_mask

SMALL = {"layers": 2, "width": 32, "heads": 2}
CONFIGS = {
    "gpt2": gpt2(**SMALL),
    "gpt2 with bias": gpt2(**SMALL, bias=True),
    "modern S": modern(**SMALL),
    "modern N": modern(**SMALL, preset="N"),
    "swiglu, tanh cap, no positions": DecoderConfig(**SMALL, mlp="swiglu", soft_cap="tanh", position="none"),
}


def tokens_of(rows: int, slots: int, vocab_size: int = 50) -> torch.Tensor:
    return torch.randint(0, vocab_size, (rows, slots), generator=generator(0, "test tokens"))


def count(config: DecoderConfig, vocab_size: int, max_length: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(config, vocab_size, max_length).parameters())


@pytest.mark.parametrize(
    ("layers", "width", "heads", "vocab_size", "context", "expected"),
    [(26, 160, 5, 50257, 200, 16_068_800), (26, 156, 6, 50257, 200, 15_472_392), (4, 128, 4, 256, 128, 836_736)],
)
def test_gpt2_has_the_published_number_of_parameters(layers, width, heads, vocab_size, context, expected):
    config = gpt2(layers=layers, width=width, heads=heads)
    assert count(config, vocab_size, context) == expected
    with_bias = gpt2(layers=layers, width=width, heads=heads, bias=True)
    assert count(with_bias, vocab_size, context) == expected + 11 * width * layers + width


@pytest.mark.parametrize(
    ("vocab_size", "width", "layers", "expected"),
    [(50304, 768, 12, 162_354_816), (256, 128, 4, 858_112), (4096, 256, 6, 6_837_248)],
)
def test_modern_s_has_the_published_number_of_parameters(vocab_size, width, layers, expected):
    assert count(modern(layers=layers, width=width, heads=2), vocab_size, 64) == expected


def test_modern_n_without_extras_and_its_swiglu_twin():
    plain = modern(layers=8, width=512, heads=4, preset="N")
    assert count(plain, 32000, 64) == 57_933_824
    assert hidden_width(512, "swiglu", 4) == 1408
    assert count(plain.with_(mlp="swiglu"), 32000, 64) == 58_458_112


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_parameter_is_in_exactly_one_group(config):
    model = config.build(50, 16, 0)
    groups = model.parameter_groups()
    named = [name for pairs in groups.values() for name, _ in pairs]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    assert set(groups) == set(GROUPS)
    assert sum(model.parameter_counts().values()) == sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.ndim == 2 for _, parameter in model.parameter_groups()["matrix"])
    assert not any("embedding" in name or "head" in name for name, _ in model.parameter_groups()["matrix"])


def test_the_groups_of_preset_s_are_those_of_its_source():
    with torch.device("meta"):
        counts = Decoder(modern(layers=12, width=768, heads=6), 50304, 64).parameter_counts()
    assert counts == {
        "embedding": 38_633_472,
        "position": 0,
        "matrix": 84_934_656,
        "head": 38_633_472,
        "vector": 153_216,
    }


def test_parameter_counts_refuse_groups_that_do_not_add_up():
    class Forgetful(LanguageModel):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2, 2))

        def parameter_groups(self):
            return {"matrix": []}

    with pytest.raises(AssertionError, match="hold 0 parameters, the model has 4"):
        Forgetful().parameter_counts()


def test_a_users_model_of_pytorchs_own_layers_is_grouped_and_a_tied_weight_counted_once():
    class Own(LanguageModel):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(50, 8)
            self.inner = torch.nn.Linear(8, 8)
            self.taps = torch.nn.Conv1d(8, 8, 3)
            self.to_words = torch.nn.Linear(8, 50, bias=False)
            self.to_words.weight = self.words.weight

    model = Own()
    names = {group: [name for name, _ in pairs] for group, pairs in model.parameter_groups().items()}
    assert names["embedding"] == ["words.weight"]
    assert names["matrix"] == ["inner.weight"]
    assert names["vector"] == ["inner.bias", "taps.weight", "taps.bias"]
    assert model.parameter_counts()["embedding"] == 50 * 8


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_build_is_a_pure_function_of_the_seed(config):
    before = torch.get_rng_state()
    one = config.build(50, 16, 3).state_dict()
    assert torch.equal(torch.get_rng_state(), before), "the global generator was touched"
    torch.manual_seed(99)
    again, other = config.build(50, 16, 3).state_dict(), config.build(50, 16, 4).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])


def test_arms_share_the_first_weights_they_have_in_common():
    one = gpt2(layers=2, width=32, heads=2).build(50, 16, 3).state_dict()
    other = gpt2(layers=2, width=32, heads=4, dropout=0.2).with_(position="rotary").build(50, 99, 3).state_dict()
    assert "position.weight" not in other
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_gpt2_weights_start_with_the_published_spread():
    state = gpt2(layers=8, width=256, heads=4, bias=True).build(500, 300, 0).state_dict()
    for name, weight in state.items():
        if name.endswith(("bias", "shift")):
            assert torch.count_nonzero(weight) == 0
        elif name.endswith("gain"):
            assert torch.all(weight == 1)
        else:
            spread = 0.02 / math.sqrt(2 * 8) if name.endswith(("out.weight", "down.weight")) else 0.02
            assert weight.std().item() == pytest.approx(spread, rel=0.03), name


def test_modern_weights_start_with_the_published_spread():
    simple = modern(layers=2, width=256, heads=2).build(500, 16, 0).state_dict()
    assert simple["embedding.weight"].std().item() == pytest.approx(1.0, rel=0.03)
    assert simple["blocks.0.mixer.q.weight"].std().item() == pytest.approx(math.sqrt(0.33 / 256), rel=0.03)
    nano = modern(layers=2, width=256, heads=2, preset="N").build(500, 16, 0).state_dict()
    assert nano["embedding.weight"].std().item() == pytest.approx(0.8, rel=0.03)
    assert nano["head.weight"].std().item() == pytest.approx(0.001, rel=0.03)
    q, up = nano["blocks.0.mixer.q.weight"], nano["blocks.0.mlp.up.weight"]
    assert q.std().item() == pytest.approx(1 / 16, rel=0.03)
    assert q.abs().max().item() <= math.sqrt(3) / 16
    assert up.std().item() == pytest.approx(0.4 / 16, rel=0.03)
    for state in (simple, nano):
        assert all(torch.count_nonzero(w) == 0 for n, w in state.items() if n.endswith(("out.weight", "down.weight")))


def test_a_zero_head_starts_at_ln_v():
    model = modern(**SMALL).build(50, 16, 0)
    logits = model.logits(model.hidden(tokens_of(3, 16), Ltr()))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens_of(3, 16).flatten())
    assert loss.item() == pytest.approx(math.log(50), abs=1e-6)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_evaluation_is_silent_with_dropout_and_training_is_not(config):
    model = config.with_(dropout=0.2, zero_residual=False, zero_head=False).build(50, 16, 0)
    tokens = tokens_of(3, 16)
    model.eval()
    assert torch.equal(model.hidden(tokens, Ltr()), model.hidden(tokens, Ltr()))
    model.train()
    assert not torch.equal(model.hidden(tokens, Ltr()), model.hidden(tokens, Ltr()))


def test_attention_probabilities_alone_are_dropped_in_training_only():
    """The published defect: SDPA was given the rate in evaluation too. Here every other dropout is switched off by hand."""
    model = gpt2(**SMALL, dropout=0.2).build(50, 16, 0)
    x, reading = torch.randn(2, 16, 32, generator=generator(0, "x")), model._reading(tokens_of(2, 16), Ltr())
    attention = model.blocks[0].mixer
    assert not torch.equal(attention.train()(x, reading), attention(x, reading))
    assert torch.equal(attention.eval()(x, reading), attention(x, reading))


@pytest.mark.parametrize("soft_cap", ["rsqrt", "tanh"])
def test_soft_cap_bounds_and_leaves_small_logits(soft_cap):
    far = SoftCap(soft_cap, 15.0)(torch.tensor([-1e4, -40.0, 40.0, 1e4], dtype=torch.float64))
    assert torch.all(far.abs() < 15.0 + 1e-9)
    assert torch.all(far.diff() >= 0)
    near = torch.linspace(-0.1, 0.1, 5, dtype=torch.float64)
    assert torch.allclose(SoftCap(soft_cap, 15.0)(near), near, atol=1e-5)
    assert torch.equal(SoftCap("none", 15.0)(far), far)


def test_logits_are_float32_under_bf16_autocast():
    model = modern(**SMALL).with_(zero_residual=False, zero_head=False).build(50, 16, 0)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(model.hidden(tokens_of(2, 16), Ltr()))
    assert logits.dtype == torch.float32
    exact = model.logits(model.hidden(tokens_of(2, 16), Ltr()))
    assert (logits - exact).abs().max() < 0.1 * exact.std()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 30, "heads": 4}, "heads: .*4 heads do not divide width 30"),
        ({"zero_head": True}, "zero_head: .*tied head"),
        ({"width": 12, "heads": 4, "position": "rotary"}, "rotary full needs a head width divisible by 2"),
        ({"width": 24, "heads": 4, "position": "rotary", "rotary": "half"}, "divisible by 4, not 6"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"layers": 0}, "layers"),
        ({"mlp": "relu"}, "mlp"),
        ({"hedas": 4}, "did you mean 'heads'"),
        ({"mixer": {"kind": "atention"}}, "did you mean 'attention'"),
        ({"mixer": {"kind": "attention", "headz": 2}}, "mixer.headz: unknown key"),
    ],
)
def test_bad_options_are_refused_by_name(fields, message):
    with pytest.raises(BadInput, match=message):
        decode(DecoderConfig, fields)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_configs_survive_a_round_trip(config):
    written = encode(config)
    assert MODELS[written.pop("kind")] is DecoderConfig
    assert decode(DecoderConfig, written) == config


def test_a_row_longer_than_the_learned_positions_is_refused():
    model = gpt2(**SMALL).build(50, 16, 0)
    with pytest.raises(BadInput, match="17 slots is longer than the table of 16"):
        model.hidden(tokens_of(1, 17), Ltr())


def test_rows_that_read_from_the_end_are_not_read_backwards_by_accident():
    with pytest.raises(ValueError, match="flipped first"):
        gpt2(**SMALL).build(50, 16, 0).hidden(tokens_of(1, 8), Rtl())


def test_a_slot_that_sees_nothing_is_refused():
    blind = Intersection(left=Prefix(length_slots=0), right=FlippedLowerTriangle(size=6))
    assert explicit_mask(blind, 3).any(dim=1).all()
    strict = Intersection(left=Flipped(of=Ltr()), right=FlippedLowerTriangle(size=6))
    with pytest.raises(BadInput, match="lets slot 3 of 6 see nothing"):
        explicit_mask(strict, 6)
    with pytest.raises(BadInput, match="see nothing"):
        gpt2(**SMALL).build(50, 16, 0).hidden(tokens_of(1, 6), strict)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_is_given_the_same_logits_as_everyone(name):
    model = CONFIGS[name].build(50, 16, seed=1)
    hidden = model.hidden(tokens_of(2, 16), Ltr())
    assert isinstance(model.logits_map(), LinearHead)
    assert torch.equal(model.logits_map()(hidden), model.logits(hidden))


def test_logits_that_were_replaced_are_those_of_the_loss():
    """A subclass that changes `logits` alone must not be trained on the matrix of the class above."""

    class Doubled(Decoder):
        def logits(self, hidden):
            return 2 * super().logits(hidden)

    states = torch.randn(3, SMALL["width"], generator=generator(0, "states"))
    model = gpt2(**SMALL).build(50, 16, seed=1)
    once = model.logits(states)
    model.__class__ = Doubled
    assert torch.equal(model.logits_map()(states), 2 * once)
    model.logits = lambda hidden: 3 * once
    assert torch.equal(model.logits_map()(states), 3 * once)
