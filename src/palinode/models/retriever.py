"""A late-interaction retriever on the first blocks of a language model (ColBERT, arXiv 2004.12832).

A text is read, and a linear map turns the state of each of its tokens into a vector of length 1. The score of a document for a
query is the sum, over the query's tokens, of the largest dot product with a token of the document. Texts of one length are read
together, so no row has padding. Legend: B rows, T tokens of a text, D width, d width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.measures import Reading
from palinode.base.visibility import Full, Ltr
from palinode.models.base import LanguageModel

PROBED_TOKENS = 6


class Retriever(nn.Module):
    """The first blocks of a language model, and a linear map from its states to vectors.

    Args:
        model: a model that the retriever may change: a copy of the model that was trained.
        reading: `ltr` (causal), `full` (no mask), or `both` (the causal states of both directions, joined: 2 D numbers a token).
        width: the width d of a vector.
        rng: the random stream of the map's first weights.
    """

    def __init__(
        self, model: LanguageModel, reading: Reading, width: int, specials: SpecialTokens, rng: torch.Generator
    ):
        super().__init__()
        self.model = model
        self.reading = reading
        self.specials = specials
        states = state_width(model) * (2 if reading == "both" else 1)
        self.map = nn.Linear(states, width, bias=False)
        with torch.no_grad():
            self.map.weight.copy_(torch.randn(width, states, generator=rng) / states**0.5)

    def states(self, tokens: Tensor) -> Tensor:
        """(B, T) token ids -> the (B, T, D) states of the tokens (both: 2 D). The start token has no state here."""
        if self.reading != "both":
            sees = Full() if self.reading == "full" else Ltr()
            return self.model.hidden(self._behind("[L]", tokens), sees)[:, 1:]
        ltr = self.model.hidden(self._behind("[L]", tokens), Ltr())[:, 1:]
        rtl = self.model.from_end().hidden(self._behind("[R]", tokens.flip(1)), Ltr())[:, 1:].flip(1)
        return torch.cat([ltr, rtl], dim=-1)

    def forward(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """The (T, d) vectors of each text. Texts of one length are read as one batch."""
        by_length: dict[int, list[int]] = {}
        for place, ids in enumerate(texts):
            by_length.setdefault(len(ids), []).append(place)
        found: dict[int, Tensor] = {}
        for places in by_length.values():
            tokens = torch.tensor([list(texts[place]) for place in places], dtype=torch.long)
            vectors = F.normalize(self.map(self.states(tokens.to(self.map.weight.device))).float(), dim=-1)
            found |= zip(places, vectors, strict=True)
        return [found[place] for place in range(len(texts))]

    def _behind(self, special: str, tokens: Tensor) -> Tensor:
        return torch.cat([torch.full_like(tokens[:, :1], self.specials[special]), tokens], dim=1)


def max_similarities(queries: Sequence[Tensor], documents: Sequence[Tensor]) -> Tensor:
    """(Q, P) scores of Q queries (T_q, d) and P documents (T_p, d): over query tokens, the sum of the largest dot product."""
    padded = pad_sequence(list(documents), batch_first=True)
    lengths = torch.tensor([len(document) for document in documents], device=padded.device)
    is_padding = torch.arange(padded.shape[1], device=padded.device) >= lengths[:, None]
    flat = padded.flatten(0, 1)
    scores = []
    for query in queries:
        products = (query @ flat.T).view(len(query), *is_padding.shape).masked_fill(is_padding, -torch.inf)
        scores.append(products.amax(-1).sum(0))
    return torch.stack(scores)


def mean_similarities(queries: Sequence[Tensor], documents: Sequence[Tensor]) -> Tensor:
    """(Q, P) cosines of the mean vectors of queries and documents."""
    left, right = (torch.stack([F.normalize(one.mean(0), dim=0) for one in side]) for side in (queries, documents))
    return left @ right.T


def state_width(model: LanguageModel) -> int:
    """The width D of the model's states.

    Raises:
        BadInput: the model has no linear head, so its width is not known.
    """
    head = model.linear_head()
    if head is None:
        raise BadInput(f"a {type(model).__name__} has no linear head", field="evaluation.retrieval")
    return head.weight.shape[1]


@torch.no_grad()
def check_reads_full(model: LanguageModel, specials: SpecialTokens) -> None:
    """Refuse a model whose first states do not depend on the last token when it reads without a mask.

    Raises:
        BadInput: the model has no full reading.
    """
    device = next(model.parameters()).device
    tokens = torch.zeros(2, PROBED_TOKENS, dtype=torch.long, device=device)
    tokens[:, 0] = specials["[L]"]
    tokens[1, -1] = 1
    one, other = model.hidden(tokens, Full())[:, 1]
    if bool((one == other).all()):
        message = f"a {type(model).__name__} does not read without a mask: its last token moves no state before it"
        raise BadInput(message, field="evaluation.retrieval.readings")
