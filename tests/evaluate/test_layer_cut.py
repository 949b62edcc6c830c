"""The cut: equal to removing blocks, from one reading of the stack, with the head in pieces, and refused where it means nothing."""

import copy

import numpy as np
import pytest
import torch

import palinode.evaluate.layer_cut
from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.seeds import generator
from palinode.data.windows import evaluation_windows
from palinode.evaluate.layer_cut import cut_layers
from palinode.evaluate.losses import Scoring, evaluate, evaluation_passes
from palinode.models import gpt2, modern
from palinode.models.base import LanguageModel
from palinode.objectives import BothObjective, LtrObjective

VOCABULARY, WINDOW, BLOCKS = 19, 10, 4
SPECIALS = SpecialTokens(VOCABULARY)
TOKENS = torch.randint(0, VOCABULARY, (173,), generator=generator(0, "text")).numpy().astype(np.uint16)
SMALL = {"layers": BLOCKS, "width": 16, "heads": 2, "dropout": 0.2}


@pytest.fixture(params=[gpt2(**SMALL), modern(**SMALL)], ids=["gpt2", "modern"])
def model(request):
    made = request.param.build(SPECIALS.vocab_size, WINDOW, 0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(0.0, 0.3, generator=generator(0, "weights", name))
    return made


def score_windows(measure, model, objective=None, **changes):
    return measure(
        model,
        evaluation_windows(TOKENS, WINDOW, batch_windows=4),
        evaluation_passes(objective or BothObjective(), ("ltr", "rtl")),
        Scoring(SPECIALS, np.arange(1, VOCABULARY + 1), seed=0),
        **changes,
    )


def without_blocks_above(model, blocks):
    shorter = copy.deepcopy(model)
    shorter.blocks = shorter.blocks[:blocks]
    return shorter


def test_scores_are_those_of_the_model_with_blocks_removed(model):
    cut = score_windows(cut_layers, model)
    assert set(cut.scores) == {"ltr", "rtl"}
    for blocks in range(1, BLOCKS + 1):
        expected = score_windows(evaluate, without_blocks_above(model, blocks)).scores
        for name, curve in cut.scores.items():
            result = curve[blocks - 1]
            assert result.blocks == blocks
            assert result.nats_sum == pytest.approx(expected[name].nats_sum, rel=1e-6)
            assert result.bits_per_byte == pytest.approx(expected[name].bits_per_byte, rel=1e-6)
            assert result.perplexity == pytest.approx(expected[name].perplexity, rel=1e-6)
            assert (result.hits, result.tokens_scored) == (expected[name].hits, expected[name].tokens_scored)
    assert cut.scores["ltr"][0].nats_per_token != pytest.approx(cut.scores["ltr"][-1].nats_per_token, abs=0.01)
    assert cut.refitted == {}


@pytest.mark.parametrize("defect", ["no final norm", "another model's head"])
def test_m50_a_cut_read_in_another_way_is_not_that_of_the_shorter_model(model, defect):
    """M50: the equality above notices a cut that skips the final norm, or reads the state with the wrong head."""
    honest = score_windows(cut_layers, model).scores["ltr"][0].nats_per_token
    broken = copy.deepcopy(model)
    if defect == "no final norm":
        broken.finished = lambda residual: residual
    else:
        wrong = copy.deepcopy(model)
        with torch.no_grad():
            wrong.linear_head().weight.normal_(0.0, 0.3, generator=generator(1, "another head"))
        broken.logits = wrong.logits
    assert abs(score_windows(cut_layers, broken).scores["ltr"][0].nats_per_token - honest) > 1e-3


def test_the_whole_model_scores_what_it_scores_in_evaluation(model):
    cut, scores = score_windows(cut_layers, model), score_windows(evaluate, model).scores
    for name, curve in cut.scores.items():
        assert curve[-1].nats_sum == scores[name].nats_sum
        assert curve[-1].accuracy == scores[name].accuracy


def test_the_stack_is_read_once_for_each_batch_and_pass(model):
    ran = []
    for block in model.blocks:
        block.register_forward_hook(lambda *_: ran.append(1))
    score_windows(evaluate, model)
    once = len(ran)
    score_windows(cut_layers, model)
    assert len(ran) == 2 * once


def test_the_head_works_in_pieces_and_the_pieces_do_not_matter(model, monkeypatch):
    expected, largest = score_windows(cut_layers, model), []
    made = model.logits
    monkeypatch.setattr(model, "logits", lambda states: largest.append(states.shape[:-1].numel()) or made(states))
    monkeypatch.setattr(palinode.evaluate.layer_cut, "CHUNK_LOGITS", 7 * SPECIALS.vocab_size)
    cut = score_windows(cut_layers, model)
    assert max(largest) == 7
    for name, curve in cut.scores.items():
        assert [item.nats_sum for item in curve] == pytest.approx([item.nats_sum for item in expected.scores[name]])
        assert [item.hits for item in curve] == [item.hits for item in expected.scores[name]]


def test_it_goes_through_the_objectives_own_passes(model):
    bare = score_windows(cut_layers, model, LtrObjective(direction_token=False))
    marked = score_windows(cut_layers, model, LtrObjective())
    windows = -(-len(TOKENS) // WINDOW)
    assert bare.scores["rtl"][0].tokens_scored == len(TOKENS) - windows
    assert marked.scores["rtl"][0].tokens_scored == len(TOKENS)


def test_modes_generators_and_gradients_are_left_alone(model):
    model.train()
    before = torch.random.get_rng_state()
    first, second = (score_windows(cut_layers, model) for _ in range(2))
    assert first == second
    assert model.training
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


class Uncut(LanguageModel):
    """A model that says nothing of blocks."""


def test_a_model_that_cannot_be_cut_is_refused_by_name():
    with pytest.raises(BadInput, match=r"evaluation\.layer_cut: a Uncut cannot be cut"):
        score_windows(cut_layers, Uncut())


@pytest.mark.parametrize("blocks", [0, -1, BLOCKS + 1, 10**9])
def test_a_cut_deeper_than_the_model_is_refused(model, blocks):
    cut = score_windows(cut_layers, model)
    with pytest.raises(BadInput, match="the model has 4 blocks"):
        cut.with_blocks(blocks)
    assert [curve[0].blocks for curve in cut.with_blocks(3).scores.values()] == [3, 3]
