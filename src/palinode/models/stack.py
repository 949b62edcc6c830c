"""The base class of the built-in models, with tables of tokens and positions, a stack of blocks and a final norm.

Legend: B rows, T slots, D width, V vocabulary, C longest row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field, ValidationInfo
from torch import Tensor
from torch.nn import functional as F

from palinode.base.errors import BadInput
from palinode.base.visibility import Ltr, Visibility
from palinode.models.base import LanguageModel
from palinode.models.cost import Cost, LayerCost
from palinode.models.mixers.base import Reading
from palinode.models.parts.exact import exact_dtype
from palinode.models.parts.linear import Norm, Table
from palinode.models.parts.positions import NextPosition, RotaryKind, RotaryTable, rotary_table
from palinode.models.parts.state import ModelState, StackState


def _divides_width(heads: int, info: ValidationInfo) -> int:
    width = info.data.get("width")
    if width is not None and width % heads:
        raise ValueError(f"{heads} heads do not divide width {width}")
    return heads


HeadsOfWidth = Annotated[int, Field(ge=1), AfterValidator(_divides_width)]


class Stack(LanguageModel):
    """Base class of models with one table of tokens, a stack `blocks` and a final norm.

    Attributes:
        embedding: the table of token embeddings.
        blocks: the ModuleList of blocks. Its type is Any, because the blocks of different models take different arguments after
            the states.
        final_norm: the norm after the last block.
        position: the table of learned positions, or None.
        embed_norm: the norm after the embedding, or None.
        next_position: the module that subtracts the next slot's position after the final norm, or None.
    """

    embedding: Table
    blocks: Any
    final_norm: Norm

    def __init__(self, vocab_size: int, max_length: int, embedding_dropout: float = 0.0):
        super().__init__()
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.embedding_dropout = embedding_dropout
        self.position: Table | None = None
        self.embed_norm: Norm | None = None
        self.next_position: NextPosition | None = None

    def hidden(self, tokens: Tensor, sees: Visibility) -> Tensor:
        """(B, T) token ids -> (B, T, D) states.

        Raises:
            BadInput: the row is longer than a table of positions, a mixer cannot read with this visibility, or a slot
                of an explicit mask sees no slot.
            ValueError: the visibility reads rows from the end, and the rows have not been flipped.
        """
        reading, x = self._reading(tokens, sees), self._embedded(tokens)
        for block in self.blocks:
            x = block(x, reading)
        return self.finished(x)

    def residuals(self, tokens: Tensor, sees: Visibility) -> Iterator[Tensor]:
        reading, x = self._reading(tokens, sees), self._embedded(tokens)
        for block in self.blocks:
            x = block(x, reading)
            yield x

    def can_step(self) -> bool:
        return super().can_step() and all(can_step(block) for block in self.blocks)

    def begin(self, rows: int, slots: int) -> StackState:
        """The state before the first token is read (see `LanguageModel.begin`).

        Raises:
            BadInput: rows of `slots` slots are longer than a table of positions.
        """
        self._check_length(slots)
        return StackState(slots, 0, tuple(block.begin(rows, slots) for block in self.blocks))

    def extend(self, tokens: Tensor, state: Any) -> tuple[Tensor, ModelState]:
        positions = state.next_positions(tokens)
        x, reading = self._embedded(tokens, positions), self._reading_on(tokens, state)
        x, after = state.through(self.blocks, x, reading)
        return self.finished(x, positions), after

    def depths(self) -> int:
        return len(self.blocks)

    def finished(self, residual: Tensor, positions: Tensor | None = None) -> Tensor:
        states = self.final_norm(residual)
        return states if self.next_position is None else self.next_position(states, self.position, positions)

    def _reading(self, tokens: Tensor, sees: Visibility, before: int = 0) -> Reading:
        """The `Reading` of (B, T) tokens, after `before` earlier tokens of the same rows have been read left to right."""
        raise NotImplementedError(f"{type(self).__name__} must define _reading(tokens, sees, before), or hidden")

    def _reading_on(self, tokens: Tensor, state: Any) -> Reading:
        """The `Reading` of (B, T_new) new tokens, which follow the tokens that `state` has read."""
        return self._reading(tokens, Ltr(), state.read)

    def _embedded(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """The (B, T, D) states before the first block; `positions` holds the (T,) positions of the slots, by default 0..T-1."""
        slots, dropout = tokens.shape[1], self.embedding_dropout
        self._check_length(slots)
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + (self.position.weight[:slots] if positions is None else self.position.weight[positions])
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        return F.dropout(x, dropout) if self.training and dropout else x

    def _rotary(self, positions: Tensor, heads: int, kind: RotaryKind, base: float) -> RotaryTable:
        weight = self.embedding.weight
        return rotary_table(positions, weight.shape[1] // heads, kind, base, exact_dtype(weight))

    def _check_length(self, slots: int) -> None:
        """Refuse rows that are longer than the model's table of positions; a model without a table of positions reads all rows."""
        if slots > self.max_length and (self.position is not None or self.next_position is not None):
            field = "model.position" if self.position is not None else "model.subtract_table"
            message = f"a row of {slots} slots is longer than the table of {self.max_length} learned positions"
            raise BadInput(message, field=field)

    def _cost(self, stack: LayerCost, terms_flops_per_slot: float = 0.0) -> Cost:
        """The cost of the model, computed from the cost of its layers and of its auxiliary terms.

        A frozen matrix saves the product that computes the gradient of its weights, which takes as much as its forward product.
        """
        head = self.linear_head()
        frozen = sum(one.numel() for _, one in self.parameter_groups()["matrix"] if not one.requires_grad)
        is_head_frozen = head is not None and not head.weight.requires_grad
        return Cost(
            parameters=self.parameter_counts(),
            executed_flops_per_slot=stack.executed,
            useful_flops_per_slot=stack.useful,
            head_flops_per_slot=2.0 * self.embedding.weight.numel(),
            state_elements=stack.state_elements,
            terms_flops_per_slot=terms_flops_per_slot,
            frozen_flops_per_slot=2.0 * frozen,
            frozen_head_flops_per_slot=2.0 * self.embedding.weight.numel() if is_head_frozen else 0.0,
        )


def can_step(block: Any) -> bool:
    """Whether a block, which may be a user's own block, can continue from a state."""
    return hasattr(block, "can_step") and bool(block.can_step())


def mask_of(sees: Visibility, tokens: Tensor) -> Tensor | None:
    """The explicit mask of a visibility that is neither causal nor full, on the device of the (B, T) tokens; else None.

    Raises:
        BadInput: the mask lets a slot see no slot.
        ValueError: the visibility reads rows from the end, and the rows have not been flipped.
    """
    if sees.reads_from_end:
        raise ValueError("rows that read from the end must be flipped first: call models.direction.read")
    return explicit_mask(sees, tokens.shape[1]).to(tokens.device) if sees.native == "mask" else None


def explicit_mask(sees: Visibility, slots: int) -> Tensor:
    """The boolean (T, T) mask of a visibility.

    Raises:
        BadInput: the mask lets a slot see no slot, so that the softmax of this slot would be uniform or NaN.
    """
    mask = sees.mask(slots)
    blind = (~mask.any(dim=1)).nonzero().flatten().tolist()
    if blind:
        message = f"visibility {sees.kind_name()} lets slot {blind[0]} of {slots} see nothing ({len(blind)} such slots)"
        raise BadInput(message, field="objective")
    return mask


def positions_of(tokens: Tensor, before: int) -> Tensor:
    """The (T,) positions of (B, T) tokens, which follow `before` earlier tokens."""
    return torch.arange(before, before + tokens.shape[1], device=tokens.device)
