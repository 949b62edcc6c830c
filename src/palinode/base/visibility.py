"""Visibilities: the slots that each slot may read. A visibility gives a boolean mask; `&` and `|` combine two visibilities.

`mask(T)[i, j]` is True when slot i may read slot j. Every mixer runs two visibilities without a mask: causal and full. A model runs
`Rtl` as causal: the model flips the row before and after the mixer. Every other visibility is run with its explicit mask.
To write a visibility, subclass `Visibility` and define a `mask` method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from palinode.base.config import Part, one_of
from palinode.base.errors import BadInput, Unfinished

Native = Literal["causal", "full", "mask"]


class Visibility(Part):
    """Base class. `native` tells a model how to run a visibility: as causal, as full (no mask), or with the explicit mask."""

    native: ClassVar[Native] = "mask"
    reads_from_end: ClassVar[bool] = False

    def mask(self, length: int) -> Tensor:
        """(T, T) boolean for T = `length`: entry [i, j] is True when slot i may read slot j."""
        raise Unfinished(self, "must define mask(length)")

    def flipped(self) -> Visibility:
        """The same visibility for a row that is read from its other end."""
        return Flipped(of=self)

    def __and__(self, other: Visibility) -> Visibility:
        return Intersection(left=self, right=other)

    def __or__(self, other: Visibility) -> Visibility:
        return Union(left=self, right=other)


class Ltr(Visibility):
    """Left to right: slot i reads slots j <= i."""

    kind: ClassVar[str] = "ltr"
    native: ClassVar[Native] = "causal"

    def mask(self, length: int) -> Tensor:
        return torch.ones(length, length, dtype=torch.bool).tril()

    def flipped(self) -> Visibility:
        return Rtl()


class Rtl(Visibility):
    """Right to left: slot i reads slots j >= i. The mask is the upper triangle at every length."""

    kind: ClassVar[str] = "rtl"
    native: ClassVar[Native] = "causal"
    reads_from_end: ClassVar[bool] = True

    def mask(self, length: int) -> Tensor:
        return torch.ones(length, length, dtype=torch.bool).triu()

    def flipped(self) -> Visibility:
        return Ltr()


class Full(Visibility):
    """Every slot reads every slot."""

    kind: ClassVar[str] = "full"
    native: ClassVar[Native] = "full"

    def mask(self, length: int) -> Tensor:
        return torch.ones(length, length, dtype=torch.bool)

    def flipped(self) -> Visibility:
        return self


class Prefix(Visibility):
    """The first `length_slots` slots read one another; every other slot reads left to right."""

    kind: ClassVar[str] = "prefix"
    length_slots: int = Field(ge=0)

    def mask(self, length: int) -> Tensor:
        mask = Ltr().mask(length)
        mask[: self.length_slots, : self.length_slots] = True
        return mask


class Bottleneck(Visibility):
    """Left to right up to `slot`; each later slot reads only the slot `slot` and itself.

    Later slots get information about earlier slots only through the states at `slot`. In a stack of L layers, L - 1 of these states
    contain information about earlier slots, so a single layer passes no information on.

    Attributes:
        slot: the index of the bottleneck.
        sealed: the slot of the bottleneck reads only itself. Then later slots should get no information about earlier slots; any
            information that they get has gone around the bottleneck.
    """

    kind: ClassVar[str] = "bottleneck"
    slot: int = Field(ge=0)
    sealed: bool = False

    def mask(self, length: int) -> Tensor:
        index = torch.arange(length)
        narrow, own = (index == self.slot).expand(length, length), torch.eye(length, dtype=torch.bool)
        mask = torch.where(index[:, None] > self.slot, narrow | own, Ltr().mask(length))
        return torch.where(index[:, None] == self.slot, own, mask) if self.sealed else mask


class FlippedLowerTriangle(Visibility):
    """The published "backward" mask, `tril(ones(size, size)).flip(0)` cut to the window. This mask leaks.

    Row i reads columns j <= size - 1 - i, so for windows up to half of `size` every slot reads all slots, its own target included.
    The mask is anti-triangular; the mirror of the lower triangle is the upper triangle (`Rtl`). The audit must
    find the leak.
    """

    kind: ClassVar[str] = "flipped-lower-triangle"
    size: int = Field(default=1024, ge=1)

    def mask(self, length: int) -> Tensor:
        if length > self.size:
            message = f"{self.kind_name()} has {self.size} slots, a row of {length} does not fit"
            raise BadInput(message, field="objective", hint="give it a larger size, or shorten data.window_tokens")
        return torch.ones(self.size, self.size, dtype=torch.bool).tril().flip(0)[:length, :length]


class Flipped(Visibility):
    """Another visibility, for a row that is read from its other end."""

    kind: ClassVar[str] = "flipped"
    of: Annotated[Visibility, one_of(lambda: VISIBILITIES, "visibility")]

    def mask(self, length: int) -> Tensor:
        return self.of.mask(length).flip(0, 1)

    def flipped(self) -> Visibility:
        return self.of


class _Pair(Visibility):
    left: Annotated[Visibility, one_of(lambda: VISIBILITIES, "visibility")]
    right: Annotated[Visibility, one_of(lambda: VISIBILITIES, "visibility")]


class Intersection(_Pair):
    """A slot may read the slots that both visibilities allow."""

    kind: ClassVar[str] = "intersection"

    def mask(self, length: int) -> Tensor:
        return self.left.mask(length) & self.right.mask(length)


class Union(_Pair):
    """A slot may read the slots that at least one of the two visibilities allows."""

    kind: ClassVar[str] = "union"

    def mask(self, length: int) -> Tensor:
        return self.left.mask(length) | self.right.mask(length)


VISIBILITIES: Mapping[str, type[Visibility]] = {
    cls.kind: cls for cls in (Ltr, Rtl, Full, Prefix, Bottleneck, FlippedLowerTriangle, Flipped, Intersection, Union)
}
