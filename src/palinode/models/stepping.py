"""Reading on: a row is read once, left to right, and each further token costs one slot.

`begin` makes an empty state. `extend` reads the next tokens, a whole prompt or one token, and gives the last states of a pass over
all tokens so far. A model that cannot step (its own `hidden`, a mixer without `extend`) reads all tokens again each time, with the
same result. rtl rows are flipped before they come here.
Legend: B rows, T_new new slots, T slots so far, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from palinode.base.visibility import Ltr
from palinode.models.base import LanguageModel
from palinode.models.parts.state import ModelState


@dataclass(frozen=True)
class Reread(ModelState):
    """The state of a model that cannot step: the (B, slots) tokens, to read them again."""

    tokens: Tensor | None = None


def begin(model: LanguageModel, rows: int, slots: int | None = None) -> ModelState:
    """The state before the first token of `rows` rows of at most `slots` slots (default: the model's longest row).

    Raises:
        BadInput: the model takes no rows of that length.
    """
    room = model.max_length if slots is None else slots
    return model.begin(rows, room) if model.can_step() else Reread(slots=room, read=0)


def extend(model: LanguageModel, tokens: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
    """(B, T_new, D) states of the next (B, T_new) tokens, and the next state; the given state must not be used again.

    Raises:
        ValueError: the state has no room for the tokens.
    """
    return _reread(model, tokens, state) if isinstance(state, Reread) else model.extend(tokens, state)


def _reread(model: LanguageModel, tokens: Tensor, state: Reread) -> tuple[Tensor, ModelState]:
    end = state.read + len(state.next_positions(tokens))
    held = tokens.new_zeros(len(tokens), state.slots) if state.tokens is None else state.tokens
    held[:, state.read : end] = tokens
    return model.hidden(held[:, :end], Ltr())[:, state.read :], Reread(state.slots, end, held)
