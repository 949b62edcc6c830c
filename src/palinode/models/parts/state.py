"""States: what a model keeps of the slots that it has read, so that one more slot costs one slot and not a pass over all of them.

A state is a value: reading on returns a new one, and no module holds any. Buffers are made once, for all slots there will be; the
new state shares them with the old one, which must not be used again. States are for evaluation: no gradient goes through them.
Legend: B rows, T_new new slots, C slots there is room for, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MixerState:
    """What one mixer keeps; each kind of mixer has its own."""


@dataclass(frozen=True)
class KeysValues(MixerState):
    """Keys and values of the slots read, in buffers (.., C, width) of which the first `filled` slots are set."""

    keys: Tensor
    values: Tensor
    filled: int

    @classmethod
    def empty(cls, like: Tensor, shape: tuple[int, ...], key_width: int, value_width: int | None = None) -> KeysValues:
        """Room for keys and values (*shape, width), where `shape` ends with C, in the dtype and on the device of a weight."""
        values = like.new_empty(*shape, key_width if value_width is None else value_width)
        return KeysValues(like.new_empty(*shape, key_width), values, 0)

    def with_next(self, keys: Tensor, values: Tensor) -> Self:
        """The state with the keys and values (.., T_new, width) of the next slots added."""
        count = keys.shape[-2]
        self.keys.narrow(-2, self.filled, count).copy_(keys)
        self.values.narrow(-2, self.filled, count).copy_(values)
        return replace(self, filled=self.filled + count)

    def seen(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the slots read, (.., filled, width) each."""
        return self.keys.narrow(-2, 0, self.filled), self.values.narrow(-2, 0, self.filled)


@dataclass(frozen=True)
class JoinedState(KeysValues):
    """Keys and values (B, H, C, D / H), and the joined maps that make them: joining costs as much as reading a slot."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class ModelState:
    """What a model keeps of rows that it has begun to read: room for `slots` slots a row, of which it has read `read`."""

    slots: int
    read: int

    def next_positions(self, tokens: Tensor) -> Tensor:
        """(T_new,) positions of the next (B, T_new) tokens.

        Raises:
            ValueError: there is no room for them.
        """
        count = tokens.shape[1]
        if self.read + count > self.slots:
            raise ValueError(f"the state has room for {self.slots} slots, {self.read} are read, {count} do not fit")
        return torch.arange(self.read, self.read + count, device=tokens.device)


@dataclass(frozen=True)
class StackState(ModelState):
    """What a stack of blocks keeps: the state of each block's mixer."""

    layers: tuple[MixerState, ...]

    def through(self, blocks: Iterable[Any], x: Tensor, reading: Any) -> tuple[Tensor, Self]:
        """(B, T_new, D) of the next slots through all blocks, each with `extend(x, reading, state)`, and the next state."""
        layers = []
        for block, kept in zip(blocks, self.layers, strict=True):
            x, after = block.extend(x, reading, kept)
            layers.append(after)
        return x, replace(self, read=self.read + x.shape[1], layers=tuple(layers))


def chunk_mask(before: int, new: int, device: torch.device) -> Tensor | None:
    """(new, before + new) boolean: what `new` slots behind `before` others may read; None where no mask is needed."""
    if before == 0 or new == 1:
        return None
    return torch.ones(new, before + new, dtype=torch.bool, device=device).tril(before)


def continues(module: nn.Module, reads: str) -> bool:
    """Whether the module's `extend` still continues its method `reads`.

    False when a subclass, the object itself or a hook has replaced only that method.
    """
    hooked = module._forward_hooks or module._forward_pre_hooks
    replaced = hooked or reads in vars(module)
    return not replaced and issubclass(defined_in(module, "extend"), defined_in(module, reads))


def defined_in(module: nn.Module, name: str) -> type:
    """The class that defines the module's method of this name."""
    return next(cls for cls in type(module).__mro__ if name in vars(cls))
