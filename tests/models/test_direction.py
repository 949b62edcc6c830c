"""rtl is the flip of a causal model at its edge; that equals the upper triangle with positions from the right end."""

from dataclasses import replace

import pytest
import torch

from palinode.base.example import Draw, SpecialTokens, joined
from palinode.base.seeds import generator
from palinode.base.visibility import Flipped, FlippedLowerTriangle, Full, Ltr, Rtl
from palinode.models import DecoderConfig, logits_for, read
from palinode.objectives import LtrObjective, RtlObjective

VOCABULARY = 20
SPECIALS = SpecialTokens(VOCABULARY)
POSITIONS = [
    {"position": "none"},
    {"position": "learned"},
    {"position": "rotary"},
    {"position": "rotary", "rotary": "half"},
]


def ltr_pass(windows):
    return LtrObjective().example(windows, Draw(), SPECIALS)


def rtl_pass(windows, sees=None):
    return RtlObjective(sees=sees or Rtl()).example(windows, Draw(), SPECIALS)


def model_with(options: dict, slots: int = 12, seed: int = 0):
    config = DecoderConfig(layers=2, width=16, heads=2, qk_norm=True, attention_scale=3.0, **options)
    model = config.build(SPECIALS.vocab_size, slots, seed).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator(seed, "test weights", name))
    return model


def windows_of(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, tokens), generator=generator(1, "test windows"))


def at_positions(model, tokens: torch.Tensor, sees, positions: torch.Tensor) -> torch.Tensor:
    """The states of slots that stand at these positions, as `Decoder.extend` reads them."""
    config, reading = model.config, model._reading(tokens, sees)
    if config.position == "rotary":
        reading = replace(reading, rotary=model._rotary(positions, config.heads, config.rotary, config.rotary_base))
    x = model._embedded(tokens, positions)
    for block in model.blocks:
        x = block(x, reading)
    return model.finished(x, positions)


@pytest.mark.parametrize("options", POSITIONS, ids=str)
@pytest.mark.parametrize("slots", [2, 3, 7, 12])
def test_flipping_equals_the_upper_triangle_with_flipped_positions(options, slots):
    model = model_with(options)
    example = rtl_pass(windows_of(3, slots))
    flipped = read(model, example)
    upper = Flipped(of=Ltr())
    assert torch.equal(upper.mask(slots), torch.ones(slots, slots, dtype=torch.bool).triu())
    from_the_right = torch.arange(slots).flip(0)
    masked = at_positions(model, example.inputs, upper, from_the_right)
    assert (flipped - masked).abs().max() < 1e-12


@pytest.mark.parametrize("options", POSITIONS[1:], ids=str)
def test_natural_positions_are_another_model(options):
    model = model_with(options)
    example = rtl_pass(windows_of(3, 12))
    assert (read(model, example) - model.hidden(example.inputs, Flipped(of=Ltr()))).abs().max() > 0.1


@pytest.mark.parametrize("options", POSITIONS, ids=str)
def test_both_directions_read_as_one_batch_equal_two_batches(options):
    model = model_with(options)
    windows = windows_of(5, 12)
    ltr = ltr_pass(windows)
    rtl = rtl_pass(windows[[0, 3]])
    calls = []
    original = model.hidden
    model.hidden = lambda tokens, sees: calls.append(len(tokens)) or original(tokens, sees)
    together = read(model, joined([ltr, rtl]))
    assert calls == [7], "ltr and rtl must be read in one pass"
    assert torch.allclose(together, torch.cat([read(model, ltr), read(model, rtl)]), atol=1e-13, rtol=0)


def test_a_group_with_another_visibility_is_read_by_itself_and_keeps_its_place():
    model = model_with({"position": "learned"})
    windows = windows_of(4, 12)
    published = rtl_pass(windows, FlippedLowerTriangle(size=1024))
    ltr, rtl = ltr_pass(windows), rtl_pass(windows)
    together = read(model, joined([published, ltr, rtl]))
    alone = torch.cat([model.hidden(published.inputs, FlippedLowerTriangle()), read(model, ltr), read(model, rtl)])
    assert torch.allclose(together, alone, atol=1e-13, rtol=0)
    assert torch.allclose(together[:4], model.hidden(published.inputs, Full()), atol=1e-13, rtol=0)


def test_rtl_logits_depend_on_later_slots_and_never_on_earlier_ones():
    model = model_with({"position": "learned"})
    example = rtl_pass(windows_of(1, 12))
    before = logits_for(model, example)
    for slot in range(12):
        inputs = example.inputs.clone()
        inputs[0, slot] = (inputs[0, slot] + 1) % VOCABULARY
        object.__setattr__(example, "inputs", inputs)
        moved = (logits_for(model, example) - before).abs().amax(dim=-1)[0] > 0
        assert moved[: slot + 1].all()
        assert not moved[slot + 1 :].any()
        inputs = inputs.clone()
        inputs[0, slot] = (inputs[0, slot] - 1) % VOCABULARY
        object.__setattr__(example, "inputs", inputs)


def test_logits_for_has_the_shape_of_the_vocabulary():
    model = model_with({})
    example = ltr_pass(windows_of(2, 12))
    assert logits_for(model, example).shape == (2, 12, SPECIALS.vocab_size)
