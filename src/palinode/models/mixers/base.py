"""The base classes of mixers: a mixer is a layer (B, T, D) -> (B, T, D) that moves information between slots.

A mixer has no residual connection and no norm. A mixer is two classes: a `MixerConfig` holds the options that a user may set, and
its method `build(place)` makes the `Mixer`. The mixer computes its cost and gives its own parameters their first values. A mixer
does not know the direction of reading: a row that is read right to left is flipped, and the causal form of the mixer reads the
flipped row. A mixer with `begin` and `extend` continues from a state, slot by slot; a mixer without these methods reads the whole
row again for each new slot.
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

# The options of the model that attention reads, and for each option the setting that switches it off.
UNSET = {
    "qk_norm": "qk_norm = false",
    "rotary": 'position = "none"',
    "alibi": 'position = "none"',
    "attention_scale": "attention_scale = 1",
}


@dataclass(frozen=True)
class Place:
    """The sizes and options of the model that a mixer needs when it is built; they are the same for all layers."""

    width: int
    heads: int
    max_length: int
    bias: bool = False
    dropout: float = 0.0
    qk_norm: bool = False
    attention_scale: float = 1.0


@dataclass(frozen=True)
class Reading:
    """How a stack of layers reads one batch. Each pass makes one `Reading`, which all layers share.

    In `extend` the form of reading is causal, and the tables have rows only for the new slots.

    Attributes:
        native: the form of reading: `causal`, `full`, or `mask`.
        mask: the (T, T) boolean mask when native is `mask`: entry [i, j] is True when slot i may read slot j.
        rotary: the table of rotations when the model has rotary positions.
        distance: the table of distances between slots when the model learns the slopes of linear position biases.
        bias: the (H, T, T) tensor that is added to the attention scores when the slopes are fixed; -inf where slot i may not read
            slot j.
    """

    native: Native
    mask: Tensor | None = None
    rotary: RotaryTable | None = None
    distance: DistanceTable | None = None
    bias: Tensor | None = None


class MixerConfig(Part):
    """Base class of all mixer configs.

    Attributes:
        reads: the names of the model's options (such as `qk_norm`) that the mixer uses; see `refuse_unread`.
        visibilities: the forms of reading that the mixer supports.
        makes: the class of the mixer that is built from this config.
    """

    largest: ClassVar[int] = LARGEST_SIZE
    reads: ClassVar[frozenset[str]] = frozenset()
    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal", "full", "mask"})
    makes: ClassVar[type[Mixer] | None] = None

    def build(self, place: Place) -> Mixer:
        """Build the mixer with empty weights; `models/init.py` fills the weights."""
        if self.makes is None:
            raise Unfinished(self, "must define build(place)")
        return self.makes(self, place)

    def check_width(self, width: int) -> None:
        """Raise ValueError if the options of the mixer do not fit this width."""

    def refusal(self, native: Native) -> str | None:
        """The reason why the mixer cannot read in this form, in a few words; None if it can."""
        if native in self.visibilities:
            return None
        return "it has no form for explicit masks" if native == "mask" else f"it has no {native} form"


def refuse_unread(options: Collection[str], mixers: Collection[MixerConfig]) -> None:
    """Refuse an option of attention that is set, but that no mixer reads or that some attention mixer does not read.

    An option that is set needs at least one mixer that reads it. Each mixer that reads any option of attention must read every
    option that is set. Mixers that read no option of attention (convolutions, recurrences) may be in one model with attention.

    Args:
        options: the names of the options that are set, as in `reads`.
        mixers: the mixer configs of all layers.

    Raises:
        ValueError: an option is refused; the message names all refused options, and the settings that switch them off.
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
    """Base class of the configs of mixers that can have a second set of weights, for the slots that come after the current slot.

    With one set of weights for both sides, a slot could not distinguish the slots before it from the slots after it.

    Attributes:
        two_sided: whether the mixer has the second set of weights. The full form needs this set; the causal form does not use
            this set.
    """

    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal", "full"})
    two_sided: bool = False

    def refusal(self, native: Native) -> str | None:
        if native == "full" and not self.two_sided:
            return "it has weights for one side alone; set two_sided = true"
        return super().refusal(native)


class Mixer(OwnStart):
    """Base class of all mixers.

    Args:
        options: the class of the config that the mixer is made from, as in `class Mine(Mixer, options=MineConfig)`.
    """

    def __init_subclass__(cls, options: type[MixerConfig] | None = None, **others: Any):
        super().__init_subclass__(**others)
        if options is not None:
            options.makes = cls

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """(B, T, D) states -> (B, T, D); slot i of the output depends on slot j only if the reading allows it."""
        raise Unfinished(self, "must define forward(x, reading)")

    def can_step(self) -> bool:
        """Whether `extend` computes the same as `forward`: False if `extend` is missing, or if only `forward` was replaced."""
        return continues(self, "forward")

    def begin(self, rows: int, slots: int) -> MixerState:
        """The state before the first slot is read, for rows of at most `slots` slots, with the weights' dtype and device."""
        raise NotImplementedError(f"{type(self).__name__} cannot step: it must define begin and extend")

    def extend(self, x: Tensor, reading: Reading, state: Any) -> tuple[Tensor, MixerState]:
        """(B, T_new, D) states of the next slots -> the last T_new slots of causal `forward` over all slots, and the next state.

        T_new is 1, or the length of a prompt. The argument `state` comes from `begin` or `extend` of this mixer and must not be
        used again, because its buffers may be overwritten.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot step: it must define begin and extend")

    def cost(self, slots: int, pairs: int) -> LayerCost:
        """The FLOPs for one slot and the number of state elements, in a row of `slots` slots with `pairs` visible pairs."""
        raise Unfinished(self, "must define cost(slots, pairs)")

    def reach_slots(self, native: Native) -> int | None:
        """The greatest distance, in slots, at which a slot reads another slot; None means no limit."""
        return None

    def special_groups(self) -> Mapping[str, str]:
        """A table from parameter names in this mixer to training groups, from the `group_of` tables of all its modules."""
        return {
            f"{prefix}.{name}" if prefix else name: group
            for prefix, module in self.named_modules()
            if isinstance(module, OwnStart)
            for name, group in module.group_of.items()
            if getattr(module, name, None) is not None
        }
