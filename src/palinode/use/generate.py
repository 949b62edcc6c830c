"""Writing on: sample tokens left to right, or right to left (the text then grows at its left end).

Every number drawn comes from the stream `sample` / row / index of the given seed, so row 3 of 10 is row 3 of 4, and the
same call gives the same text. The prompt is read once and each new token costs one slot, as long as the row has room.
Legend: R rows, P prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from palinode.base.config import Config
from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.seeds import generator
from palinode.base.visibility import Ltr
from palinode.data.tokenizer import Tokenizer
from palinode.models.base import LanguageModel
from palinode.models.stepping import begin, extend

Direction = Literal["ltr", "rtl"]
DRAWN_AT_ONCE = 256  # uniform numbers a row, so that millions of tokens do not need millions at once
START = {"ltr": "[L]", "rtl": "[R]"}  # the direction token that a reading begins with


class Sampling(Config):
    """How a token is drawn from the model's distribution.

    Attributes:
        temperature: logits are divided by it; 0 always takes the most probable token.
        top_k: only the k most probable tokens may be drawn.
        top_p: only the most probable tokens that together just reach this probability may be drawn.
    """

    temperature: float = Field(default=1.0, ge=0.0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)


def generate_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str,
    new_tokens: int,
    seed: int,
    *,
    direction: Direction = "ltr",
    sampling: Sampling | None = None,
    direction_token: bool = True,
    rows: int = 1,
) -> list[str]:
    """`rows` texts that begin with `text` (ltr) or end with it (rtl)."""
    prompt = tokenizer.encode(text)
    specials = SpecialTokens(tokenizer.vocab_size)
    written = generate(
        model,
        specials,
        prompt,
        new_tokens,
        seed,
        direction=direction,
        sampling=sampling,
        direction_token=direction_token,
        rows=rows,
    )
    return [tokenizer.decode(row) for row in written.tolist()]


def generate(
    model: LanguageModel,
    specials: SpecialTokens,
    prompt: Sequence[int],
    new_tokens: int,
    seed: int,
    *,
    direction: Direction = "ltr",
    sampling: Sampling | None = None,
    direction_token: bool = True,
    rows: int = 1,
) -> Tensor:
    """(R, P + new_tokens) token ids: the prompt and what was written after it (ltr) or before it (rtl), in text order.

    Args:
        prompt: token ids of text, without special tokens.
        direction_token: the reading starts with `[L]` or `[R]`, as in training. Must be so for an empty prompt.

    Raises:
        BadInput: an id outside the tokenizer's vocabulary, an empty prompt without direction token, a negative count.
    """
    _check(specials, prompt, new_tokens, rows, direction_token)
    start = [specials[START[direction]]] if direction_token else []
    known = torch.tensor([*start, *(prompt if direction == "ltr" else reversed(prompt))])
    row = torch.empty(rows, len(known) + new_tokens, dtype=torch.long, device=next(model.parameters()).device)
    row[:, : len(known)] = known  # in the order of reading
    how = sampling or Sampling()
    with _evaluating(model), _without_gradients(model), _for_single_slots(model):
        reader = Reader(model, row, len(start))
        for index in range(new_tokens):
            if index % DRAWN_AT_ONCE == 0:
                uniform = _uniform(seed, rows, range(index, min(index + DRAWN_AT_ONCE, new_tokens)))
            logits = reader.next_logits(len(known) + index)[:, : specials.first_id]
            chances = probabilities(logits.double().cpu(), how)
            row[:, len(known) + index] = _drawn(chances, uniform[index % DRAWN_AT_ONCE])
    read = row[:, len(start) :].cpu()
    return read.flip(1) if direction == "rtl" else read


class Reader:
    """Reads (R, C) rows that are being written, each token once.

    When the model's row is full the oldest token is dropped for each new one. Every token then stands one position earlier, and
    what the blocks keep of it was read from the dropped ones: nothing kept is right any more, so each token costs a whole pass.
    """

    def __init__(self, model: LanguageModel, row: Tensor, start_tokens: int):
        self.model, self.row, self.start_tokens = model, row, start_tokens
        self.state = begin(model, len(row), min(model.max_length, row.shape[1]))

    def next_logits(self, known: int) -> Tensor:
        """(R, V) logits of the token after the first `known` ones of the row."""
        if known > self.state.slots:
            start = int(self.row[0, 0]) if self.start_tokens else None
            return next_logits(self.model, self.row[:, self.start_tokens : known], start)
        hidden, self.state = extend(self.model, self.row[:, self.state.read : known], self.state)
        return self.model.logits(hidden[:, -1])


def next_logits(model: LanguageModel, read: Tensor, start: int | None) -> Tensor:
    """(R, V) logits of the token after (R, P) tokens in reading order, from a pass over all of them.

    The oldest are dropped when the model's rows are full.
    """
    room = model.max_length - (start is not None)
    recent = read[:, max(0, read.shape[1] - room) :]
    if start is not None:
        recent = torch.cat((recent.new_full((len(recent), 1), start), recent), dim=1)
    return model.logits(model.hidden(recent, Ltr())[:, -1])


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """(R, V) probabilities, in float64, after temperature, top-k and top-p (in that order)."""
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(1, best, 1.0)
    # The largest is 0 before it is divided: no temperature, however small, makes it infinite.
    below = logits - logits.amax(dim=-1, keepdim=True)
    chances = (below if sampling.temperature == 1 else below / sampling.temperature).softmax(dim=-1)
    if sampling.top_k is None and sampling.top_p is None:
        return chances
    chances, order = chances.sort(dim=-1, descending=True, stable=True)
    kept = torch.ones_like(chances, dtype=torch.bool)
    if sampling.top_k is not None:
        kept[:, sampling.top_k :] = False
    if sampling.top_p is not None:
        chances = (chances * kept) / (chances * kept).sum(dim=-1, keepdim=True)
        kept &= chances.cumsum(dim=-1) - chances < sampling.top_p  # a token stays if those before it did not suffice
    chances = chances * kept
    chances = chances / chances.sum(dim=-1, keepdim=True)
    return torch.zeros_like(chances).scatter(1, order, chances)


def _uniform(seed: int, rows: int, indices: range) -> Tensor:
    """(tokens, R, 1) uniform numbers, each from its own stream."""
    drawn = [
        torch.rand(1, generator=generator(seed, "sample", row, index), dtype=torch.float64)
        for index in indices
        for row in range(rows)
    ]
    return torch.cat(drawn).view(len(indices), rows, 1)


def _drawn(chances: Tensor, uniform: Tensor) -> Tensor:
    """(R,) one token for each row, by the inverse of the cumulative distribution at (R, 1) uniform numbers."""
    cumulative = chances.cumsum(dim=-1)
    total = cumulative[:, -1:].contiguous()
    drawn = torch.searchsorted(cumulative, uniform * total, right=True)
    last = torch.searchsorted(cumulative, total)  # no rounding may reach beyond it
    return torch.minimum(drawn, last).flatten()


def _check(specials: SpecialTokens, prompt: Sequence[int], new_tokens: int, rows: int, direction_token: bool) -> None:
    if new_tokens < 0 or rows < 1:
        raise BadInput(
            f"cannot write {new_tokens} tokens in {rows} rows", field="new_tokens" if new_tokens < 0 else "rows"
        )
    if not prompt and not direction_token:
        raise BadInput("an empty prompt needs the direction token to start from", field="prompt")
    outside = [token for token in prompt if not 0 <= token < specials.first_id]
    if outside:
        raise BadInput(f"token {outside[0]} is not in the vocabulary of {specials.first_id}", field="prompt")


def _without_gradients(model: LanguageModel) -> AbstractContextManager[None]:
    """Inference mode is a tenth faster; not for a model that is reread, which may keep tensors that it makes."""
    return torch.inference_mode() if model.can_step() else torch.no_grad()


@contextmanager
def _for_single_slots(model: LanguageModel) -> Iterator[None]:
    """oneDNN off inside, for a model that reads a slot at a time on the CPU.

    torch has it do GELU, and it takes longer to begin than a slot has arithmetic; for whole rows it is the faster one.
    What that costs a token: `benchmarks/generation.py`.
    """
    before = torch.backends.mkldnn.enabled
    if model.can_step():
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; the model's mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
