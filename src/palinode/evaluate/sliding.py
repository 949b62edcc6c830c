"""The nats of every token of a text of any length, in overlapping blocks of one window, each read from its own start token.

A document of n tokens is read in one direction, with windows of N tokens and a stride of s tokens. The first block is the first N
tokens. Each next block ends s tokens later, or at the end of the document, and holds the N tokens before its end. A block scores
the tokens that no block before it scored, so that each token is scored once, and all tokens but the first N have at least N - s
tokens before them. From right to left, the document is read from its end.

    N 4, s 2, 7 tokens    a b c d        scores a b c d
                              c d e f    scores e f
                                d e f g  scores g

A model that fills masks is scored in order: one row for each token shows the tokens before it, hides it and the rest of the block.
Legend: B rows, T slots of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palinode.base.errors import BadInput
from palinode.base.example import NO_SOURCE, Example, SpecialTokens, one_pass
from palinode.base.measures import Direction
from palinode.base.visibility import Full
from palinode.evaluate.losses import device_of, evaluating, nats_and_hits, window_draws
from palinode.models.base import LanguageModel
from palinode.models.direction import read
from palinode.objectives import LtrObjective, MaskedObjective, Objective, RtlObjective

MOST_LOGITS = 2**27  # the most logits that are in memory at the same time: 512 MiB in float32
WINDOWS_AT_ONCE = 32  # as many as an evaluation reads at once by default
Ids = Sequence[int] | NDArray[np.integer]


class TokenScores(NamedTuple):
    """(n,) nats of the tokens of a document, and (n,) whether each is the most probable id."""

    nats: NDArray[np.float64]
    hit: NDArray[np.bool_]


class Block(NamedTuple):
    """The tokens `start` to `end` - 1 of a document in reading order; the block scores the tokens from `scored` on."""

    start: int
    end: int
    scored: int


def blocks(tokens: int, window_tokens: int, stride: int) -> Iterator[Block]:
    """The blocks of a document of `tokens` tokens, in reading order; none for a document without tokens."""
    end = min(window_tokens, tokens)
    if end:
        yield Block(0, end, 0)
    while end < tokens:
        before, end = end, min(end + stride, tokens)
        yield Block(max(0, end - window_tokens), end, before)


def pass_of(objective: Objective, direction: Direction) -> Objective:
    """The objective whose Examples score a text in this direction: the evaluation pass of the trained objective.

    Raises:
        BadInput: the objective is trained neither in a direction nor to fill masks at random places.
    """
    if isinstance(objective, MaskedObjective) and objective.rate:
        return objective
    if not objective.reads_in_a_direction:
        message = f"was trained on {objective.kind_name()!r}, which gives no probability of a text"
        raise BadInput(message, field="objective")
    if getattr(objective, "hide_answers", False):  # text marks no answers that could be hidden
        objective = objective.with_(hide_answers=False)
    plain = {"ltr": LtrObjective(), "rtl": RtlObjective()}
    return (plain | objective.evaluation())[direction]


@dataclass(frozen=True)
class SlidingContext:
    """A model that scores texts in one direction, in overlapping blocks.

    Attributes:
        objective: the pass that `pass_of` gives.
        stride: the number of tokens by which the end of a block moves, from 1 to `window_tokens`. A pass without a direction token
            scores no first token of a block, so its blocks move by at most `window_tokens` - 1.
        slots_at_once: the number of slots that the model reads in one call.
        only_text: whether the probabilities of the special tokens are left out, so that those of the text's ids sum to 1.
        seed: the seed of the random decisions of the pass, which the built-in passes do not make.
    """

    model: LanguageModel
    specials: SpecialTokens
    objective: Objective
    direction: Direction
    window_tokens: int
    stride: int
    slots_at_once: int
    only_text: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window_tokens:
            message = f"must be from 1 to {self.window_tokens}, the tokens of a window, got {self.stride}"
            raise BadInput(message, field="stride")

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        specials: SpecialTokens,
        objective: Objective,
        direction: Direction,
        window_tokens: int,
        **options: Any,
    ) -> SlidingContext:
        """The context of a model that was trained on this objective; its blocks move by half a window, unless an option says more.

        Raises:
            BadInput: see `pass_of`, or the stride does not fit the window.
        """
        defaults = {"stride": max(1, window_tokens // 2), "slots_at_once": WINDOWS_AT_ONCE * window_tokens}
        own = pass_of(objective, direction)
        return cls(model, specials, own, direction, window_tokens, **{**defaults, **options})

    @property
    def fills_masks(self) -> bool:
        """Whether the model is scored in order, one row for each token."""
        return not self.objective.reads_in_a_direction

    def nats(self, documents: Sequence[Ids]) -> list[NDArray[np.float64]]:
        """The nats of every token of every document, in text order. NaN for a first token that the pass cannot score.

        Raises:
            BadInput: an id is not in the vocabulary of the text, or the model gives a loss that is not a finite number.
        """
        return [nats for nats, _ in self.nats_and_hits(documents)]

    def nats_and_hits(self, documents: Sequence[Ids]) -> list[TokenScores]:
        """The nats as by `nats`, and whether each token is the most probable id; False where a token is not scored."""
        texts = [self._checked(document) for document in documents]
        found = [TokenScores(np.full(len(text), np.nan), np.zeros(len(text), dtype=np.bool_)) for text in texts]
        with evaluating(self.model):
            for batch in self._batches(texts):
                self._score(batch, texts, found)
        return found

    def _checked(self, document: Ids) -> NDArray[np.int64]:
        ids = np.asarray(document, dtype=np.int64)
        outside = ids[(ids < 0) | (ids >= self.specials.first_id)]
        if len(outside):
            message = f"token {outside[0]} is not in the vocabulary of {self.specials.first_id}"
            raise BadInput(message, field="text")
        return ids

    def _batches(self, texts: Sequence[NDArray[np.int64]]) -> Iterator[_Batch]:
        """All blocks in batches of one length. Blocks of mask fillers in a batch also score equally many tokens."""
        stride = self.stride
        if not self.fills_masks and not getattr(self.objective, "direction_token", True):
            stride = max(1, min(stride, self.window_tokens - 1))
        waiting: dict[tuple[int, int], _Batch] = {}
        for number, text in enumerate(texts):
            for block in blocks(len(text), self.window_tokens, stride):
                length = block.end - block.start
                rows = block.end - block.scored if self.fills_masks else 1
                batch = waiting.setdefault((length, rows), _Batch())
                batch.numbers.append(number)
                batch.blocks.append(block)
                if len(batch.numbers) * rows * length + length * rows > self.slots_at_once:
                    yield waiting.pop((length, rows))
        yield from waiting.values()

    def _score(self, batch: _Batch, texts: Sequence[NDArray[np.int64]], found: Sequence[TokenScores]) -> None:
        """Write the nats of the tokens that a batch of blocks scores into the arrays of their documents."""
        spans = [
            self._span(block, len(texts[number])) for number, block in zip(batch.numbers, batch.blocks, strict=True)
        ]
        windows = np.stack(
            [texts[number][first:last] for number, (first, last) in zip(batch.numbers, spans, strict=True)]
        )
        example = self._example(torch.from_numpy(windows), batch)
        if not example.inputs.numel():
            return
        here = example.to(device_of(self.model))
        nats, hit = nats_and_hits(self._logits, read(self.model, here), here.targets, self._slots_of_logits())
        row, slot = ((example.loss_weight > 0) & (example.target_source != NO_SOURCE)).nonzero(as_tuple=True)
        window, token = example.window_row[row].numpy(), example.target_source[row, slot].numpy()
        values, hits = nats.cpu()[row, slot].numpy(), hit.cpu()[row, slot].numpy()
        if not np.isfinite(values).all():
            raise BadInput("the model gives a loss that is not a finite number", field="text")
        for index, (number, block) in enumerate(zip(batch.numbers, batch.blocks, strict=True)):
            mine = window == index
            places = spans[index][0] + token[mine]
            order = places if self.direction == "ltr" else len(texts[number]) - 1 - places
            new = order >= block.scored
            found[number].nats[places[new]], found[number].hit[places[new]] = values[mine][new], hits[mine][new]

    def _span(self, block: Block, tokens: int) -> tuple[int, int]:
        """The first token of a block in text order, and the token after its last."""
        return (block.start, block.end) if self.direction == "ltr" else (tokens - block.end, tokens - block.start)

    def _example(self, windows: Tensor, batch: _Batch) -> Example:
        if self.fills_masks:
            return in_order(windows, batch.blocks[0].end - batch.blocks[0].scored, self.specials, self.direction)
        draw = window_draws(self.objective, windows.shape[1], self.seed, range(len(windows)))
        return self.objective.example(windows, draw, self.specials)

    def _logits(self, states: Tensor) -> Tensor:
        logits = self.model.logits(states)
        return logits[..., : self.specials.first_id] if self.only_text else logits

    def _slots_of_logits(self) -> int:
        return max(1, MOST_LOGITS // self.specials.vocab_size)


@dataclass
class _Batch:
    """Blocks of one length: the number of the document of each block, and the blocks."""

    numbers: list[int] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)


def in_order(windows: Tensor, scored: int, specials: SpecialTokens, direction: Direction) -> Example:
    """One row for each of the last `scored` tokens in reading order: the tokens before it are shown, it and the rest are hidden.

    Args:
        windows: (windows, T) token ids in text order; the rows have T slots.
    """
    count, length = windows.shape
    index = torch.arange(length)
    targets = index[length - scored :] if direction == "ltr" else index[:scored].flip(0)
    shown = index < targets[:, None] if direction == "ltr" else index > targets[:, None]
    return one_pass(
        windows,
        name=direction,
        sees=Full(),
        input_source=torch.where(shown, index, NO_SOURCE).repeat(count, 1),
        target_source=index,
        special_input=specials["[MASK]"],
        loss_weight=(index == targets[:, None]).repeat(count, 1),
        window_row=torch.arange(count).repeat_interleave(scored),
    )
