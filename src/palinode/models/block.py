"""One block of a stack: x + mixer(norm x), then x + mlp(norm x)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from palinode.models.cost import LayerCost
from palinode.models.mixers.base import Mixer, Reading
from palinode.models.parts.mlp import Mlp
from palinode.models.parts.norm import Norm
from palinode.models.parts.state import MixerState, continues


class Block(nn.Module):
    """Pre-norm residual block, (B, T, D) -> (B, T, D). Dropout on both branch outputs, in training only. It may have no MLP."""

    def __init__(self, mixer: Mixer, mlp: Mlp | None, mixer_norm: Norm, mlp_norm: Norm | None, dropout: float):
        super().__init__()
        self.mixer_norm = mixer_norm
        self.mixer = mixer
        self.mlp_norm = mlp_norm
        self.mlp = mlp
        self.dropout = dropout

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        return self._through_mlp(x + self._dropped(self.mixer(self.mixer_norm(x), reading)))

    def can_step(self) -> bool:
        """Whether `extend` continues what `forward` does: the mixer can, and nothing else here can read other slots."""
        alone = [part for part in (self.mixer_norm, self.mlp_norm, self.mlp) if part is not None]
        return continues(self, "forward") and self.mixer.can_step() and all(type(part) in (Norm, Mlp) for part in alone)

    def extend(self, x: Tensor, reading: Reading, state: MixerState) -> tuple[Tensor, MixerState]:
        """The next (B, T_new, D) slots, and the mixer's state after them."""
        mixed, kept = self.mixer.extend(self.mixer_norm(x), reading, state)
        return self._through_mlp(x + self._dropped(mixed)), kept

    def cost(self, slots: int, pairs: int) -> LayerCost:
        """FLOPs for one slot and state, mixer and MLP together."""
        mlp = 0.0 if self.mlp is None else self.mlp.flops_per_slot()
        return self.mixer.cost(slots, pairs) + LayerCost(executed=mlp, useful=mlp, state_elements=0)

    def _through_mlp(self, x: Tensor) -> Tensor:
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self._dropped(self.mlp(self.mlp_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x
