"""What a model costs: parameters by group, FLOPs for each slot, and the state that one more token needs.

FLOPs count the matrix products (one multiply-add is 2) and what a mixer adds (transforms, short convolutions, scans); norms,
activations and softmax are left out, as in `torch.utils.flop_counter`, which the tests compare with. Attention has two numbers:
*executed* counts the full square of slots, *useful* the pairs that the visibility allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import lru_cache

from palinode.base.visibility import Visibility

MOST_COUNTED = 256  # row lengths and visibilities whose pairs are kept: counting a mask of 1024 slots takes 50 ms
TRAINING_FACTOR = 3  # one forward pass, and a backward pass that does each product twice


@dataclass(frozen=True)
class LayerCost:
    """One block or mixer: forward FLOPs for each slot (executed, useful), and elements of state to emit one more token.

    Attributes:
        non_matmul: the part of `executed` that is not a matrix product, so that PyTorch's counter does not see it.
        per_pass: FLOPs of matrix products made once for a pass, however many rows it has (the kernel of an implicit filter); not in
            `executed`, which is for each slot of each row.
    """

    executed: float
    useful: float
    state_elements: int
    non_matmul: float = 0.0
    per_pass: float = 0.0

    @classmethod
    def of(cls, products: float, state_elements: int, non_matmul: float = 0.0, per_pass: float = 0.0) -> LayerCost:
        """A layer all of whose FLOPs are useful: `products` of matrix products and the rest (`non_matmul`)."""
        return cls(products + non_matmul, products + non_matmul, state_elements, non_matmul, per_pass)

    def __add__(self, other: LayerCost) -> LayerCost:
        return LayerCost(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Cost:
    """The cost of one model at one row length.

    Attributes:
        parameters: number of parameters by group; the groups add up to the model's total.
        executed_flops_per_slot: forward FLOPs of everything before the head, for one slot.
        useful_flops_per_slot: the same, counting only visible pairs in the mixers.
        head_flops_per_slot: forward FLOPs of the head, for one slot that it is evaluated on.
        state_elements: numbers kept by all layers together to emit one more token after a row of this length.
        terms_flops_per_slot: forward FLOPs of the auxiliary terms, for one slot; in training only.
    """

    parameters: Mapping[str, int]
    executed_flops_per_slot: float
    useful_flops_per_slot: float
    head_flops_per_slot: float
    state_elements: int
    terms_flops_per_slot: float = 0.0

    @property
    def total_parameters(self) -> int:
        """All parameters, a tied matrix counted once."""
        return sum(self.parameters.values())

    @property
    def non_embedding_parameters(self) -> int:
        """All parameters but the token embedding, the positions and the head's matrix."""
        left_out = ("embedding", "position", "head")
        return sum(count for group, count in self.parameters.items() if group not in left_out)

    def forward_flops(self, slots: float, head_slots: float | None = None) -> float:
        """Executed FLOPs of reading `slots` slots and evaluating the head on `head_slots` of them (default: all)."""
        scored = slots if head_slots is None else head_slots
        return self.executed_flops_per_slot * slots + self.head_flops_per_slot * scored

    def train_flops(self, slots: float, head_slots: float | None = None) -> float:
        """Executed FLOPs of forward and backward: three times the forward pass (chunked recomputation not counted)."""
        return TRAINING_FACTOR * (self.forward_flops(slots, head_slots) + self.terms_flops_per_slot * slots)


def sides_read(pairs: int, slots: int) -> int:
    """How many sides a slot reads: 2 when there are more visible pairs of slots than in the causal form, else 1."""
    return 2 if pairs > slots * (slots + 1) // 2 else 1


def attention_cost(maps: float, widths: int, slots: int, pairs: int, computed: int | None = None) -> LayerCost:
    """Softmax attention.

    Args:
        maps: FLOPs of the linear maps for one slot.
        widths: the width of q plus the width of the value, over all heads.
        computed: how many of the pairs of slots get a score; None: all T^2.
    """
    executed = 2.0 * widths * (slots * slots if computed is None else computed) / slots
    return LayerCost(maps + executed, maps + 2.0 * widths * pairs / slots, state_elements=widths * slots)


@lru_cache(maxsize=MOST_COUNTED)
def visible_pairs(sees: Visibility, slots: int) -> int:
    """How many (reader, read) pairs of slots a visibility allows in a row of this length."""
    if sees.native == "causal":
        return slots * (slots + 1) // 2
    return slots * slots if sees.native == "full" else int(sees.mask(slots).sum())
