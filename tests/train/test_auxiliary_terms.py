"""Auxiliary terms in the trainer: coefficient * mean over the rows of the batch, in training alone; without one no bit changes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import VOCABULARY, WINDOW_TOKENS, make_training

from palinode.base.seeds import generator
from palinode.data.windows import evaluation_windows
from palinode.evaluate.losses import Scoring, evaluate, evaluation_passes
from palinode.models import EmbeddingLoss, EncoderDecoderConfig
from palinode.models.base import AuxiliaryTerm
from palinode.models.direction import read, read_and_terms
from palinode.models.encoder_decoder import EMBEDDING_LOSS
from palinode.objectives import BothObjective
from palinode.objectives.probability import Constant
from palinode.train.checkpoint import weights_sha256
from palinode.train.loop import DivergedError, accumulate_gradients, batch_examples, take_step, train
from palinode.train.optim import build_optimizers

SMALL = {"encoder_layers": 1, "decoder_layers": 1, "width": 16, "heads": 2}


DEFAULT = EmbeddingLoss()


def training_of(loss=DEFAULT, dropout=0.2, **options):
    """Both directions, two micro-batches of unequal numbers of rows, dropout."""
    training = make_training("gpt2-adamw", **options)
    training.objective = BothObjective(p=Constant(p=0.5), granularity="row")
    training.objective_state = training.objective.state()
    config = EncoderDecoderConfig(**SMALL, dropout=dropout, embedding_loss=loss)
    training.model = config.build(training.specials.vocab_size, WINDOW_TOKENS, training.seed)
    training.optimizers = build_optimizers(training.recipe.optimizer, training.model, training.model.parameter_groups())
    return training


def with_coefficient(training, coefficient):
    """The terms of this model with another coefficient, 0 included, which a config refuses."""
    honest = training.model.hidden_and_terms

    def scaled(tokens, sees):
        states, terms = honest(tokens, sees)
        return states, {name: replace(term, coefficient=coefficient) for name, term in terms.items()}

    training.model.hidden_and_terms = scaled
    return training


def gradients(training):
    return {name: p.grad.clone() for name, p in training.model.named_parameters() if p.grad is not None}


def test_a_coefficient_of_0_gives_the_bits_of_the_arm_without_the_term():
    without, with_zero = training_of(None), with_coefficient(training_of(), 0.0)
    reports = [[take_step(training) for _ in range(4)] for training in (without, with_zero)]
    for plain, zero in zip(*reports, strict=True):
        assert plain.nats_by_group == zero.nats_by_group
        assert plain.gradient_norm == zero.gradient_norm
    assert weights_sha256(without.model) == weights_sha256(with_zero.model)
    assert not reports[0][0].auxiliary
    one = training_of()
    for _ in range(4):
        take_step(one)
    assert weights_sha256(one.model) != weights_sha256(without.model)


def test_the_gradient_is_that_of_one_weighted_mean_over_all_rows():
    training = training_of(EmbeddingLoss(coefficient=3.0, detach="none"), dropout=0.0)
    training.model.train()
    examples = batch_examples(training)
    assert len({len(example.inputs) for example in examples}) == 2, "the batches must weigh unequally"
    loss = accumulate_gradients(training, examples)
    gradients_now = gradients(training)
    training.model.zero_grad()
    rows = sum(len(example.inputs) for example in examples)
    nats = scored = value = 0.0
    for example in examples:
        states, terms = read_and_terms(training.model, example)
        logits = training.model.logits(states).flatten(0, 1)
        each = torch.nn.functional.cross_entropy(logits, example.targets.flatten(), reduction="none")
        nats = nats + (each * example.loss_weight.flatten()).sum()
        scored += example.denominator
        value = value + terms[EMBEDDING_LOSS].value * len(example.inputs) / rows
    total = nats / scored + 3.0 * value
    total.backward()
    for name, gradient in gradients(training).items():
        assert torch.allclose(gradients_now[name], gradient, atol=1e-7, rtol=1e-5), name
    assert loss.loss_nats == pytest.approx(nats.item() / scored, rel=1e-6)
    assert loss.terms_nats == pytest.approx(3.0 * value.item(), rel=1e-6)
    assert loss.auxiliary[EMBEDDING_LOSS]["value"] == pytest.approx(value.item(), rel=1e-6)
    assert set(loss.auxiliary[EMBEDDING_LOSS]) == {"value", "shuffled", "gain", "least_gain", "variance"}


def test_a_step_reports_the_terms_and_other_models_have_none():
    report = take_step(training_of())
    assert report.auxiliary[EMBEDDING_LOSS]["gain"] == 1.0
    assert report.auxiliary[EMBEDDING_LOSS]["value"] > 0
    assert take_step(make_training("gpt2-adamw")).auxiliary == {}


def test_in_eval_mode_nothing_is_added():
    training = training_of()
    training.model.eval()
    loss = accumulate_gradients(training, batch_examples(training))
    assert (loss.terms_nats, loss.auxiliary) == (0.0, {})
    example = batch_examples(training)[0]
    assert torch.equal(read(training.model, example), read_and_terms(training.model, example)[0])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["value", "shuffled"])
def test_a_term_that_is_not_finite_is_a_divergence_and_changes_nothing(broken, where):
    training = training_of()
    honest = training.model.hidden_and_terms

    def breaking(tokens, sees):
        states, terms = honest(tokens, sees)
        term = terms[EMBEDDING_LOSS]
        if where == "shuffled":
            bad = replace(term, measured=dict(term.measured) | {"shuffled": torch.tensor(broken)})
        else:
            bad = replace(term, value=term.value * broken)
        return states, {EMBEDDING_LOSS: bad}

    training.model.hidden_and_terms = breaking
    before = weights_sha256(training.model)
    with pytest.raises(DivergedError, match="the auxiliary term embedding_loss is not finite at step 0"):
        take_step(training)
    assert weights_sha256(training.model) == before


def test_a_users_term_needs_nothing_but_a_value():
    training = make_training("gpt2-adamw")
    model, honest = training.model, training.model.hidden

    def with_own(tokens, sees):
        states = honest(tokens, sees)
        return states, {"small": AuxiliaryTerm(states.square().mean(), 0.01, len(tokens), {})}

    model.hidden_and_terms = with_own
    assert take_step(training).auxiliary["small"]["value"] > 0


def test_evaluation_never_asks_for_a_term():
    training = training_of()
    train(training, after_step=lambda report: None, should_stop=lambda: training.step >= 2)

    def refused(tokens, sees):
        raise AssertionError("evaluation asked for terms")

    training.model.hidden_and_terms = refused
    tokens = torch.randint(0, VOCABULARY, (3 * WINDOW_TOKENS,), generator=generator(0, "windows")).numpy()
    evaluate(
        training.model,
        evaluation_windows(tokens, WINDOW_TOKENS, batch_windows=3),
        evaluation_passes(training.objective, ("ltr", "rtl")),
        Scoring(training.specials, np.ones(VOCABULARY, dtype=np.int64), seed=0),
    )
