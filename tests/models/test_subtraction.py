"""Positional subtraction in the decoder: z_t - P[t + 1], the table it needs, and the ids of runs from before it."""

import pytest
import torch
from torch.nn import functional as F

from palinode.base.config import decode, encode, identity
from palinode.base.errors import BadInput
from palinode.base.seeds import generator
from palinode.base.visibility import Ltr
from palinode.models import DecoderConfig, gpt2, modern

SMALL = {"layers": 2, "width": 32, "heads": 2}
SLOTS, VOCABULARY = 12, 50


def tokens_of(rows: int, slots: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, slots), generator=generator(0, "test tokens"))


def model_with(seed: int = 0, **options):
    model = DecoderConfig(**SMALL, **options).build(VOCABULARY, SLOTS, seed).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator(seed, "test weights", name))
    return model


def without(model, **options):
    """The same weights without the subtraction."""
    plain = DecoderConfig(**SMALL, **options).build(VOCABULARY, SLOTS, 0).double()
    state = model.state_dict()
    shapes = {name: weight.shape for name, weight in plain.state_dict().items()}
    plain.load_state_dict({name: state[name][: shape[0]] for name, shape in shapes.items()})
    return plain


def test_the_next_row_of_the_table_is_subtracted():
    model, tokens = model_with(subtract_position="plain"), tokens_of(3, 9)
    assert model.position.weight.shape[0] == SLOTS + 1
    expected = without(model).hidden(tokens, Ltr()) - model.position.weight[1:10]
    assert torch.equal(model.hidden(tokens, Ltr()), expected)


def test_a_norm_may_follow():
    model, tokens = model_with(subtract_position="norm"), tokens_of(3, 9)
    plain = without(model).hidden(tokens, Ltr()) - model.position.weight[1:10]
    assert torch.equal(model.hidden(tokens, Ltr()), F.layer_norm(plain, (32,), model.next_position.norm.gain))


@pytest.mark.parametrize("position", ["learned", "rotary", "none"])
def test_a_table_of_its_own_leaves_the_positions_alone(position):
    options = {"position": position}
    model, tokens = model_with(subtract_position="plain", subtract_table="separate", **options), tokens_of(3, 9)
    expected = without(model, **options).hidden(tokens, Ltr()) - model.next_position.table.weight[:9]
    assert torch.equal(model.hidden(tokens, Ltr()), expected)
    names = [name for name, _ in model.parameter_groups()["position"]]
    assert names == (["next_position.table.weight"] + (["position.weight"] if position == "learned" else []))


def test_row_0_is_never_subtracted_and_the_last_is_never_an_input():
    model = model_with(subtract_position="plain")
    states = model.hidden(tokens_of(2, SLOTS), Ltr())
    states[:, 0].sum().backward(retain_graph=True)
    assert model.position.weight.grad[1].abs().sum() > 0
    model.zero_grad()
    states[:, -1].sum().backward()
    assert torch.equal(model.position.weight.grad[SLOTS], torch.full((32,), -2.0, dtype=torch.float64))


@pytest.mark.parametrize("table", ["shared", "separate"])
def test_slots_with_positions_of_their_own_are_given_their_rows(table):
    model = model_with(subtract_position="plain", subtract_table=table)
    where = torch.arange(4, 9)
    moved = model.finished(torch.zeros(2, 5, 32).double(), where)
    rows = model.position.weight[5:10] if table == "shared" else model.next_position.table.weight[4:9]
    assert torch.equal(moved[0], -rows)


def test_the_ids_of_earlier_runs_stay_and_options_survive_a_round_trip():
    before = identity(gpt2(**SMALL))
    assert "subtract_position" not in before
    assert "subtract_table" not in before
    config = modern(**SMALL).with_(subtract_position="norm", subtract_table="separate")
    assert identity(config)["subtract_position"] == "norm"
    written = encode(config)
    written.pop("kind")
    assert decode(DecoderConfig, written) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"position": "rotary", "subtract_position": "plain"},
            "subtract_table: the model has no table of learned positions",
        ),
        ({"position": "none", "subtract_position": "norm"}, 'subtract_table: .* set subtract_table = "separate"'),
        ({"subtract_table": "separate"}, "subtract_table is 'separate', but subtract_position is 'none'"),
        ({"subtract_position": "yes"}, "subtract_position"),
    ],
)
def test_a_subtraction_without_a_table_is_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        decode(DecoderConfig, fields)


@pytest.mark.parametrize("options", [{}, {"position": "none", "subtract_table": "separate"}], ids=str)
def test_rows_longer_than_the_table_are_refused(options):
    model = model_with(subtract_position="plain", **options)
    with pytest.raises(BadInput, match="13 slots is longer than the table of 12"):
        model.hidden(tokens_of(1, 13), Ltr())
