"""A list of mixers: layer l has mixers[l mod how many]; everything that walks the layers walks each one's own."""

from typing import ClassVar

import pytest
import torch

from palinode.audit.palinode_models import small_config
from palinode.base.config import decode, encode, identity
from palinode.base.errors import BadInput
from palinode.base.visibility import Full, Ltr, Prefix
from palinode.models import DecoderConfig
from palinode.models.cost import LayerCost
from palinode.models.mixers.attention import Attention, AttentionConfig, LinearAttentionConfig, SlidingWindowConfig
from palinode.models.mixers.base import Mixer, MixerConfig

SMALL = {"width": 16, "heads": 2, "position": "none"}


class Shift(Mixer):
    """Reads the slot before; costs one number of state and 3 FLOPs."""

    def forward(self, x, reading):
        return torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]

    def cost(self, slots, pairs):
        return LayerCost(3.0, 3.0, 1)


class ShiftConfig(MixerConfig):
    visibilities: ClassVar[frozenset] = frozenset({"causal"})

    def build(self, place):
        return Shift()


HYBRID = (AttentionConfig(), ShiftConfig())


def kinds(model):
    return [type(block.mixer) for block in model.blocks]


def test_layers_take_turns():
    model = DecoderConfig(layers=5, **SMALL, mixers=HYBRID).build(20, 12, 0)
    assert kinds(model) == [Attention, Shift, Attention, Shift, Attention]
    plain = DecoderConfig(layers=5, **SMALL).build(20, 12, 0)
    shared = dict(plain.named_parameters())
    assert all(torch.equal(value, shared[name]) for name, value in model.named_parameters())


def test_cost_and_groups_are_those_of_each_layer():
    model = DecoderConfig(layers=3, **SMALL, mixers=HYBRID).build(20, 12, 0)
    alone = DecoderConfig(layers=1, **SMALL).build(20, 12, 0)
    mlp = 2.0 * 8 * 16 * 16
    whole, one = model.cost(8, Ltr()), alone.cost(8, Ltr())
    assert whole.executed_flops_per_slot == 2 * one.executed_flops_per_slot + 3.0 + mlp
    assert whole.state_elements == 2 * one.state_elements + 1
    assert sum(model.parameter_counts().values()) == sum(p.numel() for p in model.parameters())


def test_a_visibility_that_one_layer_cannot_read_is_refused_by_name():
    model = DecoderConfig(layers=2, **SMALL, mixers=HYBRID).build(20, 12, 0)
    tokens = torch.zeros(1, 6, dtype=torch.long)
    model.hidden(tokens, Ltr())
    with pytest.raises(BadInput, match="the mixer user:ShiftConfig cannot read full: it has no full form"):
        model.hidden(tokens, Full())
    with pytest.raises(BadInput, match="cannot read prefix: it has no form for explicit masks"):
        model.hidden(tokens, Prefix(length_slots=2))
    DecoderConfig(layers=1, **SMALL, mixers=HYBRID).build(20, 12, 0).hidden(tokens, Full())


def test_options_need_one_reader_among_the_layers_and_mixer_may_not_be_set_too():
    DecoderConfig(layers=2, **SMALL, mixers=HYBRID, qk_norm=True)
    with pytest.raises(BadInput, match="the mixer user:ShiftConfig does not read qk_norm: set"):
        decode(DecoderConfig, {"mixers": [ShiftConfig()], "qk_norm": True})
    with pytest.raises(BadInput, match=r"mixer = user:ShiftConfig has no layer"):
        decode(DecoderConfig, {"mixers": [AttentionConfig()], "mixer": ShiftConfig()})


def test_all_unread_options_are_told_at_once_with_what_takes_them_back():
    options = {"width": 16, "heads": 2, "qk_norm": True, "attention_scale": 2.0, "position": "rotary"}
    with pytest.raises(BadInput) as caught:
        decode(DecoderConfig, {**options, "mixers": [ShiftConfig()]})
    assert str(caught.value) == (
        "the mixer user:ShiftConfig does not read qk_norm, rotary, attention_scale: "
        'set model.qk_norm = false, model.position = "none", model.attention_scale = 1'
    )


def test_every_attention_of_a_hybrid_reads_the_options_that_are_set():
    two = {"width": 16, "heads": 2, "mixers": (AttentionConfig(), SlidingWindowConfig(window=4))}
    for read in ({"qk_norm": True}, {"position": "rotary"}, {"attention_scale": 2.0}, {"position": "learned"}):
        DecoderConfig(layers=2, **(two | read))
    with pytest.raises(BadInput, match="the mixer sliding_window does not read alibi: set model.position"):
        decode(DecoderConfig, {"layers": 2, **two, "position": "alibi"})
    combined = two | {"mixers": (AttentionConfig(), LinearAttentionConfig(), ShiftConfig())}
    DecoderConfig(layers=3, **combined, position="alibi", qk_norm=True)  # those two read no such option at all


def test_from_plain_data_and_back():
    config = decode(DecoderConfig, {"mixers": [{"kind": "attention"}, {"kind": "attention"}]})
    assert config.mixers == (AttentionConfig(), AttentionConfig())
    assert decode(DecoderConfig, {k: v for k, v in encode(config).items() if k != "kind"}) == config
    with pytest.raises(BadInput, match="did you mean 'attention'") as caught:
        decode(DecoderConfig, {"mixers": [{"kind": "atention"}]})
    assert caught.value.field == "mixers.0"
    assert "mixers" not in identity(DecoderConfig())


@pytest.mark.parametrize(
    ("layers", "mixers", "wanted"),
    [
        (2, HYBRID, [Attention, Shift]),
        (12, HYBRID, [Attention, Shift, Attention, Shift]),
        (12, (AttentionConfig(),) * 9 + (ShiftConfig(),) * 3, [Attention, Shift, Attention, Shift]),
        (12, (AttentionConfig(),) * 12 + (ShiftConfig(),), [Attention] * 4),
    ],
)
def test_what_is_audited_has_one_of_each(layers, mixers, wanted):
    small = small_config(DecoderConfig(layers=layers, **SMALL, mixers=mixers), 4, 128)
    assert kinds(small.build(20, 12, 0)) == wanted


def test_what_is_audited_keeps_more_layers_where_there_are_more_kinds():
    small = small_config(DecoderConfig(layers=12, **SMALL, mixers=HYBRID), 1, 128)
    assert kinds(small.build(20, 12, 0)) == [Attention, Shift]


def test_it_steps_only_where_every_layer_can():
    assert not DecoderConfig(layers=2, **SMALL, mixers=HYBRID).build(20, 12, 0).can_step()
    assert DecoderConfig(layers=1, **SMALL, mixers=HYBRID).build(20, 12, 0).can_step()
