"""The encoder-decoder under audit before any training: whole arms pass; what goes wrong in such models is planted and caught."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from test_arms_before_training import CANARY, FLOW, OBJECTIVES, PUBLISHED, STEPWISE, arm
from torch.nn import functional as F

from palinode.audit import audit_subject, check_flow
from palinode.audit.arms import _evaluation_findings
from palinode.audit.palinode_models import pair_score, small_config
from palinode.audit.trainer_bench import TrainerBench
from palinode.base.seeds import generator
from palinode.checks.aggregation import check_auxiliary, check_training_loss
from palinode.checks.collapse import check_aggregated
from palinode.checks.copies import randomised_copy
from palinode.checks.determinism import check_determinism
from palinode.data.config import DataConfig
from palinode.data.store import prepare
from palinode.evaluate.losses import evaluation_passes
from palinode.models import EmbeddingLoss, EncoderDecoderConfig
from palinode.models.block import CrossAttention
from palinode.models.decoder import gpt2
from palinode.models.encoder_decoder import EMBEDDING_LOSS, EncoderDecoder
from palinode.models.mixers.attention import Attention
from palinode.models.parts.embedding_loss import EmbeddingTerm, Mean
from palinode.objectives.directional import LtrObjective
from palinode.spec.run_spec import EvaluationConfig, RunSettings
from palinode.train.recipe import Gpt2AdamW

SMALL = {"encoder_layers": 1, "decoder_layers": 2, "width": 32, "heads": 2}
ROTARY = {"position": "rotary", "subtract_table": "separate"}
MODELS = {
    "self first": EncoderDecoderConfig(**SMALL),
    "cross first, rotary, dropout": EncoderDecoderConfig(**SMALL, **ROTARY, order="cross_first", dropout=0.1),
    "gated, weighted, matrix": EncoderDecoderConfig(
        **SMALL, cross_gate=True, memory="weighted", embedding_loss=EmbeddingLoss(aggregate="matrix", detach="none")
    ),
    "gated, over the stack": EncoderDecoderConfig(**SMALL, cross_gate=True, memory="stack"),
    "added, normed, window, infonce": EncoderDecoderConfig(
        **SMALL,
        add_next_position=True,
        subtract_position="norm",
        bridge_norm=True,
        embedding_loss=EmbeddingLoss(aggregate="window", window_slots=4, score="infonce", detach="input"),
    ),
    "ema, cosine, affine": EncoderDecoderConfig(
        **SMALL, bias=True, embedding_loss=EmbeddingLoss(aggregate="ema", score="cosine", norm_affine=True)
    ),
    "subtracting decoder": gpt2(layers=2, width=32, heads=2).with_(subtract_position="plain"),
}
BASE = RunSettings(
    data=DataConfig(window_tokens=24),
    model=MODELS["self first"],
    objective=LtrObjective(),
    recipe=Gpt2AdamW(steps=200, batch_windows=4, micro_batches=1),
    evaluation=EvaluationConfig(directions=("ltr",), max_tokens=2000),
)


# `self first` is among the models of tests/contracts/test_models.py.
MODELS_BY_DAY = {"gated, weighted, matrix", "added, normed, window, infonce"}


# `both` makes the passes of `ltr` too.
@pytest.mark.parametrize(
    "model", [pytest.param(one, marks=[] if one in MODELS_BY_DAY else pytest.mark.nightly) for one in MODELS]
)
@pytest.mark.parametrize("objective", [pytest.param("ltr", marks=pytest.mark.nightly), "both"])
def test_honest_arms_pass(model, objective):
    """In train mode too (4 passes of FLOW), where the terms are made; at lengths from 1 to 65."""
    audited = arm(MODELS[model], OBJECTIVES[objective])
    report = audit_subject(audited, checks=("C1", "C6"), flow=FLOW, stepwise=STEPWISE)
    assert {f.check: f.message for f in report.findings if f.outcome != "pass"} == {}
    assert "C1.two-sided" in {finding.check for finding in report.findings}


@pytest.mark.nightly
@pytest.mark.parametrize("objective", ["ltr", "both"])
def test_an_honest_arm_passes_the_canary(objective):
    report = audit_subject(arm(MODELS["self first"], OBJECTIVES[objective]), checks=("C2",), canary=CANARY)
    assert {f.check: f.message for f in report.findings if f.outcome != "pass"} == {}


def test_the_published_mask_is_caught_in_this_model():
    leaks = audit_subject(arm(MODELS["self first"], PUBLISHED), checks=("C1",), flow=FLOW).leaks
    assert {f.reproduce["pass"] for f in leaks if f.check == "C1.perturbation"} == {"rtl"}


def test_copies_for_the_audit_are_open_where_the_model_starts_shut():
    config = MODELS["gated, weighted, matrix"]
    copied = randomised_copy(config.build(20, 16, 0), 1.0, generator(0, "open"))
    assert all(bool((parameter != 0).all()) for parameter in copied.parameters())
    assert all(block.cross.gate.tanh().abs() > 0.3 for block in copied.blocks)


def test_the_published_sizes_are_cut_for_the_audit():
    paper = EncoderDecoderConfig(encoder_layers=13, decoder_layers=13, width=150, heads=5)
    small = small_config(paper, 4, 128)
    assert (small.encoder_layers, small.decoder_layers, small.width, small.heads) == (2, 2, 128, 4)
    tiny = small_config(paper.with_(cross_heads=10, encoder_layers=1), 2, 32)
    assert (tiny.encoder_layers, tiny.decoder_layers, tiny.width, tiny.heads, tiny.cross_heads) == (1, 1, 32, 2, 2)
    assert small_config(MODELS["self first"], 4, 128) == MODELS["self first"]


class SeesAhead(CrossAttention):
    """M19: cross-attention without the causal mask; the memory is causal, but its later slots know later tokens."""

    def forward(self, x, memory, reading):
        return super().forward(x, memory, replace(reading, native="full"))


class OwnSeesAhead(Attention):
    """M19 in a stack's own attention."""

    def forward(self, x, reading):
        return super().forward(x, replace(reading, native="full"))


@pytest.mark.parametrize("place", ["encoder", "decoder"])
def test_m19_one_block_that_reads_itself_without_causal_mask(place):
    honest = arm(MODELS["self first"], OBJECTIVES["ltr"])

    def broken(vocab_size, slots, seed):
        model = honest.rebuild_small(vocab_size, slots, seed)
        (model.encoder if place == "encoder" else model.blocks)[0].mixer.__class__ = OwnSeesAhead
        return model

    subject = replace(honest, module=broken(75, 24, 0), rebuild=broken, rebuild_small=broken)
    report = audit_subject(subject, checks=("C1",), flow=FLOW)
    failed = {f.check: f.message for f in report.findings if f.outcome == "fail"}
    assert "targets see themselves" in failed["C1.perturbation"]


@pytest.mark.parametrize("order", ["self_first", pytest.param("cross_first", marks=pytest.mark.nightly)])
def test_m19_cross_attention_without_causal_mask(order):
    honest = arm(EncoderDecoderConfig(**SMALL, order=order), OBJECTIVES["ltr"])

    def broken(vocab_size, slots, seed):
        model = honest.rebuild_small(vocab_size, slots, seed)
        for block in model.blocks:
            block.cross.__class__ = SeesAhead
        return model

    subject = replace(honest, module=broken(75, 24, 0), rebuild=broken, rebuild_small=broken)
    report = audit_subject(subject, checks=("C1", "C2"), flow=FLOW, canary=CANARY.with_(steps=200, markov_steps=0))
    failed = {f.check: f.message for f in report.findings if f.outcome == "fail"}
    assert "targets see themselves" in failed["C1.perturbation"]
    assert "ltr: predicts" in failed["C2.canary"]
    clean = audit_subject(replace(honest, rebuild=honest.rebuild_small), checks=("C1",), flow=FLOW)
    assert {f.check: f.message for f in clean.findings if f.outcome != "pass"} == {}


class DividedByLength(Mean):
    """M20: the cumulative sum divided by the length of the whole row."""

    def forward(self, x, reading):
        return x.cumsum(1) / x.shape[1]


class OfAllSlots(Mean):
    """A plain mean over the row."""

    def forward(self, x, reading):
        return x.mean(1, keepdim=True).expand_as(x)


@pytest.mark.parametrize("kind", ["mean", "window", "ema", "matrix"])
def test_m20_what_is_compared_depends_on_no_later_slot(kind):
    def term():
        model = MODELS["self first"].with_(embedding_loss=EmbeddingLoss(aggregate=kind)).build(20, 40, 0)
        return model.pair_terms()[EMBEDDING_LOSS]

    assert check_aggregated("embedding_loss", pair_score(term().double()), 0).outcome == "pass"
    for broken in (DividedByLength(32, 40), OfAllSlots(32, 40)):
        planted = term()
        planted.aggregate = broken
        finding = check_aggregated("embedding_loss", pair_score(planted.double()), 0)
        assert (finding.outcome, finding.check) == ("fail", "C9.auxiliary_causal")
        assert "is different in a row of" in finding.message


def test_m20_is_invisible_in_the_logits():
    """It is only compared with, never read: C1 and C6 rightly pass, so the term has a check of its own."""
    subject = arm(MODELS["self first"], OBJECTIVES["ltr"])
    subject.module.embedding_loss.aggregate = DividedByLength(32, 40)
    findings = check_flow(replace(subject, rebuild=None), FLOW.with_(lengths=(1, 2, 3)))
    assert {f.check for f in findings if f.outcome == "fail"} == set()


class DropsAlways(Attention):
    """M36: the published defect, attention probabilities are dropped in evaluation too."""

    def forward(self, x, reading):
        before, self.training = self.training, True
        try:
            return super().forward(x, reading)
        finally:
            self.training = before


class DropsAlwaysAcross(CrossAttention):
    """M36 in cross-attention."""

    def forward(self, x, memory, reading):
        before, self.training = self.training, True
        try:
            return super().forward(x, memory, reading)
        finally:
            self.training = before


def bench_of(config) -> TrainerBench:
    return TrainerBench(BASE.with_(model=config), prepare(BASE.data))


@pytest.fixture(scope="module")
def dropping() -> TrainerBench:
    return bench_of(MODELS["self first"].with_(dropout=0.2))


@pytest.mark.parametrize("where", ["clean", "self-attention", "cross-attention"])
def test_m36_dropout_in_evaluation(dropping, where):
    passes = evaluation_passes(LtrObjective(), ("ltr",))
    training = dropping.training()
    if where == "self-attention":
        training.model.encoder[0].mixer.__class__ = DropsAlways
    if where == "cross-attention":
        training.model.blocks[0].cross.__class__ = DropsAlwaysAcross
    evaluated = partial(dropping.evaluate, training.model, passes)
    findings = check_determinism(evaluated, training.model, training.optimizers, dropping.train)
    failed = {finding.check for finding in findings if finding.outcome == "fail"}
    assert ("C3.repeats" in failed) == (where != "clean"), failed


class ScoresTheTerm(EncoderDecoder):
    """M38: the embedding loss is part of what evaluation scores (here: it scales the states)."""

    def hidden(self, tokens, sees):
        states, x, encoded = self._read(tokens, sees)
        term = self.embedding_loss(x, encoded, self._readings(tokens, sees).own)
        return states * (1 + 0.1 * term.coefficient * term.value)


def test_m38_an_auxiliary_term_inside_the_evaluation_loss():
    bench, passes = bench_of(MODELS["self first"]), evaluation_passes(LtrObjective(), ("ltr",))
    clean = bench.auxiliary(passes)
    assert (clean.check, clean.outcome) == ("C9.auxiliary", "pass")
    honest = bench.training

    def planted(config=None):
        training = honest(config)
        training.model.__class__ = ScoresTheTerm
        return training

    bench.training = planted
    assert bench.auxiliary(passes).outcome == "fail"
    assert bench_of(MODELS["self first"].with_(embedding_loss=None)).auxiliary(passes) is None


def test_m38_the_trainers_loss_is_reported_without_the_term():
    bench = bench_of(MODELS["self first"])
    example, logits, reported = bench.training_loss()
    assert check_training_loss(example, logits, reported).outcome == "pass"
    training = bench.moved()
    training.model.train()
    terms = training.model.hidden_and_terms(example.inputs, example.groups[0].sees)[1]
    with_term = reported + terms[EMBEDDING_LOSS].value.item()
    assert check_training_loss(example, logits, with_term).outcome == "fail"
    assert check_auxiliary(lambda factor: 1.0 + factor, lambda factor: 2.0 + factor).outcome == "fail"


def test_the_trainer_and_the_evaluator_of_an_arm_with_a_term_pass():
    settings = BASE.with_(model=MODELS["cross first, rotary, dropout"])
    findings = _evaluation_findings(settings, prepare(settings.data))
    assert {f.check: f.message for f in findings if f.outcome != "pass"} == {}
    assert "C9.auxiliary" in {finding.check for finding in findings}


def test_the_term_of_a_users_own_aggregation_is_checked_too():
    class Last(Mean):
        def forward(self, x, reading):
            return F.pad(x, (0, 0, 0, 1))[:, 1:]  # the next slot

    term = EmbeddingTerm(EmbeddingLoss(), 8, 40)
    term.aggregate = Last(8, 40)
    assert check_aggregated("own", pair_score(term.double()), 0).outcome == "fail"
    assert torch.is_grad_enabled()
