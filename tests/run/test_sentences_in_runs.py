"""Minimal pairs and last words as settings of a run: their scores in the record, and files that changed or cannot be read."""

import json

import numpy as np
import pytest
from tiny_run import tiny_spec

from palinode import Decision, EvaluationConfig, Store
from palinode.base.errors import BadInput
from palinode.base.measures import Metric
from palinode.data.pairs import lines_sha256
from palinode.data.source import resolve
from palinode.evaluate.pairs import last_words
from palinode.evaluate.sliding import SlidingContext
from palinode.experiment.cells import pinned
from palinode.objectives import LtrObjective, RtlObjective
from palinode.results.verify import verify
from palinode.run.one import run_one
from palinode.run.trained import load_trained
from palinode.spec.experiment import Arm, Experiment

PAIRS = [("The 3th of 9", "eTh t3h fo 9", "words"), ("said", "dias", "words"), ("a", "a", "ties")]
WORDS = ["The 3th of 9 small birds", "flew 4\nmiles. ", "alone"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The names of a file of pairs and of a file of texts."""
    folder = tmp_path_factory.mktemp("sentences")
    lines = [{"sentence_good": good, "sentence_bad": bad, "UID": name} for good, bad, name in PAIRS]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "words.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in WORDS))
    return {"pairs": str(folder / "pairs.jsonl"), "last_word": str(folder / "words.jsonl")}


def spec_of(corpus, files, **changes):
    evaluation = EvaluationConfig(max_tokens=500, **files)
    return tiny_spec(corpus, steps=10, evaluate_every=None, evaluation=evaluation, **changes)


@pytest.fixture(scope="module")
def done(corpus, files, tmp_path_factory):
    spec, store = spec_of(corpus, files), Store(tmp_path_factory.mktemp("runs"))
    return spec, store, run_one(spec, store)


def test_the_scores_are_those_of_the_trained_model(done):
    spec, store, result = done
    trained = load_trained(spec, store)
    context = SlidingContext.of(trained.model, trained.specials, spec.objective, "ltr", spec.data.window_tokens)
    good, bad = (
        [nats.sum() for nats in context.nats([list(text.encode()) for text in texts])]
        for texts in zip(*[pair[:2] for pair in PAIRS], strict=True)
    )
    won = sum(a < b for a, b in zip(good[:2], bad[:2], strict=True)) + 0.5
    assert result.sentences["pairs"] == {"accuracy": won / 3, "won": won, "count": 3}
    assert result.score("validation.pairs.accuracy") == won / 3
    assert [(row["paradigm"], row["count"]) for row in store.record(spec.run_id).pairs] == [
        ("", 3),
        ("ties", 1),
        ("words", 2),
    ]
    words = result.sentences["last_word"]
    assert (words["count"], words["tokens_scored"]) == (3, len(b" birds\nmiles.alone"))
    assert result.score("validation.last_word.nats_per_token") == pytest.approx(
        words["nats_sum"] / words["tokens_scored"]
    )
    assert set(result.scores["validation"]) == {"ltr", "rtl"}, "they are no passes"
    assert result.own_pass("validation") == "ltr"
    assert verify(store).damaged == ()


class Repeats:
    """Stands for a context whose greedy reading is always right for the tokens of `known`."""

    def __init__(self, known):
        self.known = known

    def nats_and_hits(self, documents):
        from palinode.evaluate.sliding import TokenScores

        hits = [np.array([chr(token) in self.known for token in ids]) for ids in documents]
        return [TokenScores(np.ones(len(hit)), hit) for hit in hits]


def test_a_last_word_is_won_when_greedy_writes_all_of_it():
    from palinode.data.tokenizer import ByteTokenizer

    found = last_words(Repeats(" birds"), ByteTokenizer(), ["xx birds", "birds x", "bird\tbirds ", "ab birdx"])
    assert (found.texts, found.won, found.tokens, found.nats_sum) == (4, 1, 6 + 2 + 6 + 6, 20.0)


def test_the_settings_move_no_run_id_where_they_are_not_set(corpus, files):
    assert tiny_spec(corpus).with_(evaluation=EvaluationConfig(max_tokens=500)).run_id == tiny_spec(corpus).run_id
    assert spec_of(corpus, files).run_id != spec_of(corpus, {}).run_id


def test_resolving_pins_the_content_of_the_files(corpus, files):
    experiment = Experiment(
        name="sentences",
        question="Which sentences?",
        base=spec_of(corpus, files).settings,
        arms=(Arm(name="both"), Arm(name="ltr", change={"objective": LtrObjective()})),
        seeds=(1,),
        decision=Decision(metric="validation.pairs.accuracy", baseline="ltr", better="higher"),
    )
    resolved = pinned(experiment.resolve())
    for run in resolved.runs:
        assert run.spec.evaluation.pairs_sha256 == lines_sha256(files["pairs"])
        assert run.spec.evaluation.last_word_sha256 == lines_sha256(files["last_word"])
    with pytest.raises(BadInput, match="validation.pairs.accuracy is not measured"):
        experiment.with_(base=spec_of(corpus, {}).settings).resolve()
    assert str(Metric.parse("validation.last_word.accuracy")) == "validation.last_word.accuracy"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": "no.jsonl"}, "no.jsonl: evaluation.pairs: no such file"),
        ({"pairs_sha256": "0" * 64}, "evaluation.pairs_sha256: '.*' is .* the spec was resolved with 000000000000"),
        ({"last_word": "PAIRS"}, "evaluation.last_word: line 1 has no text"),
    ],
)
def test_files_that_cannot_be_scored_are_refused_before_training(corpus, files, tmp_path, changes, message):
    changes = {name: files["pairs"] if value == "PAIRS" else value for name, value in changes.items()}
    spec = spec_of(corpus, {**files, **changes})
    with pytest.raises(BadInput, match=message):
        run_one(spec, Store(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_characters_that_the_tokenizer_lacks_are_refused_before_training(corpus, files, tmp_path):
    spec, words = spec_of(corpus, files), tmp_path / "words.jsonl"
    words.write_text('{"text": "ü"}')
    evaluation = spec.evaluation.with_(last_word=str(words), pairs=None)
    spec = spec.with_(data=resolve(spec.data.with_(tokenizer="char")), evaluation=evaluation)
    with pytest.raises(BadInput, match=r"words.jsonl: evaluation.last_word: the character .* is not among"):
        run_one(spec, Store(tmp_path / "runs"))


def test_an_objective_that_is_rtl_alone_has_no_last_word(corpus, files):
    with pytest.raises(BadInput, match="reads no text before the last word"):
        spec_of(corpus, files, objective=RtlObjective())
