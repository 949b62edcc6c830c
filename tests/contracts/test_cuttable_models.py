"""Every model in the table that can be cut: what one reading says after k blocks is what a model of those k blocks says."""

import pytest
import torch

from palinode import FlippedLowerTriangle
from palinode.base.example import Draw, SpecialTokens, joined
from palinode.base.seeds import generator
from palinode.base.visibility import Full, Ltr
from palinode.models import MODELS, modern
from palinode.models.base import LanguageModel
from palinode.models.decoder import DecoderConfig
from palinode.models.direction import finished, logits_for, read, residuals
from palinode.models.mixers.attention import AttentionConfig
from palinode.models.mixers.convolutional import HyenaConfig
from palinode.models.mixers.state_space import H3Config
from palinode.objectives import BothObjective, LtrObjective, RtlObjective

SPECIALS = SpecialTokens(20)
SLOTS, BLOCKS = 9, 3
SMALL = {"layers": BLOCKS, "width": 16, "heads": 2}


def fewer_layers(config, blocks):
    return config.with_(layers=blocks)


def fewer_decoder_layers(config, blocks):
    return config.with_(decoder_layers=blocks)


CONFIGS = {
    "decoder": (MODELS["decoder"](**SMALL, norm_gain=True, bias=True), fewer_layers),
    "latent": (MODELS["latent"](**SMALL), fewer_layers),
    "encoder_decoder": (
        MODELS["encoder_decoder"](encoder_layers=2, decoder_layers=BLOCKS, width=16, heads=2, bias=True),
        fewer_decoder_layers,
    ),
}
CASES = {
    **CONFIGS,
    "modern": (modern(**SMALL), fewer_layers),
    "modern N": (modern(**SMALL, preset="N"), fewer_layers),
    "subtracting": (MODELS["decoder"](**SMALL, subtract_position="norm"), fewer_layers),
    "encoder_decoder, weighted": (
        MODELS["encoder_decoder"](
            decoder_layers=BLOCKS, width=16, heads=2, memory="weighted", cross_gate=True, subtract_position="norm"
        ),
        fewer_decoder_layers,
    ),
}


def built(config):
    model = config.build(SPECIALS.vocab_size, SLOTS, 0).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # the same weight under the same name, whatever the depth
            parameter.normal_(0.0, 0.5, generator=generator(0, "cut weights", name))
    return model.eval()


def examples():
    windows = torch.randint(0, 20, (4, SLOTS), generator=generator(0, "cut windows"))
    ltr, rtl = LtrObjective().example(windows, Draw(), SPECIALS), RtlObjective().example(windows, Draw(), SPECIALS)
    every = Draw({"rtl": torch.tensor([True, False, True, True])})
    published = RtlObjective(sees=FlippedLowerTriangle()).example(windows, Draw(), SPECIALS)
    return {
        "ltr": ltr,
        "rtl": rtl,
        "both": BothObjective().example(windows, every, SPECIALS),
        "with a mask": joined([published, rtl, ltr]),
        "full": RtlObjective(sees=Full()).example(windows, Draw(), SPECIALS),
    }


def test_every_kind_is_in_this_suite_or_says_that_it_cannot_be_cut(open_model):
    assert set(CONFIGS) | {open_model.kind} == set(MODELS)
    assert not open_model.build(SPECIALS.vocab_size, SLOTS, 0).can_be_cut()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reading", examples())
def test_one_reading_equals_removing_blocks_at_every_depth(case, reading):
    config, shorter = CASES[case]
    example, whole = examples()[reading], built(config)
    assert whole.can_be_cut()
    seen = list(residuals(whole, example))
    assert len(seen) == whole.depths() == BLOCKS
    for blocks, residual in enumerate(seen, 1):
        alone = built(shorter(config, blocks))
        assert alone.depths() == blocks
        states = finished(example, residual, whole.finished)
        assert (states - read(alone, example)).abs().max() < 1e-12
        assert (whole.logits(states) - logits_for(alone, example)).abs().max() < 1e-12
    assert (whole.logits(whole.finished(seen[0])) - whole.logits(whole.finished(seen[-1]))).abs().max() > 0.1


def test_a_hybrid_stack_is_cut_like_any_other():
    """Mixers that have no form for an explicit mask are read left to right alone; the first k of the list stay."""
    mixers = (HyenaConfig(), AttentionConfig(), H3Config())
    config = DecoderConfig(**SMALL, position="none", mixers=mixers)
    windows = torch.randint(0, 20, (2, SLOTS), generator=generator(0, "windows"))
    example, whole = LtrObjective().example(windows, Draw(), SPECIALS), built(config)
    for blocks, residual in enumerate(residuals(whole, example), 1):
        alone = built(config.with_(layers=blocks, mixers=mixers[:blocks]))
        assert (finished(example, residual, whole.finished) - read(alone, example)).abs().max() < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_no_block_runs_before_its_depth_is_asked_for(case):
    config, _ = CASES[case]
    model, ran = built(config), []
    for block in model.blocks:
        block.register_forward_hook(lambda *_: ran.append(1))
    for depth, _ in enumerate(model.residuals(torch.zeros(1, SLOTS, dtype=torch.long), Ltr()), 1):
        assert len(ran) == depth


class Reversing(type(built(modern(**SMALL)))):
    """A user's stack that has its own way of reading, and inherits the cut of another."""

    def hidden(self, tokens, sees):
        return super().hidden(tokens.flip(1), sees)


class Uncut(LanguageModel):
    """A model that says nothing of blocks."""


def test_a_model_that_reads_in_its_own_way_does_not_inherit_the_cut():
    config = modern(**SMALL)
    assert not Reversing(config, SPECIALS.vocab_size, SLOTS).can_be_cut()
    assert not Uncut().can_be_cut()
    with pytest.raises(NotImplementedError, match="Uncut cannot be cut"):
        Uncut().residuals(torch.zeros(1, 1), Ltr())
