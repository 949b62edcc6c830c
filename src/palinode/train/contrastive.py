"""Trains a retriever: of the documents in a batch, each query must give its own document the highest score.

The loss is the mean cross-entropy of score / (query tokens x temperature) over the documents of the batch. A document of the batch
that is relevant to a query beside its own is left out of that query's sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from palinode.models.retriever import Retriever, max_similarities
from palinode.train.device import autocast
from palinode.train.recipe import Precision

BETAS = (0.9, 0.99)
GRADIENT_CLIP = 1.0


@dataclass(frozen=True)
class Batch:
    """B queries, each with one relevant document.

    Attributes:
        queries, documents: the token ids of each text.
        also_relevant: (B, B) boolean: whether document j, which is not the query's own, is relevant to query i.
    """

    queries: Sequence[Sequence[int]]
    documents: Sequence[Sequence[int]]
    also_relevant: Tensor


def contrastive_loss(retriever: Retriever, batch: Batch, temperature: float) -> Tensor:
    """The mean cross-entropy of a batch, in nats."""
    queries, documents = retriever(batch.queries), retriever(batch.documents)
    lengths = torch.tensor([len(query) for query in queries], device=queries[0].device)
    scores = max_similarities(queries, documents) / (lengths[:, None] * temperature)
    scores = scores.masked_fill(batch.also_relevant.to(scores.device), -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def train_retriever(
    retriever: Retriever,
    batch_at: Callable[[int], Batch],
    steps: int,
    learning_rate: float,
    map_learning_rate: float,
    temperature: float,
    precision: Precision,
) -> list[float]:
    """Take steps of AdamW on the model and the map at constant rates.

    Returns:
        the loss of each step in nats, before its update.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    model = [one for one in retriever.model.parameters() if one.requires_grad]
    rates = ((model, learning_rate), (list(retriever.map.parameters()), map_learning_rate))
    groups = [{"params": some, "lr": rate} for some, rate in rates if some]
    optimizer = torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0)
    losses = []
    retriever.train()
    for step in range(steps):
        with torch.enable_grad(), autocast(retriever.map.weight.device, precision):
            loss = contrastive_loss(retriever, batch_at(step), temperature)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step} of the retriever is not finite")
        losses.append(float(loss.detach()))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(retriever.parameters(), GRADIENT_CLIP)
        optimizer.step()
    retriever.eval()
    return losses
