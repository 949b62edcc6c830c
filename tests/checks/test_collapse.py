"""C7: a term that vanishes by itself is caught, before training and in the rows of a run; one whose pairs come to agree is not."""

import json

import pytest
import torch

from palinode.audit.palinode_models import pair_score
from palinode.base.finding import AuditReport
from palinode.base.seeds import generator
from palinode.base.visibility import Ltr
from palinode.checks.collapse import check_collapse, probe_collapse
from palinode.models import EmbeddingLoss, EncoderDecoderConfig
from palinode.models.encoder_decoder import EMBEDDING_LOSS
from palinode.models.mixers.base import Reading

READING = Reading("causal")
SMALL = {"encoder_layers": 1, "decoder_layers": 1, "width": 32, "heads": 2}


def term_of(**options):
    config = EncoderDecoderConfig(**SMALL, embedding_loss=EmbeddingLoss(**options))
    return config.build(20, 40, 0).pair_terms()[EMBEDDING_LOSS]


def probed(**options):
    return probe_collapse("embedding_loss", pair_score(term_of(**options)), 0)


@pytest.mark.parametrize(
    "score", ["mse", *(pytest.param(one, marks=pytest.mark.nightly) for one in ("cosine", "log_cosine"))]
)
def test_m39_norms_with_gain_vanish_on_unrelated_noise(score):
    """As published. All three scores fall to a hundredth within 2000 steps of rate 9e-4, and say nothing of the states."""
    report = probed(norm_affine=True, score=score)
    assert (report.check, report.outcome) == ("C7.probe", "fail")
    assert "collapsed" in report.message
    assert report.numbers["last_value"] < 0.01 * report.numbers["first_value"]
    assert report.shows_collapse
    assert not report.shows_leak


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.nightly),  # by day it trains in a model, below
        pytest.param({"detach": "none"}, marks=pytest.mark.nightly),
        pytest.param({"score": "cosine", "detach": "none"}, marks=pytest.mark.nightly),
        pytest.param({"norm_affine": True, "variance_floor": 1.0}, marks=pytest.mark.nightly),
        pytest.param({"input_norm": "after"}, marks=pytest.mark.nightly),
    ],
    ids=["no gain", "both sides trained", "cosine, both sides trained", "variance floor", "norm after the mean"],
)
def test_centred_norms_without_gain_and_a_variance_floor_hold(options):
    report = probed(**options)
    assert report.outcome == "pass"
    assert abs(report.numbers["affinity"]) < 0.05, "unrelated states have none"


def test_norms_without_gain_vanish_by_a_vector_that_both_sides_share():
    """What is left of a state when it is normalised beside something large: the same on both sides."""
    report = probed(centred=False, detach="none")
    assert report.outcome == "fail"
    assert report.numbers["last_gain"] == 1.0


@pytest.mark.nightly
def test_without_any_norm_two_trained_sides_shrink_together():
    report = probed(input_norm="none", output_norm=False, detach="none")
    assert report.outcome == "fail"
    assert report.numbers["last_gain"] == 1.0, "seen on the shuffled pairs alone"


def trained_rows(score_of_states: bool, steps: int = 1500, **options):
    """Rows as a run writes them, while the states themselves are trained (encoder not detached), or the norms alone."""
    term, rng = term_of(**options), generator(0, "rows")
    seen, other = (torch.randn(8, 32, 32, generator=rng) for _ in range(2))
    state = torch.nn.Parameter(other)
    trained = [state] if score_of_states else list(term.parameters())
    optimizer, rows = torch.optim.Adam(trained, lr=0.01 if score_of_states else 9e-4), []
    for step in range(steps + 1):
        auxiliary = term(seen, state, READING)
        if step % 250 == 0:
            measurements = {name: float(value) for name, value in auxiliary.measured.items()}
            rows.append({"event": "train", "step": step + 1, "auxiliary": {EMBEDDING_LOSS: measurements}})
        optimizer.zero_grad()
        auxiliary.value.backward()
        optimizer.step()
    return json.loads(json.dumps(rows))


def test_m39_a_run_whose_norms_vanish_is_caught_from_its_rows():
    [result] = check_collapse(trained_rows(False, steps=2000, norm_affine=True))
    assert (result.check, result.outcome) == ("C7.collapse", "fail")
    assert result.message.startswith("embedding_loss at step 2001 and 1 more of 9 logged: collapsed")


def test_pairs_that_come_to_agree_are_no_collapse():
    """The clean twin: the value falls as far, but shuffled pairs still differ."""
    rows = trained_rows(True, detach="input", input_norm="none", output_norm=False)
    [result] = check_collapse(rows)
    last = rows[-1]["auxiliary"][EMBEDDING_LOSS]
    assert result.outcome == "pass"
    assert last["value"] < 0.01 * rows[0]["auxiliary"][EMBEDDING_LOSS]["value"]
    assert result.numbers["affinity"] == pytest.approx(1 - last["value"] / last["shuffled"])
    assert result.numbers["affinity"] > 0.9


def row(step, value, shuffled, gain=1.0, **more):
    measurements = {"value": value, "shuffled": shuffled, "gain": gain, **more}
    return {"event": "train", "step": step, "auxiliary": {"x": measurements}}


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        ((0.5, 0.8, 1.0), "pass"),
        ((0.011, 0.01, 1e-3), "pass"),  # not below a hundredth
        ((0.009, 0.06, 0.06), "pass"),  # fell, and neither side vanished
        ((0.009, 0.04, 1.0), "fail"),
        ((0.009, 0.9, 0.04), "fail"),
        ((4e-9, 5e-9, 2e-5), "fail"),  # as published: a collapse, however small the shuffled score
        ((0.5, 1e-7, 1.0), "could_not_tell"),
    ],
)
def test_what_a_collapse_is(last, outcome):
    rows = [row(1, 1.0, 1.0), row(2, 0.9, 1.0), row(3, *last)]
    [result] = check_collapse(rows)
    assert result.outcome == outcome
    assert result.threshold == 0.01


def test_a_run_that_recovered_has_collapsed_all_the_same():
    rows = [row(1, 1.0, 1.0), row(21, 0.009, 0.01), row(41, 1e-3, 1e-3), row(61, 0.066, 0.07), row(81, 0.5, 0.9)]
    [result] = check_collapse(rows)
    assert result.outcome == "fail"
    assert result.message.startswith("x at step 41 and 1 more of 5 logged: collapsed")


def test_too_few_rows_cannot_tell_unless_they_show_it():
    [result] = check_collapse([row(1, 1.0, 1.0), row(2, 0.5, 1.0)])
    assert (result.outcome, "too few times" in result.message) == ("could_not_tell", True)
    assert check_collapse([row(1, 1.0, 1.0), row(2, 1e-9, 1e-9)])[0].outcome == "fail"
    assert check_collapse([]) == []
    assert check_collapse([{"event": "train", "step": 1}, {"event": "eval", "step": 1}]) == []


def test_a_users_term_without_a_shuffled_score_cannot_be_told():
    rows = [{"event": "train", "step": step, "auxiliary": {"z": {"value": 1.0 / step}}} for step in (1, 2, 3, 4)]
    [result] = check_collapse(rows)
    assert (result.outcome, "does not say" in result.message) == ("could_not_tell", True)


def test_a_collapse_is_told_apart_from_a_leak():
    [result] = check_collapse([row(1, 1.0, 1.0), row(2, 1e-9, 1e-9)])
    report = AuditReport(subject="x", findings=(result,))
    assert (report.outcome, report.leaks, report.collapses) == ("fail", (), (result,))


def test_the_published_model_collapses_in_training_and_the_default_does_not():
    """The whole model on its own loss alone, at a rate that brings the steps of a run down to some hundreds."""
    tokens = torch.randint(0, 20, (8, 24), generator=generator(0, "tokens"))
    outcomes = {}
    for affine in (True, False):
        loss = EmbeddingLoss(norm_affine=affine)
        model = EncoderDecoderConfig(**SMALL, embedding_loss=loss).build(20, 24, 0).train()
        optimizer, rows = torch.optim.Adam(model.parameters(), lr=9e-3), []
        for step in range(201):
            term = model.hidden_and_terms(tokens, Ltr())[1][EMBEDDING_LOSS]
            measurements = {name: float(value) for name, value in term.measured.items()}
            rows.append({"event": "train", "step": step, "auxiliary": {EMBEDDING_LOSS: measurements}})
            optimizer.zero_grad()
            term.value.backward()
            optimizer.step()
        outcomes[affine] = check_collapse(rows)[0].outcome
    assert outcomes == {True: "fail", False: "pass"}
