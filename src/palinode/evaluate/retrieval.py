"""Scores rankings of documents: nDCG@10, recall@100, and BM25 as the baseline that learns nothing.

Legend: Q queries, P documents of a pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palinode.base.errors import EnvironmentProblem
from palinode.base.measures import RETRIEVAL_MEASURES

NDCG_DEPTH, RECALL_DEPTH = 10, 100
PER_QUERY = 5  # the number of documents that BM25 puts into the pool for each query
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def rankings(scores: Floats) -> NDArray[np.int64]:
    """(Q, P) scores -> the (Q, P) places of the documents, best first; of equal scores the first document comes first."""
    return np.argsort(-scores, axis=1, kind="stable")


def ranking_scores(scores: Floats, relevant: Bools) -> dict[str, list[float]]:
    """Measure -> a number for each query. nDCG@10 has the gain 1 for a relevant document and the discount log2(1 + rank).

    Args:
        scores: (Q, P) scores, higher is better.
        relevant: (Q, P) whether a document is relevant; each query has a relevant document.
    """
    hits = np.take_along_axis(relevant, rankings(scores), axis=1)
    count = relevant.sum(1)
    discounts = 1 / np.log2(np.arange(NDCG_DEPTH) + 2)
    top = hits[:, :NDCG_DEPTH]
    best = np.cumsum(discounts)[np.minimum(count, NDCG_DEPTH) - 1]
    values = (top @ discounts[: top.shape[1]] / best, hits[:, :RECALL_DEPTH].sum(1) / count)
    return dict(zip(RETRIEVAL_MEASURES, (value.tolist() for value in values), strict=True))


class Bm25:
    """BM25 over some documents, with the parameters and the English stop words of the package bm25s.

    Raises:
        EnvironmentProblem: bm25s is not installed.
    """

    def __init__(self, documents: Sequence[str]):
        self.package = bm25s_package()
        self.index: Any = self.package.BM25()
        self.count = len(documents)
        self.index.index(self._tokens(documents), show_progress=False)

    def scores(self, queries: Sequence[str]) -> Floats:
        """The (Q, P) scores of all documents; 0 for a query without a known word."""
        rows = np.zeros((len(queries), self.count))
        for row, words in zip(rows, self._tokens(queries, return_ids=False), strict=True):
            if words:
                row[:] = self.index.get_scores(words)
        return rows

    def _tokens(self, texts: Sequence[str], **options: bool) -> Any:
        return self.package.tokenize(list(texts), stopwords="en", show_progress=False, **options)


def bm25s_package() -> Any:
    """The package bm25s.

    Raises:
        EnvironmentProblem: it is not installed.
    """
    try:
        import bm25s
    except ImportError:
        hint = "`pip install 'palinode[retrieval]'`"
        raise EnvironmentProblem("bm25s is not installed", field="evaluation.retrieval", hint=hint) from None
    return bm25s


def pool_of(relevant: Sequence[Sequence[int]], scores: Floats, size: int) -> list[int]:
    """The documents that the queries of a fold are ranked over, as rising places among all documents.

    All relevant documents are in it, then the PER_QUERY best of BM25 for each query, then the best that are left, rank by rank,
    until it has `size` documents.

    Args:
        relevant: the places of the relevant documents of each query.
        scores: (Q, documents) the scores of BM25.
    """
    order = rankings(scores)
    chosen = dict.fromkeys(place for places in relevant for place in places)
    chosen |= dict.fromkeys(order[:, :PER_QUERY].flatten().tolist())
    for place in order[:, PER_QUERY:].T.flatten().tolist():
        if len(chosen) >= size:
            break
        chosen.setdefault(place, None)
    return sorted(chosen)


def query_types(
    queries: Sequence[str], relevant: Sequence[Sequence[str]], bm25_ndcg: Sequence[float]
) -> Mapping[str, list[str]]:
    """Ways to sort queries -> the type of each query: by its words, its relevant documents, and what BM25 finds.

    Args:
        relevant: the ids of the relevant documents of each query.
    """
    words = [len(query.split()) for query in queries]
    middle = float(np.median(words))
    return {
        "words of the query": ["short" if count <= middle else "long" for count in words],
        "relevant documents": ["one" if len(documents) == 1 else "several" for documents in relevant],
        "BM25's first ten": ["holds one" if value > 0 else "holds none" for value in bm25_ndcg],
    }
