"""Reading on: chunks of any size from a state give the states of one pass, for every model and option; others are reread."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from palinode import HfModel
from palinode.base.errors import BadInput
from palinode.base.seeds import generator
from palinode.base.visibility import Ltr
from palinode.models import MODELS, DecoderConfig, EncoderDecoderConfig, LatentConfig, gpt2, modern
from palinode.models.base import LanguageModel, Reread, begin, extend
from palinode.models.block import DecoderBlock, Mlp
from palinode.models.decoder import Decoder
from palinode.models.mixers import MIXERS
from palinode.models.mixers.attention import Attention, AttentionConfig
from palinode.models.mixers.base import Mixer
from palinode.models.mixers.state_space import H3Config

VOCABULARY, LONGEST = 30, 24
SMALL = {"layers": 2, "width": 32, "heads": 2}
TWO_STACKS = {"encoder_layers": 2, "decoder_layers": 2, "width": 32, "heads": 2}
ROTARY = {"position": "rotary", "subtract_table": "separate"}
MIXER_OPTIONS = {"sliding_window": {"window": 5}, "hyena": {"order": 3}, "monarch": {"residual_conv": True}}
CONFIGS = {
    "gpt2": gpt2(**SMALL),
    "gpt2 with bias and dropout": gpt2(**SMALL, bias=True, dropout=0.5),
    "modern S": modern(**SMALL),
    "modern N": modern(**SMALL, preset="N"),
    "learned, qk-norm": DecoderConfig(**SMALL, qk_norm=True),
    "full rotary": DecoderConfig(**SMALL, position="rotary"),
    "half rotary": DecoderConfig(**SMALL, position="rotary", rotary="half"),
    "alibi": DecoderConfig(**SMALL, position="alibi"),
    "no positions, swiglu": DecoderConfig(**SMALL, position="none", mlp="swiglu"),
    "subtraction": DecoderConfig(**SMALL, subtract_position="plain"),
    "subtraction from its own table, norm": DecoderConfig(**SMALL, subtract_position="norm", **ROTARY),
    **{kind: DecoderConfig(**SMALL, position="none", mixer=made()) for kind, made in MIXERS.items()},
    "hybrid": DecoderConfig(**SMALL, mixers=(H3Config(head_width=2), AttentionConfig())),
    "latent": LatentConfig(layers=2, width=32),
    "latent, heads": LatentConfig(layers=2, width=32, heads=2),
    "latent, linear value": LatentConfig(layers=2, width=32, linear_value=True),
    "encoder-decoder": EncoderDecoderConfig(**TWO_STACKS),
    "encoder-decoder, cross first, bias": EncoderDecoderConfig(**TWO_STACKS, order="cross_first", bias=True),
    "encoder-decoder, unequal": EncoderDecoderConfig(**{**TWO_STACKS, "decoder_layers": 1}, cross_heads=1),
    "encoder-decoder, next position, bridge norm": EncoderDecoderConfig(
        **TWO_STACKS, add_next_position=True, bridge_norm=True
    ),
    "encoder-decoder, rotary": EncoderDecoderConfig(**TWO_STACKS, subtract_position="norm", **ROTARY),
    "encoder-decoder, gates, weighted memory": EncoderDecoderConfig(**TWO_STACKS, cross_gate=True, memory="weighted"),
    "encoder-decoder, memory of the stack": EncoderDecoderConfig(**TWO_STACKS, cross_gate=True, memory="stack"),
    **{
        f"mixer {kind}": DecoderConfig(**SMALL, position="none", mixer=made(**MIXER_OPTIONS.get(kind, {})))
        for kind, made in MIXERS.items()
    },
}


def model_of(config, dtype=torch.float64, longest=LONGEST):
    """Weights wide enough that every path matters: a start at zero would hide a wrong state."""
    model = config.build(VOCABULARY, longest, 0).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator(0, "w", name), dtype=torch.float64)
            spread = 1.0 if "embedding" in name or "position" in name else 1 / parameter.shape[-1] ** 0.5
            parameter.copy_(noise * spread if parameter.dim() > 1 else 0.5 + 0.1 * noise)
        for module in model.modules():
            if hasattr(module, "raw_slope"):
                module.raw_slope.fill_(-3.0)
    return model


@cache
def built(name):
    return model_of(CONFIGS[name], longest=80)


def tokens_of(rows: int, slots: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, slots), generator=generator(rows, "test tokens"))


def in_chunks(model, tokens, chunks, room=None):
    state, parts, first = begin(model, len(tokens), room), [], 0
    for chunk in chunks:
        states, state = extend(model, tokens[:, first : first + chunk], state)
        parts.append(states)
        first += chunk
    assert first == tokens.shape[1] == state.read
    return torch.cat(parts, 1)


def difference(model, tokens, chunks, room=None) -> float:
    with torch.no_grad():
        whole = model.hidden(tokens, Ltr())
        return float((in_chunks(model, tokens, chunks, room) - whole).abs().max() / whole.std())


def test_every_kind_and_every_mixer_is_in_this_suite():
    assert {type(config) for config in CONFIGS.values()} | {HfModel} == set(MODELS.values())
    assert {type(config.mixer) for config in CONFIGS.values() if isinstance(config, DecoderConfig)} == set(
        MIXERS.values()
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_slot_by_slot_equals_one_pass(name):
    model = model_of(CONFIGS[name])
    assert model.can_step()
    assert difference(model, tokens_of(3, LONGEST), [1] * LONGEST) < 1e-10
    assert difference(model, tokens_of(1, 9), [9]) < 1e-10
    assert difference(model_of(CONFIGS[name], torch.float32), tokens_of(3, LONGEST), [4] + [1] * 20) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=6)
@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=8), rows=st.integers(1, 3), spare=st.integers(0, 3))
def test_any_chunks_equal_one_pass(name, chunks, rows, spare):
    slots = sum(chunks)
    assert difference(built(name), tokens_of(rows, slots), chunks, slots + spare) < 1e-10


@settings(max_examples=10)
@given(chunks=st.lists(st.integers(1, 150), min_size=2, max_size=4))
def test_chunks_across_the_latent_models_blocks_of_slots(chunks):
    model = model_of(CONFIGS["latent, heads"], longest=sum(chunks))
    assert difference(model, tokens_of(2, sum(chunks)), chunks) < 1e-10


@pytest.mark.parametrize("name", CONFIGS)
def test_modules_keep_nothing_and_two_texts_may_grow_at_once(name):
    model, one, other = model_of(CONFIGS[name]), tokens_of(2, 8), tokens_of(3, 8)
    before = [set(vars(module)) for module in model.modules()]
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = begin(model, 2, 8), begin(model, 3, 8)
    with torch.no_grad():
        for slot in range(8):
            at_first, first = extend(model, one[:, slot : slot + 1], first)
            at_second, second = extend(model, other[:, slot : slot + 1], second)
        assert torch.allclose(at_first, model.hidden(one, Ltr())[:, -1:], atol=1e-10, rtol=0)
        assert torch.allclose(at_second, model.hidden(other, Ltr())[:, -1:], atol=1e-10, rtol=0)
    assert [set(vars(module)) for module in model.modules()] == before
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_full_state_takes_no_more(name):
    model = model_of(CONFIGS[name])
    state = begin(model, 1, 4)
    with torch.no_grad():
        _, state = extend(model, tokens_of(1, 3), state)
        with pytest.raises(ValueError, match="room for 4 slots, 3 are read, 2 do not fit"):
            extend(model, tokens_of(1, 2), state)


def test_a_state_longer_than_the_table_of_positions_is_refused_when_it_is_begun():
    for name in ("gpt2", "encoder-decoder", "subtraction from its own table, norm"):
        with pytest.raises(BadInput, match="longer than the table"):
            begin(model_of(CONFIGS[name]), 1, LONGEST + 1)


class Halved(Decoder):
    """A user's model that replaces the reading alone."""

    def hidden(self, tokens, sees):
        return super().hidden(tokens, sees) * 0.5


class Noisy(Attention):
    """A user's mixer that replaces the reading alone: it reads its neighbour too."""

    def forward(self, x, reading):
        out = super().forward(x, reading)
        return out + nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]


class Shifting(Mlp):
    """An MLP that reads the slot before."""

    def forward(self, x):
        return super().forward(x + nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])


class RunningMean(Mixer):
    """A user's mixer with an exact step: the mean of what was read."""

    def forward(self, x, reading):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]

    def begin(self, rows, slots):
        return (0, 0.0)

    def extend(self, x, reading, state):
        count, total = state
        sums = total + x.cumsum(1)
        counts = torch.arange(count + 1, count + x.shape[1] + 1, dtype=x.dtype)
        return sums / counts[:, None], (count + x.shape[1], sums[:, -1:])


def replaced_hidden(model):
    model.__class__ = Halved


def replaced_mixer(model):
    model.blocks[1].mixer.__class__ = Noisy


def replaced_method(model):
    inner = model.hidden
    model.hidden = lambda tokens, sees: inner(tokens, sees) * 2


def hooked_block(model):
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: (inputs[0] * 2, *inputs[1:]))


def shifting_mlp(model):
    model.blocks[0].mlp.__class__ = Shifting


REPLACED = (replaced_hidden, replaced_mixer, replaced_method, hooked_block, shifting_mlp)


@pytest.mark.parametrize("replace_part", REPLACED)
def test_who_replaced_the_reading_alone_is_reread(replace_part):
    """The step it inherits would tell another model."""
    model = model_of(CONFIGS["gpt2"])
    replace_part(model)
    assert not model.can_step()
    assert isinstance(begin(model, 2), Reread)
    assert difference(model, tokens_of(2, 12), [5, 1, 1, 3, 2]) < 1e-12
    model.can_step = lambda: True
    assert difference(model, tokens_of(2, 12), [5, 1, 1, 3, 2]) > 1e-3, "the inherited step would have been wrong"


@pytest.mark.parametrize("part", ["mixer", "cross", "itself"])
def test_the_parts_of_a_cross_block_are_asked_too(part):
    model = model_of(CONFIGS["encoder-decoder"])
    module = model.blocks[1] if part == "itself" else getattr(model.blocks[1], part)
    module.register_forward_hook(lambda module, inputs, output: output * 2)
    assert isinstance(model.blocks[1], DecoderBlock)
    assert not model.can_step()
    assert difference(model, tokens_of(2, 6), [4, 1, 1]) < 1e-12


def test_who_replaces_both_steps_with_its_own():
    model = model_of(CONFIGS["gpt2"])
    model.blocks[0].mixer = RunningMean()
    assert model.can_step()
    assert difference(model, tokens_of(2, 12), [5, 1, 1, 3, 2]) < 1e-10


def test_a_model_that_only_reads_is_reread():
    class Own(LanguageModel):
        vocab_size, max_length = VOCABULARY, 9

        def hidden(self, tokens, sees):
            return tokens[..., None].double().cumsum(1)

    model = Own()
    assert not model.can_step()
    with pytest.raises(NotImplementedError, match="Own cannot step"):
        model.begin(1, 3)
    assert difference(model, tokens_of(2, 9), [1, 4, 4]) == 0
    with pytest.raises(ValueError, match="room for 9"):
        extend(model, tokens_of(2, 10), begin(model, 2))


def test_a_mixer_without_a_step_says_so():
    class Still(Mixer):
        def forward(self, x, reading):
            return x

    mixer = Still()
    assert not mixer.can_step()
    with pytest.raises(NotImplementedError, match="Still cannot step"):
        mixer.begin(1, 2)


def test_an_old_state_is_not_changed_in_what_it_says():
    """A state is a value: what it counts stays, only its buffers are shared."""
    model = model_of(CONFIGS["modern S"])
    state = begin(model, 1, 6)
    with torch.no_grad():
        extend(model, tokens_of(1, 4), state)
    assert (state.read, state.slots) == (0, 6)


def test_an_open_model_reads_on_as_in_one_pass(open_model):
    model = open_model.build(VOCABULARY, LONGEST, 0).double().eval()
    for chunks in ([1] * LONGEST, [5, 1, 10, 8]):
        assert (
            difference(model, tokens_of(3, LONGEST), chunks, LONGEST) < 1e-6
        )  # the rotary table of transformers is float32
