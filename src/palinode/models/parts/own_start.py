"""Modules with parameters that are neither a linear map, a table nor a norm: they say themselves how those start."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from palinode.base.errors import Unfinished


class OwnStart(nn.Module):
    """Base of such modules."""

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        """Fill one of this module's own parameters (not those of a module inside it), in place."""
        raise Unfinished(self, f"does not say how {name} starts")
