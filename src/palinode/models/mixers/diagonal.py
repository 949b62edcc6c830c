"""What the mixers with a diagonal state-space layer share: options, poles and steps, how they start, how an audit opens them.

Legend: G systems, N numbers of state of each, n = N / 2 pairs of modes.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from palinode.models.mixers.base import Mixer, TwoSidedConfig
from palinode.models.parts.modes import START_DECAY, Frequencies, start_poles
from palinode.models.parts.own_start import noise_like, open_near


class ModesConfig(TwoSidedConfig):
    """Options of a diagonal state-space layer.

    Attributes:
        state: N, even: numbers of state of each system.
        frequencies: `inverse` N/pi (N/(2n+1) - 1) or `linear` pi n; every real part starts at -1/2.
        least_step, most_step: dt starts log-uniform between them.
    """

    state: int = Field(default=64, ge=2, multiple_of=2)
    frequencies: Frequencies = "inverse"
    least_step: float = Field(default=0.001, gt=0)
    most_step: float = Field(default=0.1, gt=0)


class DiagonalMixer(Mixer):
    """Base of mixers with a diagonal layer: its steps and poles are trained in the group `state`; `c` reads its states."""

    config: ModesConfig
    log_step: Tensor
    log_decay: Tensor
    frequency: Tensor
    c: Tensor
    c_future: Tensor | None
    group_of: ClassVar = {"log_step": "state", "log_decay": "state", "frequency": "state"}

    def exponents(self) -> tuple[Tensor, Tensor, Tensor]:
        """(dt, A, dt A) in float64; A = -exp(log decay) + i frequency."""
        step = self.log_step.double().exp()[:, None]
        poles = torch.complex(-self.log_decay.double().exp(), self.frequency.double())
        return step, poles, step * poles

    def start_mode(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Fill log_step, log_decay or frequency.

        Raises:
            ValueError: the parameter is none of the three.
        """
        config = self.config
        if name == "log_step":
            parameter.uniform_(math.log(config.least_step), math.log(config.most_step), generator=rng)
        elif name == "log_decay":
            parameter.fill_(math.log(START_DECAY))
        elif name == "frequency":
            parameter.copy_(start_poles(parameter.shape[-1], config.frequencies)[1])
        else:
            raise ValueError(f"{name} is no parameter of the modes")

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """Steps and decays near .1, so that a leak at a distance shows: half is left after 70 slots. C has variance gain^2 / n."""
        open_near(self.log_step, math.log(0.1), rng)
        open_near(self.log_decay, math.log(0.1), rng)
        lines = torch.arange(self.frequency.shape[-1], dtype=self.frequency.dtype, device=self.frequency.device)
        open_near(self.frequency, math.pi * lines, rng)
        for reader in (self.c, self.c_future):
            if reader is not None:
                reader.copy_(gain / math.sqrt(2 * self.log_decay.shape[-1]) * noise_like(reader, rng))
