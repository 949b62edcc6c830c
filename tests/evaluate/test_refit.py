"""The refitted readout: reads what a shallow state holds, changes nothing of the model, and is the same every time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import palinode.evaluate.layer_cut
import palinode.objectives.loss
from palinode.base.example import Draw, SpecialTokens
from palinode.base.seeds import generator
from palinode.data.windows import TrainWindows, evaluation_windows
from palinode.evaluate.layer_cut import cut_layers, refit
from palinode.evaluate.losses import Scoring, evaluation_passes
from palinode.models import gpt2, modern, read
from palinode.objectives import LtrObjective, MaskedObjective
from palinode.objectives.loss import weighted_nats

VOCABULARY, WINDOW, BLOCKS = 24, 16, 3
SPECIALS = SpecialTokens(VOCABULARY)
SCORING = Scoring(SPECIALS, np.ones(VOCABULARY, dtype=np.int64), seed=0)
PASSES = evaluation_passes(LtrObjective(), ("ltr", "rtl"))
CONFIGS = {
    "tied": gpt2(layers=BLOCKS, width=32, heads=2),
    "untied": modern(layers=BLOCKS, width=32, heads=2),
}


def text(count, name):
    """Each token follows from the sum of the two before it, one time in four at random: two blocks' worth of work."""
    noise = torch.randint(0, VOCABULARY, (count,), generator=generator(0, name)).tolist()
    surprise = torch.rand(count, generator=generator(0, name, "surprise")).tolist()
    tokens = [1, 2]
    for place in range(2, count):
        tokens.append(noise[place] if surprise[place] < 0.25 else (tokens[-1] + tokens[-2]) % VOCABULARY)
    return np.array(tokens, dtype=np.uint16)


TRAIN, HELD_OUT = text(40_000, "train"), text(2000, "held out")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.nightly if name == "untied" else []) for name in CONFIGS],
)
def trained(request):
    """A model trained on both directions for a moment."""
    model = CONFIGS[request.param].build(SPECIALS.vocab_size, WINDOW, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, fused=True)
    windows = TrainWindows(TRAIN, WINDOW, 0)
    for step in range(200):
        for objective in PASSES.values():
            example = objective.example(windows.batch(step, 16), Draw(), SPECIALS)
            loss = weighted_nats(example, read(model, example), model.logits_map())
            torch.autograd.backward(loss.total / example.denominator)
        optimizer.step()
        optimizer.zero_grad()
    return model


def refitted(model, steps=120):
    windows = TrainWindows(TRAIN, WINDOW, 1)
    return refit(model, lambda step: windows.read(step, 32), PASSES, SCORING, steps)


def cut(model, refits):
    return cut_layers(
        model,
        evaluation_windows(HELD_OUT, WINDOW),
        PASSES,
        SCORING,
        refits,
    )


def test_refitting_helps_a_shallow_cut_and_hardly_hurts_the_whole_model(trained):
    layer_cut = cut(trained, refitted(trained))
    for name in PASSES:
        raw, refit_scores = layer_cut.scores[name], layer_cut.refitted[name]
        assert [item.blocks for item in refit_scores] == [1, 2, 3]
        assert refit_scores[-1].nats_per_token < raw[-1].nats_per_token + 0.03
        assert refit_scores[0].nats_per_token < raw[0].nats_per_token - 0.1


def test_the_model_and_all_generators_are_left_alone(trained):
    trained.train()
    weights = {name: value.clone() for name, value in trained.state_dict().items()}
    pointers = [parameter.data_ptr() for parameter in trained.parameters()]
    state = torch.random.get_rng_state()
    readouts = refitted(trained, steps=3)
    cut(trained, readouts)
    assert all(torch.equal(value, weights[name]) for name, value in trained.state_dict().items())
    assert pointers == [parameter.data_ptr() for parameter in trained.parameters()]
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert trained.training
    changed = readouts["ltr"][0].parameters
    assert all(not torch.equal(value, weights[name]) for name, value in changed.items())


def test_only_final_norm_and_head_are_trained(trained):
    names = set(refitted(trained, steps=1)["rtl"][0].parameters)
    head = "embedding.weight" if trained.config.tied_head else "head.weight"
    assert {head, "final_norm.gain"} <= names
    assert all(name == head or name.startswith(("final_norm.", "head.")) for name in names)


def same(left, right):
    return all(
        torch.equal(a.parameters[key], b.parameters[key])
        for name in left
        for a, b in zip(left[name], right[name], strict=True)
        for key in a.parameters
    )


def test_twice_the_same_and_depths_may_be_trained_in_groups(trained, monkeypatch):
    first = refitted(trained, steps=3)
    assert same(first, refitted(trained, steps=3))
    monkeypatch.setattr(palinode.evaluate.layer_cut, "BYTES_AT_ONCE", 1)
    assert same(first, refitted(trained, steps=3))
    assert not same(first, refitted(trained, steps=4))


def test_without_steps_the_readouts_are_the_trained_ones(trained):
    layer_cut = cut(trained, refitted(trained, steps=0))
    assert layer_cut.refitted == layer_cut.scores


def test_at_a_large_vocabulary_the_head_is_trained_in_pieces(trained, monkeypatch):
    expected = cut(trained, refitted(trained, steps=5))
    monkeypatch.setattr(palinode.objectives.loss, "DIRECT_LOGITS", 0)
    monkeypatch.setattr(palinode.objectives.loss, "CHUNK_LOGITS", 100 * SPECIALS.vocab_size)
    layer_cut = cut(trained, refitted(trained, steps=5))
    for name, curve in layer_cut.refitted.items():
        nats = [item.nats_per_token for item in expected.refitted[name]]
        assert [item.nats_per_token for item in curve] == pytest.approx(nats, abs=1e-3)


def test_a_batch_with_nothing_to_score_moves_no_readout():
    """One token in sixteen is hidden, and the last one alone is scored: of one window a batch, hardly any has something."""
    model, windows = CONFIGS["untied"].build(SPECIALS.vocab_size, WINDOW, 0), TrainWindows(TRAIN, WINDOW, 1)
    passes = {"masked": MaskedObjective(hide_answers=False, rate=1 / WINDOW)}

    def after(steps):
        made = refit(model, lambda step: windows.read(step, 1), passes, replace(SCORING, labels="last"), steps)
        return torch.cat([value.flatten() for value in made["masked"][0].parameters.values()])

    assert torch.isfinite(after(100)).all()
    assert not torch.equal(after(100), after(0))
    assert torch.equal(after(2), after(0)), "the first two windows hide another token"
