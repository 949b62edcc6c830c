"""Writing on: sample tokens left to right, or right to left (the text then grows at its left end).

Every number drawn comes from the stream `sample` / row / index of the given seed, so row 3 of 10 is row 3 of 4, and the
same call gives the same text. The prompt is read once and each new token costs one slot, as long as the row has room.
Legend: R rows, P prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    ids = torch.tensor(list(prompt), dtype=torch.long).expand(rows, len(prompt))
    read = ids.flip(1) if direction == "rtl" else ids  # from here on in the order of reading
    start = specials[START[direction]] if direction_token else None
    device = next(model.parameters()).device
    with _evaluating(model), torch.no_grad():
        reader = Reader(model, start, rows, len(prompt) + new_tokens)
        for index in range(new_tokens):
            logits = reader.next_logits(read.to(device))[:, : specials.first_id]
            chances = probabilities(logits.double().cpu(), sampling or Sampling())
            read = torch.cat((read, _draw(chances, seed, index)[:, None]), dim=1)
    return read.flip(1) if direction == "rtl" else read


class Reader:
    """Reads a text that grows, each token once.

    When the model's row is full the oldest token is dropped for each new one. Every token then stands one position earlier, and
    what the blocks keep of it was read from the dropped ones: nothing kept is right any more, so each token costs a whole pass.
    """

    def __init__(self, model: LanguageModel, start: int | None, rows: int, most_tokens: int):
        self.model, self.start, self.steps = model, start, model.can_step()
        with self._mode():
            self.state = begin(model, rows, min(model.max_length, most_tokens + (start is not None)))

    def next_logits(self, read: Tensor) -> Tensor:
        """(R, V) logits of the token after (R, P) tokens in reading order: those of the last call and more behind them."""
        row = _started(read, self.start)
        if row.shape[1] > self.state.slots:
            return next_logits(self.model, read, self.start)
        with self._mode():
            hidden, self.state = extend(self.model, row[:, self.state.read :], self.state)
            return self.model.logits(hidden[:, -1])

    def _mode(self) -> torch.inference_mode | torch.no_grad:
        """Without autograd's bookkeeping, a tenth faster; not for a model that is reread, which may keep tensors that it makes."""
        return torch.inference_mode() if self.steps else torch.no_grad()


def next_logits(model: LanguageModel, read: Tensor, start: int | None) -> Tensor:
    """(R, V) logits of the token after (R, P) tokens in reading order, from a pass over all of them.

    The oldest are dropped when the model's rows are full.
    """
    room = model.max_length - (start is not None)
    recent = _started(read[:, max(0, read.shape[1] - room) :], start)
    return model.logits(model.hidden(recent, Ltr())[:, -1])


def _started(read: Tensor, start: int | None) -> Tensor:
    """The tokens behind the direction token, where there is one."""
    return read if start is None else torch.cat((read.new_full((len(read), 1), start), read), dim=1)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """(R, V) probabilities, in float64, after temperature, top-k and top-p (in that order)."""
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(1, best, 1.0)
    chances = (logits / sampling.temperature).softmax(dim=-1)
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


def _draw(chances: Tensor, seed: int, index: int) -> Tensor:
    """(R,) one token for each row, by the inverse of the cumulative distribution."""
    rows = range(len(chances))
    uniform = torch.cat(
        [torch.rand(1, generator=generator(seed, "sample", row, index), dtype=torch.float64) for row in rows]
    )
    cumulative = chances.cumsum(dim=-1)
    total = cumulative[:, -1:].contiguous()
    drawn = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
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


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; the model's mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
