"""The table of the measurements at the end of a run. Each entry names its event, the runs it applies to, and its rows.

A new measurement is one more entry of `MEASUREMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from palinode.analysis.pairs import pair_shares
from palinode.base.config import encode
from palinode.base.errors import BadInput
from palinode.base.measures import LAST_WORD, PAIRS, Direction
from palinode.data.config import VALIDATION, Split
from palinode.data.pairs import lines_sha256, read_last_words, read_pairs
from palinode.data.source import prepare
from palinode.data.task_store import TaskData, TaskStore
from palinode.data.tokenizer import Tokenizer
from palinode.evaluate.details import Details
from palinode.evaluate.embeddings import embedding_geometry
from palinode.evaluate.losses import Evaluation, ScoreBatches
from palinode.evaluate.pairs import last_words, won_pairs
from palinode.evaluate.sliding import SlidingContext
from palinode.evaluate.tasks import by_slice, levels, own_reading
from palinode.results.documents import DocumentNats
from palinode.results.layer_cut import LAYER_CUT_EVENT
from palinode.results.record import (
    CONTEXT_LENGTHS_EVENT,
    EMBEDDINGS_EVENT,
    RETRIEVAL_EVENT,
    SENTENCES_EVENT,
    TASK_EVENT,
)
from palinode.run.retrieval import measure_retrieval
from palinode.run.scoring import cut_split, evaluate_in_detail, evaluate_split, refit_for_cuts
from palinode.spec.run_spec import RunSpec
from palinode.spec.trained import Trained
from palinode.train.loop import Counters, DivergedError

EVALUATION_EVENT = "eval"
Rows = Iterator[tuple[Split | Literal[""], dict[str, Any]]]


@dataclass
class Snapshot:
    """A run at one step, as the measurements read it.

    Attributes:
        counters: the amounts that training has used so far.
        note: a function that reports one line of text to the user.
        score: how batches are scored, as in `evaluate`; None: by the model, one after the other.
        evaluations: the scores of the splits that were scored so far. Each split is scored once.
        details: what the nats of these scores are about, and the scores of each document.
    """

    trained: Trained
    counters: Counters
    note: Callable[[str], None]
    score: ScoreBatches | None = None
    evaluations: dict[Split, Evaluation] = field(default_factory=dict)
    details: dict[Split, Details] = field(default_factory=dict)

    def evaluation(self, split: Split) -> Evaluation:
        """The scores of a whole split.

        Raises:
            DivergedError: the last update left weights whose loss is not finite.
        """
        if split not in self.evaluations:
            with self.finite(f"the {split} loss"):
                self.evaluations[split], self.details[split] = evaluate_in_detail(self.trained, split, self.score)
        return self.evaluations[split]

    def documents(self) -> dict[tuple[str, str], DocumentNats]:
        """(split, pass) -> the scores of each document."""
        return {
            (split, name): found for split, details in self.details.items() for name, found in details.documents.items()
        }

    def curve_evaluation(self, split: Split) -> Evaluation:
        """The scores of a split before the last step: of its first `curve_tokens` tokens where the spec names a number.

        Raises:
            DivergedError: the last update left weights whose loss is not finite.
        """
        config = self.trained.spec.evaluation
        if config.curve_tokens is None:
            return self.evaluation(split)
        short = config.with_(max_tokens=config.curve_tokens, curve_tokens=None)
        with self.finite(f"the {split} loss"):
            return evaluate_split(self.trained.with_spec(evaluation=short), split, self.score)

    @contextmanager
    def finite(self, what: str) -> Iterator[None]:
        """Turn a loss that is not finite into DivergedError: the same spec would end the same way again."""
        try:
            yield
        except FloatingPointError:
            raise DivergedError(self.counters.optimizer_steps, what) from None


@dataclass(frozen=True)
class Measurement:
    """One entry of the table of measurements.

    Attributes:
        event: the name of the measurement's rows in metrics.jsonl.
        applies: a function that tells whether a run with this spec gets this measurement.
        rows: a function that gives (split, columns) for each row; the split is "" where the row belongs to no split.
        reads_weights: whether it reads the model by other ways than `Snapshot.score`. Several processes that share a run then
            leave it to one of them, with the whole weights.
    """

    event: str
    applies: Callable[[RunSpec], bool]
    rows: Callable[[Snapshot], Rows]
    reads_weights: bool = False


def final_splits(spec: RunSpec) -> tuple[Split, ...]:
    """The splits that are scored after the last step."""
    return (spec.evaluation.split, "test") if spec.evaluation.test else (spec.evaluation.split,)


def split_scores(snapshot: Snapshot) -> Rows:
    """The scores of every split."""
    for split in final_splits(snapshot.trained.spec):
        yield split, {"scores": snapshot.evaluation(split).as_rows()}


def task_placement(snapshot: Snapshot) -> Rows:
    """Rows that explain an accuracy on a task: chance and baselines, exact matches, slices, and scores on longer sequences."""
    spec, data, counters = snapshot.trained.spec, snapshot.trained.data, snapshot.counters
    assert isinstance(data, TaskStore)
    reading = own_reading(spec.objective, counters.tokens_scored_ltr, counters.tokens_scored_rtl)
    for split in final_splits(spec):
        held_out = data.held_out(split)
        yield (
            split,
            {
                "levels": levels(data.config, held_out, reading, spec.evaluation.length_factors),
                "by_pass": by_slice(snapshot.evaluation(split), held_out.slices),
                "lengths": dict(_longer_sequences(snapshot, data.config, split)),
            },
        )


def _longer_sequences(snapshot: Snapshot, data: TaskData, split: Split) -> Iterator[tuple[str, Any]]:
    """(factor, scores) on sequences that are `factor` times as long. Beyond the trained length a loss may not be finite."""
    evaluation = snapshot.trained.spec.evaluation
    for factor in evaluation.length_factors:
        longer = data.longer(factor)
        trained = snapshot.trained.with_spec(data=longer, evaluation=evaluation.with_(length_factors=()))
        try:
            found = evaluate_split(replace(trained, data=prepare(longer)), split, snapshot.score)
            yield str(factor), found.as_rows()
        except FloatingPointError:
            snapshot.note(f"at {factor} times the trained length the {split} loss is not finite, so it has no score")


def context_lengths(snapshot: Snapshot) -> Rows:
    """The scores of every split in windows of other lengths."""
    spec = snapshot.trained.spec
    alone = spec.evaluation.with_(context_lengths=())
    for split in final_splits(spec):
        scores = {}
        for window_tokens in spec.evaluation.context_lengths:
            trained = snapshot.trained.with_spec(data=spec.data.with_(window_tokens=window_tokens), evaluation=alone)
            with snapshot.finite(f"the {split} loss in windows of {window_tokens} tokens"):
                scores[str(window_tokens)] = evaluate_split(trained, split, snapshot.score).as_rows()
        yield split, {"scores": scores}


def layer_cut(snapshot: Snapshot) -> Rows:
    """The scores of every split with the first 1, 2, .. L blocks. The result has no rows unless all scores are finite."""
    trained = snapshot.trained
    with snapshot.finite("the loss with fewer blocks"):
        refits = refit_for_cuts(trained) if trained.spec.evaluation.layer_cut_refit_steps else None
        cuts = {split: cut_split(trained, split, refits) for split in final_splits(trained.spec)}
    for split, cut in cuts.items():
        yield split, encode(cut)


def embeddings(snapshot: Snapshot) -> Rows:
    """The geometry of the tables of tokens and positions."""
    yield "", {"geometry": embedding_geometry(snapshot.trained.model)}


def sentences(snapshot: Snapshot) -> Rows:
    """The scores of minimal pairs and of last words."""
    trained, config = snapshot.trained, snapshot.trained.spec.evaluation
    context, tokenizer = _whole_sentences(trained), trained.data.tokenizer
    scores: dict[str, dict[str, float]] = {}
    parts: dict[str, Any] = {}
    if config.pairs is not None:
        pairs = read_pairs(config.pairs, "evaluation.pairs")
        with snapshot.finite("the loss of a sentence"):
            won = won_pairs(context, tokenizer, pairs)
        shares = pair_shares([(pair.field, pair.paradigm) for pair in pairs], won.tolist())
        scores[PAIRS] = {"accuracy": shares[0].accuracy, "won": shares[0].won, "count": shares[0].count}
        parts["pairs"] = [share.as_row() for share in shares]
    if config.last_word is not None:
        texts = read_last_words(config.last_word, "evaluation.last_word")
        with snapshot.finite("the loss of a last word"):
            words = last_words(context, tokenizer, texts)
        scores[LAST_WORD] = {
            "accuracy": words.won / words.texts,
            "won": words.won,
            "count": words.texts,
            "nats_per_token": words.nats_sum / words.tokens,
            "nats_sum": words.nats_sum,
            "tokens_scored": words.tokens,
        }
    yield VALIDATION, {"scores": scores, **parts}


def retrieval(snapshot: Snapshot) -> Rows:
    """The scores of a retriever that is trained from a copy of the weights, for each query of the tested fold."""
    with snapshot.finite("the loss of the retriever"):
        yield VALIDATION, measure_retrieval(snapshot.trained)


def check_sentences(spec: RunSpec, tokenizer: Tokenizer) -> None:
    """Refuse, before training, files of sentences that cannot be scored, or others than those that the spec was resolved with.

    Raises:
        BadInput: a file cannot be read or written in the vocabulary, or has another hash. The error names the setting.
    """
    for kind, name in spec.evaluation.of_sentences.items():
        setting = f"evaluation.{kind}"
        expected, found = getattr(spec.evaluation, f"{kind}_sha256"), lines_sha256(name, setting)
        if expected not in (None, found):
            message = f"{name!r} is {found[:12]}... here, the spec was resolved with {expected[:12]}..."
            raise BadInput(message, field=f"{setting}_sha256", hint="another file needs a new resolved spec")
        texts = [pair.good + pair.bad for pair in read_pairs(name, setting)] if kind == PAIRS else []
        texts = texts or read_last_words(name, setting)
        if tokenizer.kind in ("char", "ids"):  # the other kinds write any text
            try:
                tokenizer.encode("".join(texts))
            except BadInput as refusal:
                raise BadInput(refusal.message, file=name, field=setting) from None


def _whole_sentences(trained: Trained) -> SlidingContext:
    """The model as it reads sentences: ltr, or rtl for an objective that is rtl alone."""
    spec = trained.spec
    direction: Direction = "rtl" if spec.objective.groups() == ("rtl",) else "ltr"
    return SlidingContext.of(trained.model, trained.specials, spec.objective, direction, spec.data.window_tokens)


def _is_task_run(spec: RunSpec) -> bool:
    """Whether this is a run on a task and no trial. A trial on the tuning split is not used for any claim."""
    return isinstance(spec.data, TaskData) and spec.evaluation.split == VALIDATION


def _scores_sentences(spec: RunSpec) -> bool:
    return bool(spec.evaluation.of_sentences) and spec.evaluation.split == VALIDATION


def _scores_retrieval(spec: RunSpec) -> bool:
    return spec.evaluation.retrieval is not None and spec.evaluation.split == VALIDATION


MEASUREMENTS = (
    Measurement(EVALUATION_EVENT, lambda spec: True, split_scores),
    Measurement(TASK_EVENT, _is_task_run, task_placement),
    Measurement(CONTEXT_LENGTHS_EVENT, lambda spec: bool(spec.evaluation.context_lengths), context_lengths),
    Measurement(LAYER_CUT_EVENT, lambda spec: spec.evaluation.layer_cut, layer_cut, reads_weights=True),
    Measurement(SENTENCES_EVENT, _scores_sentences, sentences, reads_weights=True),
    Measurement(RETRIEVAL_EVENT, _scores_retrieval, retrieval, reads_weights=True),
    Measurement(EMBEDDINGS_EVENT, lambda spec: spec.evaluation.embeddings, embeddings, reads_weights=True),
)
