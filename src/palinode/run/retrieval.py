"""The retriever of a run: trained from a copy of the last weights, and scored on queries it was not trained on.

Legend: Q tested queries, P documents of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.measures import BM25, RETRIEVAL_MEASURES, Reading, mean_pooling_name, retrieval_name
from palinode.base.seeds import derive, generator
from palinode.data.retrieval import Collection, Fold, check_apart, collection_sha256, divided, read_collection
from palinode.evaluate.losses import device_of, evaluating
from palinode.evaluate.retrieval import (
    Bm25,
    Bools,
    Floats,
    bm25s_package,
    pool_of,
    query_types,
    ranking_scores,
    rankings,
)
from palinode.models.base import LanguageModel
from palinode.models.retriever import Retriever, check_reads_full, max_similarities, mean_similarities
from palinode.spec.retrieval import Retrieval
from palinode.spec.run_spec import RunSpec
from palinode.spec.trained import Trained
from palinode.train.contrastive import Batch, train_retriever
from palinode.train.device import autocast

SETTING = "evaluation.retrieval"
FOLDER = f"{SETTING}.folder"
STREAM = "retrieval"
SHOWN = 10  # the number of queries of a run that a page may show
AT_ONCE = 32  # the number of texts that are read together
LONGEST_SHOWN = 200  # characters of a text that is shown


def check_retrieval(spec: RunSpec, model: LanguageModel, specials: SpecialTokens) -> None:
    """Refuse, before training, a retriever that could not be trained or scored at the end.

    Raises:
        BadInput: the collection cannot be used or is another one, or the model lacks the blocks or the reading.
        EnvironmentProblem: bm25s is not installed.
    """
    if (config := spec.evaluation.retrieval) is None:
        return
    bm25s_package()
    found = collection_sha256(config.folder, FOLDER)
    if config.folder_sha256 not in (None, found):
        message = (
            f"{config.folder!r} is {found[:12]}... here, the spec was resolved with {str(config.folder_sha256)[:12]}..."
        )
        raise BadInput(message, field=f"{SETTING}.folder_sha256", hint="another folder needs a new resolved spec")
    try:
        divided(read_collection(config.folder, FOLDER).first(config.queries), config.folds, spec.seed)
    except BadInput as refusal:
        raise refusal.inside(SETTING) from None
    if "full" in config.readings:
        check_reads_full(model, specials)


@dataclass(frozen=True)
class Task:
    """What a retriever of a run is trained and scored on.

    Attributes:
        collection: the documents, and the queries that are used.
        fold: the queries that are trained on, and those that are tested.
    """

    trained: Trained
    config: Retrieval
    collection: Collection
    fold: Fold

    @classmethod
    def of(cls, trained: Trained) -> Task:
        """The task of a run whose evaluation has a retriever."""
        config = trained.spec.evaluation.retrieval
        assert config is not None
        collection = read_collection(config.folder, FOLDER).first(config.queries)
        return cls(trained, config, collection, divided(collection, config.folds, trained.spec.seed))

    @cached_property
    def documents(self) -> list[str]:
        """The ids of all documents, in the order of the collection."""
        return list(self.collection.documents)

    @cached_property
    def bm25(self) -> Floats:
        """(Q, documents) the scores of BM25, whose counts of words are those of all documents."""
        index = Bm25(list(self.collection.documents.values()))
        return index.scores([self.collection.queries[query] for query in self.fold.tested])

    @cached_property
    def pool(self) -> list[int]:
        """The places of the P documents that are ranked."""
        places = {document: place for place, document in enumerate(self.documents)}
        relevant = [[places[one] for one in sorted(self.collection.relevant[query])] for query in self.fold.tested]
        return pool_of(relevant, self.bm25, self.config.pool)

    @cached_property
    def relevant(self) -> Bools:
        """(Q, P) whether a document of the pool is relevant to a query."""
        pool = [self.documents[place] for place in self.pool]
        rows = [[document in self.collection.relevant[query] for document in pool] for query in self.fold.tested]
        return np.array(rows, dtype=np.bool_)

    def query_ids(self, query: str) -> list[int]:
        """The first token ids of a query."""
        return self._ids(self.collection.queries[query], self.config.query_tokens)

    def document_ids(self, document: str) -> list[int]:
        """The first token ids of a document."""
        return self._ids(self.collection.documents[document], self.config.document_tokens)

    def _ids(self, text: str, most: int) -> list[int]:
        return self.trained.data.tokenizer.encode(text)[:most]

    def batch(self, step: int) -> tuple[list[str], Batch]:
        """The queries of a training step, and its texts. Every arm gets the same ones with the same seed."""
        rng = generator(self.trained.spec.seed, STREAM, "batch", step)
        order = torch.randperm(len(self.fold.trained), generator=rng)[: self.config.batch].tolist()
        queries = [self.fold.trained[place] for place in order]
        relevant = [sorted(self.collection.relevant[query]) for query in queries]
        documents = [some[int(torch.randint(len(some), (1,), generator=rng))] for some in relevant]
        also = torch.tensor([[document in some for document in documents] for some in relevant])
        also.fill_diagonal_(False)
        texts = ([self.query_ids(query) for query in queries], [self.document_ids(document) for document in documents])
        return queries, Batch(*texts, also)


def measure_retrieval(trained: Trained) -> dict[str, Any]:
    """The columns of the row `retrieval`: the scores of every retriever, in all and for each query of the tested fold.

    Raises:
        AuditFailed: a tested query was trained on.
        FloatingPointError: a loss is not finite.
    """
    task = Task.of(trained)
    scores: dict[str, Floats] = {}
    losses: dict[str, list[float]] = {}
    for reading in task.config.readings:
        retriever, losses[reading] = trained_retriever(task, reading)
        late, mean = similarities(task, retriever)
        scores |= {retrieval_name(reading): late, mean_pooling_name(reading): mean}
    scores[BM25] = task.bm25[:, task.pool]
    scores = {name: scores[name] for name in task.config.retrievers}
    by_query = {name: ranking_scores(found, task.relevant) for name, found in scores.items()}
    queries = [task.collection.queries[query] for query in task.fold.tested]
    relevant = [sorted(task.collection.relevant[query]) for query in task.fold.tested]
    return {
        "scores": {
            name: {**{measure: float(np.mean(values)) for measure, values in one.items()}, "count": len(queries)}
            for name, one in by_query.items()
        },
        "queries": list(task.fold.tested),
        "by_query": by_query,
        "types": query_types(queries, relevant, by_query[BM25][RETRIEVAL_MEASURES[0]]),
        "shown": shown(task, scores),
        "pool": len(task.pool),
        "losses": losses,
    }


def trained_retriever(task: Task, reading: Reading, steps: int | None = None) -> tuple[Retriever, list[float]]:
    """A retriever from a copy of the run's weights, and the loss of each step. The run's own weights stay as they are.

    Args:
        steps: the number of steps; None: those of the settings.

    Raises:
        AuditFailed: a tested query was trained on.
    """
    config, spec, model = task.config, task.trained.spec, task.trained.model
    rng = generator(spec.seed, STREAM, "map", reading)
    copied = model.first_blocks(config.depth)
    retriever = Retriever(copied, reading, config.width, task.trained.specials, rng).to(device_of(model))
    read: set[str] = set()

    def batch_at(step: int) -> Batch:
        queries, batch = task.batch(step)
        read.update(queries)
        return batch

    rates = (config.learning_rate, config.map_learning_rate, config.temperature)
    count = config.steps if steps is None else steps
    losses = train_retriever(retriever, batch_at, count, *rates, spec.recipe.precision)
    check_apart(task.collection, read, task.fold.tested)
    return retriever, losses


def similarities(task: Task, retriever: Retriever) -> tuple[Floats, Floats]:
    """(Q, P) scores of the tested queries and the documents of the pool: by late interaction, and by the means of the vectors."""
    queries = vectors(task, retriever, [task.query_ids(query) for query in task.fold.tested])
    documents = vectors(task, retriever, [task.document_ids(task.documents[place]) for place in task.pool])
    both = max_similarities(queries, documents), mean_similarities(queries, documents)
    late, mean = (one.double().cpu().numpy() for one in both)
    return late, mean


def vectors(task: Task, retriever: Retriever, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """The (T, d) vectors of each text. Texts of about one length are read together."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found: dict[int, torch.Tensor] = {}
    with evaluating(retriever), autocast(device_of(retriever), task.trained.spec.recipe.precision):
        for start in range(0, len(order), AT_ONCE):
            places = order[start : start + AT_ONCE]
            found |= zip(places, retriever([texts[place] for place in places]), strict=True)
    return [found[place] for place in range(len(texts))]


def shown(task: Task, scores: dict[str, Floats]) -> list[dict[str, Any]]:
    """Some tested queries, the same for every arm, with the title of the document that each retriever ranks first.

    The rank is that of the first relevant document, from 1 on.
    """
    chosen = sorted(range(len(task.fold.tested)), key=lambda place: derive(0, STREAM, task.fold.tested[place]))[:SHOWN]
    orders = {name: rankings(found) for name, found in scores.items()}
    rows = []
    for place in sorted(chosen):
        query = task.fold.tested[place]
        titles = task.collection.titles
        first = {name: titles[task.documents[task.pool[order[place, 0]]]] for name, order in orders.items()}
        ranks = {name: int(task.relevant[place][order[place]].argmax()) + 1 for name, order in orders.items()}
        rows.append(
            {
                "query": query,
                "text": _short(task.collection.queries[query]),
                "relevant": [_short(titles[one]) for one in sorted(task.collection.relevant[query])],
                "first": {name: _short(title) for name, title in first.items()},
                "rank": ranks,
            }
        )
    return rows


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
