"""Generation: sample new tokens left to right (the text grows at its right end) or right to left (it grows at its left end).

Every random number comes from the stream (`sample`, row, index) of the given seed. So the same call gives the same text, and row 3
of 4 rows equals row 3 of 10 rows. The prompt is read once. As long as the text fits into the model's longest row, a new token
costs the computation of only one slot. Legend: B rows, T slots of a row, P prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from palinode.base.config import Config
from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.measures import Direction
from palinode.base.seeds import generator
from palinode.base.visibility import Ltr
from palinode.evaluate.losses import device_of, evaluating
from palinode.models.base import LanguageModel, begin, extend
from palinode.spec.trained import Trained

DRAWN_AT_ONCE = 256  # the number of random numbers of a row that are drawn at once; it limits the memory
START = {"ltr": "[L]", "rtl": "[R]"}  # the direction token that a reading starts with


class Sampling(Config):
    """The options that say how a token is drawn from the model's distribution.

    Attributes:
        temperature: the number that divides the logits; 0 always takes the most probable token.
        top_k: the number k of most probable tokens that may be drawn.
        top_p: a probability: only the smallest set of most probable tokens whose probabilities sum to at least this number may
            be drawn.
    """

    temperature: float = Field(default=1.0, ge=0.0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)


def generate_text(
    trained: Trained,
    text: str,
    new_tokens: int,
    seed: int,
    *,
    direction: Direction = "ltr",
    sampling: Sampling | None = None,
    rows: int = 1,
) -> list[str]:
    """`rows` texts that begin with `text` (ltr) or end with it (rtl). Arguments and errors are those of `generate`."""
    tokenizer = trained.data.tokenizer
    prompt_ids = tokenizer.encode(text)
    token_ids = generate(trained, prompt_ids, new_tokens, seed, direction=direction, sampling=sampling, rows=rows)
    return [tokenizer.decode(row) for row in token_ids.tolist()]


def generate(
    trained: Trained,
    prompt_ids: Sequence[int],
    new_tokens: int,
    seed: int,
    *,
    direction: Direction = "ltr",
    sampling: Sampling | None = None,
    rows: int = 1,
) -> Tensor:
    """(B, P + new_tokens) token ids in text order: the prompt, with new tokens after it (ltr) or before it (rtl).

    Each row starts with `[L]` or `[R]` if the rows in training did (the option `direction_token` of the objective).

    Args:
        prompt_ids: P token ids of text, without special tokens.
        rows: B, the number of texts.

    Raises:
        BadInput: an id outside the tokenizer's vocabulary, an empty prompt without a direction token, a negative count.
    """
    model, specials = in_reading(trained.model, direction), trained.specials
    has_start = bool(getattr(trained.spec.objective, "direction_token", True))
    _check(specials, prompt_ids, new_tokens, rows, has_start)
    start = [specials[START[direction]]] if has_start else []
    first_ids = torch.tensor([*start, *(prompt_ids if direction == "ltr" else reversed(prompt_ids))])
    row = torch.empty(rows, len(first_ids) + new_tokens, dtype=torch.long, device=device_of(model))
    row[:, : len(first_ids)] = first_ids  # the prompt in the order in which the model reads it
    how = sampling or Sampling()
    with evaluating(model), _inference(model), _for_single_slots(model):
        reader = Reader(model, row, len(start))
        for index in range(new_tokens):
            if index % DRAWN_AT_ONCE == 0:
                uniform = uniform_numbers(seed, rows, range(index, min(index + DRAWN_AT_ONCE, new_tokens)))
            logits = reader.next_logits(len(first_ids) + index)[:, : specials.first_id]
            chances = probabilities(logits.double().cpu(), how)
            row[:, len(first_ids) + index] = drawn_tokens(chances, uniform[index % DRAWN_AT_ONCE])
    read = row[:, len(start) :].cpu()
    return read.flip(1) if direction == "rtl" else read


def in_reading(model: LanguageModel, direction: Direction) -> LanguageModel:
    """The model that reads rows in this direction from their start; rtl rows were flipped."""
    return model if direction == "ltr" else model.from_end()


class Reader:
    """Reads each token of the (B, T) rows once, while generation fills the rows.

    When a row is as long as the model's longest row, each new token drops the oldest token. Then every other token moves one
    position forward, and the state that the blocks keep of these tokens still depends on the dropped tokens. So the state can
    no longer be used, and each further token costs a pass over the whole row.
    """

    def __init__(self, model: LanguageModel, row: Tensor, start_tokens: int):
        self.model, self.row, self.start_tokens = model, row, start_tokens
        self.state = begin(model, len(row), min(model.max_length, row.shape[1]))

    def next_logits(self, tokens: int) -> Tensor:
        """(B, V) logits of the token that follows the first `tokens` tokens of each row."""
        if tokens > self.state.slots:
            start = int(self.row[0, 0]) if self.start_tokens else None
            return next_logits(self.model, self.row[:, self.start_tokens : tokens], start)
        hidden, self.state = extend(self.model, self.row[:, self.state.read : tokens], self.state)
        return self.model.logits(hidden[:, -1])


def next_logits(model: LanguageModel, read: Tensor, start: int | None) -> Tensor:
    """(B, V) logits of the token after (B, P) tokens in reading order, from a pass over all of them.

    Args:
        read: the tokens in reading order; if the model's longest row cannot hold all of them, the oldest tokens are dropped.
        start: the id of the direction token before the tokens, or None.
    """
    room = model.max_length - (start is not None)
    recent = read[:, max(0, read.shape[1] - room) :]
    if start is not None:
        recent = torch.cat((recent.new_full((len(recent), 1), start), recent), dim=1)
    return model.logits(model.hidden(recent, Ltr())[:, -1])


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) float64 probabilities of (B, V) logits, after temperature, top-k and top-p (in that order)."""
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(1, best, 1.0)
    if sampling.temperature != 1:
        # The largest logit is 0 before the division, so no temperature, however small, makes it infinite.
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    chances = logits.softmax(dim=-1)
    if sampling.top_k is None and sampling.top_p is None:
        return chances
    chances, order = chances.sort(dim=-1, descending=True, stable=True)
    kept = torch.ones_like(chances, dtype=torch.bool)
    if sampling.top_k is not None:
        kept[:, sampling.top_k :] = False
    if sampling.top_p is not None:
        chances = (chances * kept) / (chances * kept).sum(dim=-1, keepdim=True)
        # A token is kept if the tokens that are more probable than this token do not reach top_p together.
        kept &= chances.cumsum(dim=-1) - chances < sampling.top_p
    chances = chances * kept
    chances = chances / chances.sum(dim=-1, keepdim=True)
    return torch.zeros_like(chances).scatter(1, order, chances)


def uniform_numbers(seed: int, rows: int, indices: range) -> Tensor:
    """(tokens, B, 1) uniform numbers, each from its own random stream."""
    drawn = [
        torch.rand(1, generator=generator(seed, "sample", row, index), dtype=torch.float64)
        for index in indices
        for row in range(rows)
    ]
    return torch.cat(drawn).view(len(indices), rows, 1)


def drawn_tokens(chances: Tensor, uniform: Tensor) -> Tensor:
    """(B,) one token for each row, by the inverse of the cumulative distribution at (B, 1) uniform numbers."""
    cumulative = chances.cumsum(dim=-1)
    # A float64 number below 1 is at most 1 - 2^-53, so its product with the total rounds to a number below the total. Therefore the
    # id exists, and its chance is above 0.
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).flatten()


def _check(specials: SpecialTokens, prompt_ids: Sequence[int], new_tokens: int, rows: int, has_start: bool) -> None:
    if new_tokens < 0 or rows < 1:
        field = "new_tokens" if new_tokens < 0 else "rows"
        raise BadInput(f"cannot write {new_tokens} tokens in {rows} rows", field=field)
    if not prompt_ids and not has_start:
        raise BadInput("an empty prompt needs a direction token to start from; this objective has none", field="prompt")
    outside = [token for token in prompt_ids if not 0 <= token < specials.first_id]
    if outside:
        raise BadInput(f"token {outside[0]} is not in the vocabulary of {specials.first_id}", field="prompt")


def _inference(model: LanguageModel) -> AbstractContextManager[None]:
    """torch's inference mode, which is a tenth faster. It is off for a model without a state, which may keep tensors."""
    return torch.inference_mode() if model.can_step() else nullcontext()


@contextmanager
def _for_single_slots(model: LanguageModel) -> Iterator[None]:
    """Prepare the CPU and the modules of a model that reads one slot at a time; other models stay as they are."""
    if not model.can_step():
        yield
        return
    with _without_onednn(), _direct_attributes(model):
        yield


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Switch oneDNN off.

    torch computes GELU with oneDNN. For one slot, starting oneDNN takes longer than the arithmetic; for whole rows, oneDNN is
    faster. `benchmarks/generation.py` measures the difference.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


@contextmanager
def _direct_attributes(model: nn.Module) -> Iterator[None]:
    """Put the parts and the parameters of every module into the module's own dictionary, and take them out again at the end.

    Otherwise `nn.Module` finds each part and each parameter with a search that is written in Python. A token of a narrow model
    reads about 200 of them, which takes a twentieth of its time.
    """
    added: list[tuple[dict[str, Any], str]] = []
    for module in model.modules():
        own = vars(module)
        for name, value in (*module.named_children(), *module.named_parameters(recurse=False)):
            if name not in own and not hasattr(type(module), name):
                own[name] = value
                added.append((own, name))
    try:
        yield
    finally:
        for own, name in added:
            own.pop(name, None)
