"""What a mixer is: a layer (B, T, D) -> (B, T, D) that moves information between slots, without residual or norm.

To write one: a `MixerConfig` (the options a user may set) whose `build(place)` makes a `Mixer`. It answers what it costs, and
how parameters that are not plain `Linear` weights start. It never sees a direction: rtl is the causal form of a flipped row.
With `begin` and `extend` it can also read on, slot by slot, from a state of its own; without them everything is read anew.
Legend: B rows, T slots, T_new new slots, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor, nn

from palinode.base.config import Part
from palinode.base.errors import Unfinished
from palinode.base.visibility import Native
from palinode.models.cost import LayerCost
from palinode.models.parts.distance import DistanceTable
from palinode.models.parts.rotary import RotaryTable
from palinode.models.parts.state import MixerState, continues

UNSET = {  # the options of the model that attention reads -> what takes them away
    "qk_norm": "qk_norm = false",
    "rotary": 'position = "none"',
    "alibi": 'position = "none"',
    "attention_scale": "attention_scale = 1",
}


@dataclass(frozen=True)
class Place:
    """Where a mixer sits and what the model's config says about all its layers."""

    width: int
    heads: int
    max_length: int
    layer: int = 0
    layers: int = 1
    bias: bool = False
    dropout: float = 0.0
    qk_norm: bool = False
    attention_scale: float = 1.0


@dataclass(frozen=True)
class Reading:
    """How the stack reads one batch; made once for each pass and shared by all layers.

    In `extend` it is causal, and its tables are of the new slots alone (distances: from each of them to all slots so far).

    Attributes:
        native: `causal`, `full`, or `mask`.
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
    """Base of all mixer configs. `reads` lists the model-wide options this mixer uses: others may not be set for it."""

    reads: ClassVar[frozenset[str]] = frozenset()
    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal", "full", "mask"})

    def build(self, place: Place) -> Mixer:
        """The mixer with empty weights; `models/init.py` fills them."""
        raise Unfinished(self, "must define build(place)")

    def check_width(self, width: int) -> None:
        """Raise ValueError where the options do not fit this width."""

    def refusal(self, native: Native) -> str | None:
        """Why it cannot read in this form, in a few words; None where it can."""
        if native in self.visibilities:
            return None
        return "it has no form for explicit masks" if native == "mask" else f"it has no {native} form"


def refuse_unread(options: Collection[str], mixers: Collection[MixerConfig]) -> None:
    """Refuse set options of attention that no mixer reads, or that one of several attentions does not.

    Args:
        options: names of those that are set, as in `reads`.
        mixers: of all layers. One that reads none of these options, set or not, is no attention: it may stand beside one.

    Raises:
        ValueError: naming all of them, and what takes them away.
    """
    without: dict[str, list[str]] = {}
    for option in options:
        readers = [mixer for mixer in mixers if option in mixer.reads]
        asked = [mixer for mixer in mixers if mixer.reads & UNSET.keys()] if readers else mixers
        if lacking := [mixer.kind_name() for mixer in asked if option not in mixer.reads]:
            without[option] = lacking
    if without:
        who = " or ".join(dict.fromkeys(name for names in without.values() for name in names))
        cure = ", ".join(f"model.{UNSET[option]}" for option in without)
        raise ValueError(f"the mixer {who} does not read {', '.join(without)}: set {cure}")


class TwoSidedConfig(MixerConfig):
    """Base of configs whose mixer has weights of its own for what comes after a slot.

    Without them one rule would serve both sides, and a slot could not tell what stands before it from what stands after it.

    Attributes:
        two_sided: has the second set of weights, which the full form needs; the causal form leaves it unused.
    """

    visibilities: ClassVar[frozenset[Native]] = frozenset({"causal", "full"})
    two_sided: bool = False

    def refusal(self, native: Native) -> str | None:
        if native == "full" and not self.two_sided:
            return "it has weights for one side alone; set two_sided = true"
        return super().refusal(native)


class Mixer(nn.Module):
    """Base of all mixers."""

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """(B, T, D) -> (B, T, D); slot i depends on slot j only where the reading allows it."""
        raise Unfinished(self, "must define forward(x, reading)")

    def can_step(self) -> bool:
        """Whether `extend` continues what `forward` does: not when there is none, or a subclass has replaced `forward` alone."""
        return continues(self, "forward")

    def begin(self, rows: int, slots: int) -> MixerState:
        """What is kept before the first of at most `slots` slots of `rows` rows, in the dtype and on the device of the weights."""
        raise NotImplementedError(f"{type(self).__name__} cannot step: it must define begin and extend")

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        """The next (B, T_new, D) slots, and the state after them: equal to the last T_new slots of causal `forward` over all so far.

        s is 1, or all of a prompt. The state that was given is used up: its buffers may be written on.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot step: it must define begin and extend")

    def cost(self, slots: int, pairs: int) -> LayerCost:
        """FLOPs for one slot and elements of state, in a row of `slots` slots with `pairs` visible pairs."""
        raise Unfinished(self, "must define cost(slots, pairs)")

    def reach_slots(self, native: Native) -> int | None:
        """How far from a slot the slots that it reads may be; None: as far as the row goes."""
        return None

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Fill one of this module's own parameters (not those of a `Linear` inside it), in place."""
        raise Unfinished(self, f"does not say how {name} starts")

    def special_groups(self) -> Mapping[str, str]:
        """Parameter name (inside this mixer) -> training group, where the role of its weight does not say it."""
        return {}
