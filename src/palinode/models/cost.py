"""The cost of a model: its parameters by group, its FLOPs for each slot, and the size of the state that it keeps to write text.

FLOPs count the matrix products (one multiply-add is 2 FLOPs) and the other work of a mixer (transforms, short convolutions, scans).
FLOPs leave out norms, activations and softmax, as `torch.utils.flop_counter` does; the tests compare the counts with this counter.
Attention has two counts: *executed* FLOPs count all T^2 pairs of slots, *useful* FLOPs only the pairs that the visibility allows.
Legend: T slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import lru_cache

from palinode.base.visibility import Visibility

# The largest number of cached counts of visible pairs (by visibility and row length); counting a mask of 1024 slots takes 50 ms.
MOST_COUNTED = 256
# The backward pass makes two matrix products for each matrix product of the forward pass.
TRAINING_FACTOR = 3


@dataclass(frozen=True)
class LayerCost:
    """The cost of one block or mixer.

    Attributes:
        executed: the forward FLOPs that are executed for one slot.
        useful: the forward FLOPs for one slot when only the visible pairs of slots are counted.
        state_elements: the number of state elements that the layer keeps to emit one more token.
        non_matmul: the part of `executed` that is not matrix products; PyTorch's counter leaves this part out.
        per_pass: the FLOPs of matrix products that a pass computes only once, for any number of rows (for instance to make the
            kernel of a long convolution). `executed` does not contain these FLOPs, because `executed` is for one slot of one row.
    """

    executed: float
    useful: float
    state_elements: int
    non_matmul: float = 0.0
    per_pass: float = 0.0

    @classmethod
    def of(cls, products: float, state_elements: int, non_matmul: float = 0.0, per_pass: float = 0.0) -> LayerCost:
        """The cost of a layer whose FLOPs are all useful: `products` are the FLOPs of matrix products, `non_matmul` all others."""
        return cls(products + non_matmul, products + non_matmul, state_elements, non_matmul, per_pass)

    def __add__(self, other: LayerCost) -> LayerCost:
        return LayerCost(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Cost:
    """The cost of one model at one row length.

    Attributes:
        parameters: the number of parameters by group; the groups add up to the model's total.
        executed_flops_per_slot: the executed forward FLOPs of all layers before the head, for one slot.
        useful_flops_per_slot: the forward FLOPs of all layers before the head, for one slot, with only visible pairs counted.
        head_flops_per_slot: the forward FLOPs of the head for one slot that goes through the head.
        state_elements: the number of state elements that all layers keep to emit one more token after a row of this length.
        terms_flops_per_slot: the forward FLOPs of the auxiliary terms for one slot; they are spent in training only.
        frozen_flops_per_slot: the FLOPs of the layers' backward pass that frozen parameters save, for one slot.
        frozen_head_flops_per_slot: the same for the head, for one slot that goes through the head.
    """

    parameters: Mapping[str, int]
    executed_flops_per_slot: float
    useful_flops_per_slot: float
    head_flops_per_slot: float
    state_elements: int
    terms_flops_per_slot: float = 0.0
    frozen_flops_per_slot: float = 0.0
    frozen_head_flops_per_slot: float = 0.0

    @property
    def total_parameters(self) -> int:
        """The number of all parameters; a tied matrix is counted once."""
        return sum(self.parameters.values())

    @property
    def non_embedding_parameters(self) -> int:
        """The number of all parameters except those of the token embedding, the positions and the head."""
        left_out = ("embedding", "position", "head")
        return sum(count for group, count in self.parameters.items() if group not in left_out)

    def forward_flops(self, slots: float, head_slots: float | None = None) -> float:
        """The executed FLOPs of reading `slots` slots, `head_slots` of which go through the head (default: all)."""
        scored = slots if head_slots is None else head_slots
        return self.executed_flops_per_slot * slots + self.head_flops_per_slot * scored

    def train_flops(self, slots: float, head_slots: float | None = None) -> float:
        """The executed FLOPs of forward and backward pass: three times those of the forward pass; recomputation is not counted.

        A frozen matrix needs no gradient of its own, and a frozen part below all trainable parameters no backward pass at all.
        """
        everything = TRAINING_FACTOR * (self.forward_flops(slots, head_slots) + self.terms_flops_per_slot * slots)
        scored = slots if head_slots is None else head_slots
        return everything - self.frozen_flops_per_slot * slots - self.frozen_head_flops_per_slot * scored


def sides_read(pairs: int, slots: int) -> int:
    """The number of sides that a slot reads: 2 if more pairs of slots are visible than in the causal form, else 1."""
    return 2 if pairs > slots * (slots + 1) // 2 else 1


def attention_cost(maps: float, widths: int, slots: int, pairs: int, computed: int | None = None) -> LayerCost:
    """The cost of softmax attention.

    Args:
        maps: the FLOPs of the linear maps for one slot.
        widths: the width of q plus the width of the value, summed over all heads.
        slots: the number T of slots of a row.
        pairs: the number of visible pairs of slots.
        computed: the number of pairs of slots that get a score; None means all T^2 pairs.
    """
    executed = 2.0 * widths * (slots * slots if computed is None else computed) / slots
    return LayerCost(maps + executed, maps + 2.0 * widths * pairs / slots, state_elements=widths * slots)


@lru_cache(maxsize=MOST_COUNTED)
def visible_pairs(sees: Visibility, slots: int) -> int:
    """The number of pairs (slot that reads, slot that is read) that the visibility allows in a row of `slots` slots."""
    if sees.native == "causal":
        return slots * (slots + 1) // 2
    return slots * slots if sees.native == "full" else int(sees.mask(slots).sum())
