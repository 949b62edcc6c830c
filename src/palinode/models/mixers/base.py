"""What a mixer is: a layer (B, T, D) -> (B, T, D) that moves information between slots, without residual or norm.

A mixer is two classes: a `MixerConfig` holds the options a user may set, and its `build(place)` makes the `Mixer`. The mixer says
what it costs and how its own parameters start. It never sees a direction: right to left is its causal form on a flipped row.
With `begin` and `extend` it reads on, slot by slot, from a state; without them the whole row is read again for each new slot.
Legend: B rows, T slots, T_new new slots, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from palinode.base.bounds import LARGEST_SIZE
from palinode.base.config import Part
from palinode.base.errors import Unfinished
from palinode.base.visibility import Native
from palinode.models.cost import LayerCost
from palinode.models.parts.linear import OwnStart
from palinode.models.parts.positions import DistanceTable, RotaryTable
from palinode.models.parts.state import MixerState, continues

# Each option of the model that attention reads, and the setting that switches it off.
UNSET = {
    "qk_norm": "qk_norm = false",
    "rotary": 'position = "none"',
    "alibi": 'position = "none"',
    "attention_scale": "attention_scale = 1",
}


@dataclass(frozen=True)
class Place:
    """Where a mixer sits, and the options of the model that hold for all its layers."""

    width: int
    heads: int
    max_length: int
    bias: bool = False
    dropout: float = 0.0
    qk_norm: bool = False
    attention_scale: float = 1.0


@dataclass(frozen=True)
class Reading:
    """How the stack reads one batch; made once for each pass and shared by all layers.

    In `extend` the form is causal and the tables cover only the new slots (distances: from each new slot to all slots so far).

    Attributes:
        native: the form of reading: `causal`, `full`, or `mask`.
        mask: (T, T) boolean when native is `mask`: entry [i, j] is True when slot i may read slot j.
        rotary: turning tables when the model has rotary positions.
        distance: distances between slots when the model learns slopes of linear position biases.
        bias: (heads, T, T), added to the scores of attention when its linear biases are fixed: -inf where a slot may not read.
    """

    native: Native
    mask: Tensor | None = None
    rotary: RotaryTable | None = None
    distance: DistanceTable | None = None
    bias: Tensor | None = None


class MixerConfig(Part):
    """Base of all mixer configs.

    Attributes:
        reads: the options of the model that this mixer reads; the others may not be set for it.
        visibilities: the forms of reading that it has.
        makes: the mixer whose `options` are of this class.
    """

    largest: ClassVar[int] = LARGEST_SIZE
    reads: ClassVar[frozenset[str]] = frozenset()
    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal", "full", "mask"})
    makes: ClassVar[type[Mixer] | None] = None

    def build(self, place: Place) -> Mixer:
        """The mixer with empty weights; `models/init.py` fills them."""
        if self.makes is None:
            raise Unfinished(self, "must define build(place)")
        return self.makes(self, place)

    def check_width(self, width: int) -> None:
        """Raise ValueError where the options do not fit this width."""

    def refusal(self, native: Native) -> str | None:
        """Why it cannot read in this form, in a few words; None where it can."""
        if native in self.visibilities:
            return None
        return "it has no form for explicit masks" if native == "mask" else f"it has no {native} form"


def refuse_unread(options: Collection[str], mixers: Collection[MixerConfig]) -> None:
    """Refuse options of attention that are set but not read.

    An option needs at least one mixer that reads it. Where there is one, every other mixer that reads any option of attention
    must read this one too; mixers that read none (convolutions, recurrences) may be mixed with attention freely.

    Args:
        options: names of the options that are set, as in `reads`.
        mixers: those of all layers.

    Raises:
        ValueError: naming all such options, and the settings that switch them off.
    """
    without: dict[str, list[str]] = {}
    for option in options:
        is_read = any(option in mixer.reads for mixer in mixers)
        bound = [mixer for mixer in mixers if mixer.reads & UNSET.keys()] if is_read else mixers
        if lacking := [mixer.kind_name() for mixer in bound if option not in mixer.reads]:
            without[option] = lacking
    if without:
        who = " or ".join(dict.fromkeys(name for names in without.values() for name in names))
        cure = ", ".join(f"model.{UNSET[option]}" for option in without)
        raise ValueError(f"the mixer {who} does not read {', '.join(without)}: set {cure}")


class TwoSidedConfig(MixerConfig):
    """Base of configs whose mixer has separate weights for what comes after a slot.

    With one set of weights for both sides, a slot could not distinguish the slots before it from those after it.

    Attributes:
        two_sided: make the second set of weights, which the full form needs; the causal form leaves it unused.
    """

    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal", "full"})
    two_sided: bool = False

    def refusal(self, native: Native) -> str | None:
        if native == "full" and not self.two_sided:
            return "it has weights for one side alone; set two_sided = true"
        return super().refusal(native)


class Mixer(OwnStart):
    """Base of all mixers.

    Args:
        options: the class of its config, where it is made from a config and a place: `class Mine(Mixer, options=MineConfig)`.
    """

    def __init_subclass__(cls, options: type[MixerConfig] | None = None, **others: Any):
        super().__init_subclass__(**others)
        if options is not None:
            options.makes = cls

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """(B, T, D) -> (B, T, D); slot i depends on slot j only where the reading allows it."""
        raise Unfinished(self, "must define forward(x, reading)")

    def can_step(self) -> bool:
        """Whether `extend` continues what `forward` does: False where `extend` is missing or only `forward` was replaced."""
        return continues(self, "forward")

    def begin(self, rows: int, slots: int) -> MixerState:
        """The state before the first slot of `rows` rows of at most `slots` slots, in the weights' dtype and on their device."""
        raise NotImplementedError(f"{type(self).__name__} cannot step: it must define begin and extend")

    def extend(self, x: Tensor, reading: Reading, state: Any) -> tuple[Tensor, MixerState]:
        """(B, T_new, D) of the next slots -> the last T_new slots of causal `forward` over all slots so far, and the next state.

        T_new is 1, or the length of a prompt. The state comes from `begin` or `extend` of this mixer and is used up: its buffers
        may be overwritten.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot step: it must define begin and extend")

    def cost(self, slots: int, pairs: int) -> LayerCost:
        """FLOPs for one slot and elements of state, in a row of `slots` slots with `pairs` visible pairs."""
        raise Unfinished(self, "must define cost(slots, pairs)")

    def reach_slots(self, native: Native) -> int | None:
        """The greatest distance in slots at which a slot reads another; None: no limit."""
        return None

    def special_groups(self) -> Mapping[str, str]:
        """Parameter name (inside this mixer) -> training group: the `group_of` tables of this module and of the modules in it."""
        return {
            f"{prefix}.{name}" if prefix else name: group
            for prefix, module in self.named_modules()
            if isinstance(module, OwnStart)
            for name, group in module.group_of.items()
            if getattr(module, name, None) is not None
        }
