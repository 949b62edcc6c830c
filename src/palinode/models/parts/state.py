"""States: a state holds what a model keeps of the slots that it has read, so that the next slot needs no pass over all slots.

A state is a value: each `extend` returns a new state, and no module stores a state. The buffers of a state are made once, for the
largest number of slots; the new state shares its buffers with the old state, which must not be used again. States are for
evaluation: no gradient goes through them.
Legend: B rows, T_new new slots, C slots for which a state has room, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MixerState:
    """Base class of the states of mixers; each kind of mixer has its own state class."""


@dataclass(frozen=True)
class KeysValues(MixerState):
    """The keys and values of the slots that were read, in buffers (.., C, width) whose first `filled` slots are set."""

    keys: Tensor
    values: Tensor
    filled: int

    @classmethod
    def empty(cls, like: Tensor, shape: tuple[int, ...], key_width: int, value_width: int | None = None) -> KeysValues:
        """A state with empty buffers (*shape, width), where `shape` ends with C, in the dtype and on the device of `like`."""
        values = like.new_empty(*shape, key_width if value_width is None else value_width)
        return KeysValues(like.new_empty(*shape, key_width), values, 0)

    def with_next(self, keys: Tensor, values: Tensor) -> Self:
        """The state after the keys and values (.., T_new, width) of the next slots have been added."""
        return replace(self, filled=self._stored(keys, values))

    def _stored(self, keys: Tensor, values: Tensor) -> int:
        """Store the keys and values of the next slots in the buffers; the result is the number of slots that are then set."""
        count = keys.shape[-2]
        self.keys.narrow(-2, self.filled, count).copy_(keys)
        self.values.narrow(-2, self.filled, count).copy_(values)
        return self.filled + count

    def seen(self) -> tuple[Tensor, Tensor]:
        """The keys and the values of the slots that were read, each (.., filled, width)."""
        return self.keys.narrow(-2, 0, self.filled), self.values.narrow(-2, 0, self.filled)


@dataclass(frozen=True)
class JoinedState(KeysValues):
    """Keys and values (B, H, C, D / H), and the joined weights of several maps: joining them again costs as much as a slot."""

    weight: Tensor
    bias: Tensor | None

    def with_next(self, keys: Tensor, values: Tensor) -> Self:
        """The state with the keys and values of the next slots added; `replace` would take a fiftieth of the time of a token."""
        return type(self)(self.keys, self.values, self._stored(keys, values), self.weight, self.bias)


@dataclass(frozen=True)
class ModelState:
    """Base class of the states of models: the state has room for `slots` slots in each row, and `read` slots have been read."""

    slots: int
    read: int

    def next_positions(self, tokens: Tensor) -> Tensor:
        """The (T_new,) positions of the next (B, T_new) tokens.

        Raises:
            ValueError: the state has no room for the tokens.
        """
        count = tokens.shape[1]
        if self.read + count > self.slots:
            raise ValueError(f"the state has room for {self.slots} slots, {self.read} are read, {count} do not fit")
        return torch.arange(self.read, self.read + count, device=tokens.device)


@dataclass(frozen=True)
class StackState(ModelState):
    """The state of a stack of blocks; `layers` has the state of each block's mixer."""

    layers: tuple[MixerState, ...]

    def through(self, blocks: Iterable[Any], x: Tensor, reading: Any) -> tuple[Tensor, Self]:
        """The (B, T_new, D) states of the next slots after all blocks (`extend(x, reading, state)` of each), and the next state."""
        layers = []
        for block, kept in zip(blocks, self.layers, strict=True):
            x, after = block.extend(x, reading, kept)
            layers.append(after)
        changed = {"read": self.read + x.shape[1], "layers": tuple(layers)}
        return x, type(self)(**(vars(self) | changed))  # `replace` takes twice as long


def chunk_mask(before: int, new: int, device: torch.device) -> Tensor | None:
    """The (new, before + new) boolean mask of `new` slots that follow `before` other slots; None if no mask is needed."""
    if before == 0 or new == 1:
        return None
    return torch.ones(new, before + new, dtype=torch.bool, device=device).tril(before)


def continues(module: nn.Module, reads: str) -> bool:
    """Whether the module's `extend` still computes the same as the module's method with the name `reads`.

    The result is False if a subclass, the object itself or a hook has changed only the method `reads`.
    """
    hooked = module._forward_hooks or module._forward_pre_hooks
    replaced = hooked or reads in vars(module)
    return not replaced and issubclass(defined_in(module, "extend"), defined_in(module, reads))


def defined_in(module: nn.Module, name: str) -> type:
    """The class that defines the module's method of this name."""
    return next(cls for cls in type(module).__mro__ if name in vars(cls))
