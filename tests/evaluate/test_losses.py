"""Evaluation against numpy, from the logits: sum over sum, every token once, bytes that add up, nothing moved."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from palinode.base.example import Draw, SpecialTokens, one_pass
from palinode.base.objective import Objective
from palinode.base.seeds import generator
from palinode.base.visibility import FlippedLowerTriangle, Ltr
from palinode.data.windows import evaluation_windows
from palinode.evaluate.losses import Scoring, evaluate, evaluation_passes
from palinode.models.decoder import modern
from palinode.models.direction import logits_for
from palinode.objectives import BothObjective, LtrObjective, RtlObjective

VOCABULARY, WINDOW = 20, 12
SPECIALS = SpecialTokens(VOCABULARY)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, VOCABULARY, (125,), generator=generator(1, "tokens")).numpy().astype(np.uint16)


@pytest.fixture(scope="module")
def bytes_per_token():
    return np.arange(1, VOCABULARY + 1, dtype=np.int64)


@pytest.fixture(scope="module")
def model():
    config = modern(layers=2, width=16, heads=2, dropout=0.2).with_(zero_residual=False, zero_head=False)
    return config.build(SPECIALS.vocab_size, WINDOW, 0)


def scored(model, tokens, bytes_per_token, objective=None, batch_windows=4, directions=("ltr", "rtl")):
    return evaluate(
        model,
        evaluation_windows(tokens, WINDOW, batch_windows=batch_windows),
        evaluation_passes(objective or LtrObjective(), directions),
        Scoring(SPECIALS, bytes_per_token, seed=0),
    )


def by_hand(model, tokens, objective):
    """Nats, hits and targets of each window on its own, in numpy float64."""
    nats, hits, targets = [], 0, []
    model.eval()
    for start in range(0, len(tokens), WINDOW):
        window = torch.from_numpy(tokens[start : start + WINDOW].astype(np.int64))[None]
        example = objective.example(window, Draw(), SPECIALS)
        with torch.no_grad():
            logits = logits_for(model, example).double().numpy()[0]
        for slot, target in enumerate(example.targets[0].tolist()):
            row = logits[slot] - logits[slot].max()
            nats.append(math.log(np.exp(row).sum()) - row[target])
            hits += int(logits[slot].argmax() == target)
            targets.append(target)
    return nats, hits, targets


@pytest.mark.parametrize(("name", "objective"), [("ltr", LtrObjective()), ("rtl", RtlObjective())])
def test_scores_are_those_computed_by_hand(model, tokens, bytes_per_token, name, objective):
    score = scored(model, tokens, bytes_per_token).scores[name]
    nats, hits, targets = by_hand(model, tokens, objective)
    assert score.tokens_scored == len(tokens) == len(nats)
    assert score.nats_sum == pytest.approx(sum(nats), rel=1e-6)
    assert score.hits == hits
    assert score.bytes_scored == sum(bytes_per_token[target] for target in targets)
    assert score.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / score.bytes_scored, rel=1e-6)
    assert score.perplexity == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-6)


@pytest.mark.parametrize(("limit", "most_slots"), [(None, 4 * WINDOW), (7 * SPECIALS.vocab_size, 7), (1, 1)])
def test_a_model_with_a_limit_has_no_more_logits_at_once(model, tokens, bytes_per_token, limit, most_slots):
    limited, slots = copy.deepcopy(model), []
    limited.logits_at_once = limit
    limited.logits = lambda states: slots.append(states[..., 0].numel()) or model.logits(states)
    pieces = scored(limited, tokens, bytes_per_token)
    assert max(slots) == most_slots
    for name, scores in scored(model, tokens, bytes_per_token).scores.items():
        assert pieces.scores[name].hits == scores.hits
        assert pieces.scores[name].nats_sum == (pytest.approx(scores.nats_sum, rel=1e-6) if limit else scores.nats_sum)


def test_both_directions_score_the_same_tokens(model, tokens, bytes_per_token):
    scores = scored(model, tokens, bytes_per_token).scores
    assert scores["ltr"].tokens_scored == scores["rtl"].tokens_scored
    assert scores["ltr"].bytes_scored == scores["rtl"].bytes_scored == int(bytes_per_token[tokens].sum())


@pytest.mark.parametrize("batch_windows", [1, 7, 1000])
def test_the_batch_size_does_not_matter(model, tokens, bytes_per_token, batch_windows):
    reference = scored(model, tokens, bytes_per_token).scores
    other = scored(model, tokens, bytes_per_token, batch_windows=batch_windows).scores
    for name, score in reference.items():
        assert other[name].nats_sum == pytest.approx(score.nats_sum, rel=1e-6)
        assert other[name].tokens_scored == score.tokens_scored


def test_twice_gives_the_same_bits_and_leaves_modes_and_generators_alone(model, tokens, bytes_per_token):
    model.train()
    before = torch.random.get_rng_state()
    first, second = (scored(model, tokens, bytes_per_token) for _ in range(2))
    assert first.scores == second.scores
    assert first.window_nats == second.window_nats
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.training


def test_the_published_mask_is_evaluated_through_the_published_mask(tokens):
    objective = BothObjective(rtl_sees=FlippedLowerTriangle())
    assert evaluation_passes(objective, ("ltr", "rtl"))["rtl"].sees == FlippedLowerTriangle()


class SkipOne(Objective):
    """Predict the token after next: an objective of its own kind, evaluated under its own name."""

    def example(self, windows, draw, specials):
        index = torch.arange(windows.shape[1])
        return one_pass(windows, name="skip", sees=Ltr(), input_source=index[:-2], target_source=index[2:])

    def may_inform(self, source, target, group, draw):
        return source <= target - 2

    def groups(self):
        return ("skip",)


def test_an_objective_of_another_kind_is_scored_beside_the_honest_directions(model, tokens, bytes_per_token):
    scores = scored(model, tokens, bytes_per_token, objective=SkipOne()).scores
    assert set(scores) == {"ltr", "rtl", "own"}
    full_windows, rest = divmod(len(tokens), WINDOW)
    assert scores["own"].tokens_scored == full_windows * (WINDOW - 2) + max(0, rest - 2)


class CoinOrder(LtrObjective):
    """An objective whose decisions matter: a coin per window says whether its last half is scored."""

    kind = ""

    def draw(self, batch, window_tokens, generator, progress):
        return Draw({"half": torch.rand(batch, generator=generator) < 0.5})

    def example(self, windows, draw, specials):
        whole = super().example(windows, draw, specials)
        weight = whole.loss_weight.clone()
        weight[draw["half"], windows.shape[1] // 2 :] = 0
        return replace(whole, loss_weight=weight)

    def evaluation(self):
        return {"coin": self}


@pytest.mark.parametrize("batch_windows", [1, 3, 1000])
def test_decisions_of_a_window_do_not_depend_on_the_batch(model, tokens, bytes_per_token, batch_windows):
    reference = scored(model, tokens, bytes_per_token, objective=CoinOrder()).scores["coin"]
    other = scored(model, tokens, bytes_per_token, objective=CoinOrder(), batch_windows=batch_windows).scores["coin"]
    assert 0 < reference.tokens_scored < len(tokens)
    assert other.tokens_scored == reference.tokens_scored
    assert other.nats_sum == pytest.approx(reference.nats_sum, rel=1e-6)


def test_the_hits_of_single_tokens_are_kept_on_request_alone(model, tokens, bytes_per_token):
    """A text has too many of them. Where they are kept they add up to the hits of every window."""
    assert scored(model, tokens, bytes_per_token).token_hits == {}
    kept = evaluate(
        model,
        evaluation_windows(tokens, WINDOW, batch_windows=4),
        evaluation_passes(LtrObjective(direction_token=False), ("ltr", "rtl")),
        Scoring(SPECIALS, bytes_per_token, seed=0),
        keep_tokens=True,
    )
    for way, hits in kept.token_hits.items():
        assert hits.window.bincount(hits.hit.long()).tolist() == kept.window_hits[way]
        assert hits.window.bincount().tolist() == kept.window_scored[way]
        assert (hits.index.min(), hits.index.max()) == ((1, WINDOW - 1) if way == "ltr" else (0, WINDOW - 2))


class TwoRows(LtrObjective):
    """Every window makes two rows, ltr; the second row has half the weight, and the loss is divided by a number of its own."""

    kind = ""

    def example(self, windows, draw, specials):
        once = super().example(windows, draw, specials)
        twice = super().reading(windows, specials, torch.arange(len(windows)).repeat_interleave(2))
        weight = torch.where(torch.arange(2 * len(windows))[:, None] % 2 == 1, 0.5, 1.0).expand(twice.inputs.shape)
        return replace(twice, loss_weight=weight, loss_denominator=10.0 * once.inputs.shape[0])

    def evaluation(self):
        return {"two rows": self}


@pytest.mark.parametrize("batch_windows", [1, 4])
def test_weights_rows_and_denominators_are_counted_by_window(model, tokens, bytes_per_token, batch_windows):
    once = scored(model, tokens, bytes_per_token)
    twice = scored(model, tokens, bytes_per_token, TwoRows(), batch_windows)
    plain, ours = once.scores["ltr"], twice.scores["two rows"]
    windows = -(-len(tokens) // WINDOW)
    assert len(twice.window_nats["two rows"]) == windows
    assert twice.window_nats["two rows"] == pytest.approx([1.5 * nats for nats in once.window_nats["ltr"]], rel=1e-6)
    assert twice.window_scored["two rows"] == [2 * count for count in once.window_scored["ltr"]]
    assert (ours.tokens_scored, ours.hits) == (2 * plain.tokens_scored, 2 * plain.hits)
    assert ours.bytes_scored == plain.bytes_scored
    assert ours.nats_per_token == pytest.approx(1.5 * plain.nats_sum / (10 * windows), rel=1e-6)
    assert "loss_denominator" in ours.as_row()
    assert "loss_denominator" not in plain.as_row()
