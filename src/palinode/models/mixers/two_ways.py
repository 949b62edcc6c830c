"""What the mixers with a recurrence share: a recurrence from the start of the row and, for the full form, one from its end.

Legend: B rows, T slots, T_new new slots, D width, E width of the recurrence, K taps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from palinode.base.errors import Unfinished
from palinode.models.mixers.base import Mixer, Reading
from palinode.models.parts.exact import exact
from palinode.models.parts.fft_conv import ShortConv, sides
from palinode.models.parts.linear import Linear
from palinode.models.parts.own_start import OwnStart
from palinode.models.parts.state import MixerState


@dataclass(frozen=True)
class RecurrentState(MixerState):
    """The last K - 1 inputs of the short convolution (B, K - 1, E), and the state h (B, ..) of the recurrence."""

    last: Tensor
    h: Tensor


class Recurrence(OwnStart):
    """Base of causal recurrences behind a short convolution, (B, T, D or E) -> (B, T, E).

    Attributes:
        conv: the short convolution.
        decay: the parameter that says how fast each number of the state decays; in the training group `state`.
    """

    conv: ShortConv

    @property
    def decay(self) -> Tensor:
        raise Unfinished(self, "must define decay")

    def extend(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """(B, T_new, ..) of the next slots -> (B, T_new, E), and the next state."""
        raise Unfinished(self, "must define extend(x, state)")

    def begin(self, rows: int) -> RecurrentState:
        """The state before the first slot."""
        return RecurrentState(exact(self.conv.begin(rows)), exact(self.decay).new_zeros(rows, *self.decay.shape))

    def state_elements(self) -> int:
        """Elements kept to read one more slot."""
        return self.conv.state_elements() + self.decay.numel()


class TwoWays(Mixer):
    """Base of W_o (h silu(W_g x)), with h the sum of the recurrences that the form has."""

    gate: Linear
    out: Linear
    past: Recurrence
    future: Recurrence | None

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        read = self._read(x)
        past, *from_the_end = sides(reading.native, self.past, self.future)
        h: Tensor = past(read)
        for recurrence in from_the_end:
            h = h + recurrence(read.flip(1)).flip(1)
        return self._read_out(h, x)

    def begin(self, rows: int, slots: int) -> MixerState:
        return self.past.begin(rows)

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        assert isinstance(state, RecurrentState)
        h, after = self.past.extend(self._read(x), state)
        return self._read_out(h, x), after

    def _read(self, x: Tensor) -> Tensor:
        """What the recurrences read."""
        return x

    def _read_out(self, h: Tensor, x: Tensor) -> Tensor:
        return self.out(h * F.silu(self.gate(x)))
