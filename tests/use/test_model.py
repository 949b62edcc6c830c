"""A loaded model: it scores as its run was scored, and says what it is and whether it may be believed."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import palinode
from palinode.base.errors import BadInput
from palinode.base.finding import AuditReport, Finding
from palinode.data.bpe import train as train_bpe
from palinode.objectives import LtrObjective, MaskedObjective
from palinode.use.export import export
from palinode.use.generate import next_logits
from palinode.use.model import Model

WINDOW = 32


@pytest.fixture(scope="module")
def loaded(run):
    return palinode.load(run.spec.run_id[:6], run.store)


@pytest.fixture(scope="module")
def model(loaded):
    """The loaded model as if its audit had passed: an audit of so short a run cannot tell."""
    return altered(loaded, with_audit(loaded.record.result, found("C1.perturbation", "pass")))


def altered(model, record=None, **changes):
    """The same weights as a model of another spec or another record."""
    return Model(model.trained.with_spec(**changes), record or model.record)


def with_audit(result, *findings):
    """A record with this result and these findings."""
    report = AuditReport(subject="x", findings=findings)
    outcome = "done" if result else "unfinished"
    return SimpleNamespace(result=result, outcome=outcome, audit_report=lambda: report)


def found(check, outcome="fail", **reproduce):
    return Finding(check=check, outcome=outcome, law="", message="seen", reproduce=reproduce)


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_blocks_side_by_side_score_as_the_run_was_scored(model, run, direction):
    recorded = model.record.result.scores["validation"][direction]
    scored = model.nats(run.text, direction, stride=WINDOW)
    assert scored.tokens == recorded["tokens_scored"] == len(scored.ids)
    assert scored.nats_per_token == pytest.approx(recorded["nats_per_token"], abs=1e-9)
    assert scored.bits_per_byte == pytest.approx(recorded["bits_per_byte"], abs=1e-9)
    assert "".join(scored.pieces) == run.text


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_logits_are_those_that_the_nats_come_from(model, direction):
    text = "Birds fly."
    logits = model.logits(text, direction)
    assert logits.shape == (len(text) + 1, model.trained.specials.vocab_size)
    scored = model.nats(text, direction)
    ids = torch.tensor(scored.ids if direction == "ltr" else scored.ids[::-1].copy())
    by_hand = -logits[:-1].double().log_softmax(-1).gather(1, ids[:, None])[:, 0].numpy()
    assert scored.nats == pytest.approx(by_hand if direction == "ltr" else by_hand[::-1], abs=1e-5)
    start = model.trained.specials["[L]" if direction == "ltr" else "[R]"]
    with torch.no_grad():
        assert torch.allclose(logits[-1], next_logits(model.torch, ids[None], start)[0], atol=1e-5)
    assert torch.equal(model.logits(scored.ids.tolist(), direction), logits)
    assert not logits.requires_grad


def test_the_nats_of_a_text_given_another(model):
    pairs = [("The 3th of ", "9 small birds"), ("", "The"), ("abc", "")]
    given, none, empty = model.score(pairs)
    whole, first = (model.nats(text).nats_sum for text in ("The 3th of 9 small birds", "The 3th of "))
    assert given == pytest.approx(whole - first, abs=1e-4)
    assert none == pytest.approx(model.nats("The").nats_sum, abs=1e-4)
    assert empty == 0
    [after] = model.score([(" birds", "small")], "rtl")
    whole, last = (model.nats(text, "rtl").nats_sum for text in ("small birds", " birds"))
    assert after == pytest.approx(whole - last, abs=1e-4)


def test_states_are_in_text_order_and_see_what_they_may(model):
    text, changed = "abcdef", "abcdeX"
    for direction, moved in (("ltr", [5]), ("rtl", range(6)), ("full", range(6))):
        states, other = model.hidden(text, direction), model.hidden(changed, direction)
        assert states.shape == (6, 16)
        assert set((states - other).abs().amax(1).nonzero().flatten().tolist()) == set(moved), direction
    both = model.hidden(text, "both")
    assert torch.equal(both, torch.cat([model.hidden(text, "ltr"), model.hidden(text, "rtl")], 1))
    assert torch.allclose(model.hidden(text, depth=2), model.hidden(text), atol=1e-6)
    assert not torch.allclose(model.hidden(text, depth=1), model.hidden(text), atol=1e-3)
    logits = model.torch.logits(model.hidden(text, "rtl")).detach()
    assert torch.allclose(logits.flip(0), model.logits(text, "rtl")[1:], atol=1e-5)


def test_it_writes_and_fills_a_gap(model):
    assert model.sample("The ", 6) == model.sample("The ", 6)
    [text] = model.sample("birds", 6, "rtl", seed=2)
    assert text.endswith("birds")
    filled = model.infill("The 3th of ", " birds said", 4, rows=2, candidates=16)
    assert len(filled.drawn) == 2
    assert {text for text, _, _ in filled.middles} >= set(filled.drawn)
    assert sum(share for _, _, share in filled.middles) == pytest.approx(1)
    assert repr(filled).startswith("by resample, ")
    assert model.infill("The ", "", 2).found.direction in ("ltr", "rtl")


def test_it_says_what_it_is(loaded):
    model = loaded
    first, second = repr(model).splitlines()
    assert first.startswith(f"{model.spec.run_id}  decoder 2 x 16, 0.0")
    assert "both(p=0.5)" in first
    assert first.endswith(", bytes, windows of 32; 20 steps, seed 1")
    losses = [model.record.result.score(f"validation.{way}.nats_per_token") for way in ("ltr", "rtl")]
    assert second.startswith(f"reads ltr {losses[0]:.3f} and rtl {losses[1]:.3f} nats/token (validation); ")
    assert model.directions == (("ltr", "rtl") if losses[0] <= losses[1] else ("rtl", "ltr"))
    assert {"nats", "infill", "spec", "record", "torch"} <= set(dir(model))
    assert not [name for name in dir(model) if name.startswith("_")]


def test_a_direction_that_was_not_trained_stands_in_brackets(model):
    result = model.record.result
    one_way = result.with_(counters={**result.counters, "tokens_scored_rtl": 0})
    other = altered(model, with_audit(one_way), objective=LtrObjective())
    assert other.directions == ("ltr",)
    assert f" and [rtl {result.score('validation.rtl.nats_per_token'):.3f}] nats/token" in repr(other)
    unfinished = altered(model, with_audit(None))
    assert set(unfinished.directions) == {"ltr", "rtl"}
    assert repr(unfinished).splitlines()[1].startswith("unfinished; ")


@pytest.mark.parametrize(
    ("findings", "words", "warns"),
    [
        ([found("C1.perturbation", **{"pass": "rtl"}), found("C6.nats", "pass")], "AUDIT FAIL: C1 rtl", {"rtl"}),
        ([found("C8.directions")], "AUDIT FAIL: C8 rtl", {"rtl"}),
        ([found("C7.collapse")], "AUDIT FAIL: C7", {"ltr", "rtl"}),
        ([found("C6.nats", "could_not_tell", **{"pass": "ltr"})], "AUDIT COULD NOT TELL: C6 ltr", {"ltr"}),
        ([found("C1.perturbation", "pass")], "audit pass", set()),
    ],
)
def test_the_first_use_of_a_direction_that_failed_its_audit_warns(model, findings, words, warns, recwarn):
    doubtful = altered(model, with_audit(model.record.result, *findings))
    assert repr(doubtful).endswith(f"; {words}")
    for direction in ("ltr", "rtl", "ltr", "rtl"):
        doubtful.nats("abc", direction)
    assert [str(one.message) for one in recwarn] == [
        f"run {model.spec.run_id}, {way}: {words}" for way in ("ltr", "rtl") if way in warns
    ]


def test_without_an_audit_it_says_so(model):
    bare = altered(model, SimpleNamespace(result=None, outcome="unfinished", audit_report=lambda: None))
    assert repr(bare).endswith("unfinished; NOT AUDITED")


def test_a_model_that_fills_masks_is_scored_in_order_and_fills_in_order(model):
    fills = altered(
        model,
        with_audit(None, found("C1.perturbation", "pass")),
        objective=MaskedObjective(hide_answers=False, rate=0.2),
    )
    assert fills.directions == ()
    assert fills.nats("The birds").tokens == 9
    assert fills.infill("The ", " birds", 2, candidates=8).found.by == "order"
    assert fills.hidden("abc", "full").shape == (3, 16)
    for call in (lambda: fills.logits("abc"), lambda: fills.sample("abc"), lambda: fills.hidden("abc")):
        with pytest.raises(BadInput, match="in no reading direction"):
            call()


def test_without_a_direction_token_nothing_predicts_the_first_token(model):
    bare = altered(model, objective=LtrObjective(direction_token=False))
    assert math.isnan(bare.logits("abc")[0, 0])
    assert bare.logits("abc").shape[0] == 4
    scored = bare.nats("The birds")
    assert (scored.tokens, scored.bytes) == (8, 8)
    assert bare.nats("T").nats_per_token is None
    assert repr(bare.nats("T")) == "0 tokens ltr"


def test_bytes_are_those_of_the_text_or_missing(model):
    tokenizer = train_bpe(lambda: iter(["The birds said the words. " * 20]), 256)
    of_bpe = Model(replace(model.trained, data=SimpleNamespace(tokenizer=tokenizer)), model.record)
    scored = of_bpe.nats("Thé birds")
    assert scored.bytes == 10
    tokenizer.difference = lambda ids, text: "another"
    assert of_bpe.nats("Thé birds").bits_per_byte is None
    assert of_bpe.nats("Thé birds").difference == "another"
    assert "bits/byte" not in repr(of_bpe.nats("birds"))


def test_a_scored_text_is_safe_in_a_notebook(model):
    shown = model.nats("<script>")._repr_html_()
    assert "<script>" not in shown
    assert shown.count("<span") == 8
    assert "&lt;" in shown


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.nats("abc", stride=0), "stride: must be from 1 to 32"),
        (lambda m: m.logits("x" * 32), "text: has 32 tokens, and one pass reads at most 31"),
        (lambda m: m.hidden("x" * 40), "text: has 40 tokens, and one pass reads at most 32"),
        (lambda m: m.hidden("abc", "up"), "direction: 'up' is none of ltr, rtl, full, both"),
        (lambda m: m.hidden("abc", depth=3), "depth: the model has 2 blocks, so it cannot stop after 3"),
        (lambda m: m.logits([300]), "token 300 is not in the vocabulary"),
        (lambda m: m.infill("a", "b", 40), "tokens: must be from 1 to 31"),
        (lambda m: m.infill("a", "b", 2, by="order"), "it has resample"),
    ],
)
def test_bad_calls_are_refused(model, call, message):
    with pytest.raises(BadInput, match=message):
        call(model)


def test_many_texts_at_once_are_those_one_by_one(model):
    texts = ["The birds", "", "said 3 words.\n" * 9] * 30
    together = model.nats_of_each(texts, "rtl")
    assert [one.tokens for one in together] == [len(text) for text in texts]
    for text, scored in zip(texts[:3], together, strict=False):
        assert scored.nats == pytest.approx(model.nats(text, "rtl").nats, abs=1e-4)
    assert np.array_equal(together[0].nats, together[30].nats)


def test_a_run_that_is_not_there_is_named(run, tmp_path):
    with pytest.raises(BadInput, match="no run 'zz' in"):
        palinode.load("zz", run.store)
    with pytest.raises(BadInput, match="there is no results store here"):
        palinode.load("zz", tmp_path / "nowhere")


def test_a_loaded_model_writes_the_folder_that_export_writes(run, tmp_path):
    model = palinode.load(run.spec.run_id, run.store)
    assert model.to_hf(tmp_path / "model") == tmp_path / "model"
    export(run.spec.run_id, run.store, tmp_path / "same")
    written = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir() if path.is_file()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "same").iterdir() if path.is_file()}
    with pytest.raises(BadInput, match="is not empty"):
        model.to_hf(tmp_path / "model")
    with pytest.raises(BadInput, match="was not loaded from a store"):
        Model(model.trained, model.record).to_hf(tmp_path / "other")
