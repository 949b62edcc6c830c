"""Modules with parameters that are neither a linear map, a table nor a norm: they say themselves how those start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from palinode.base.errors import Unfinished


class OwnStart(nn.Module):
    """Base of such modules.

    Attributes:
        group_of: name of one of its own parameters -> training group, where the group is not "vector" or "matrix".
    """

    group_of: ClassVar[Mapping[str, str]] = {}

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Fill one of this module's own parameters (not those of a module inside it), in place."""
        raise Unfinished(self, f"does not say how {name} starts")


def noise_like(parameter: Tensor, rng: Generator) -> Tensor:
    """N(0, 1) in the shape and dtype of a parameter."""
    return torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype).to(parameter.device)


def open_near(parameter: Tensor, value: Tensor | float, rng: Generator) -> None:
    """Set a parameter to `value` + N(0, 0.1^2), in place: what an audit does so that a leak at a distance shows."""
    parameter.copy_(value + 0.1 * noise_like(parameter, rng))
