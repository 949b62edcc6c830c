"""What a model is before it has weights: its parameters by role, what it costs, and what it can do.

PyTorch's meta device holds tensors that have a shape and no numbers. A model of any size is built there in milliseconds and without
memory. Refusals, plans and predictions need no more than that; the weights are made when training begins.
Legend: T slots, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from typing import TypeVar

import torch

from palinode.base.config import content_hash, encode
from palinode.base.errors import PalinodeError
from palinode.base.visibility import Ltr, Visibility
from palinode.models.base import LanguageModel, ModelConfig
from palinode.models.cost import Cost

MOST_KEPT = 256  # descriptions; one of 12 layers of width 768 takes 0.36 MB
OVERFLOW = "overflowed"  # PyTorch's word for a tensor whose bytes are more than 64 bits count
SEED = 0  # a shape does not depend on the seed

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Description:
    """A model without numbers. Equal configs of one class have one description; the arguments are those of `described`."""

    content: str
    config: ModelConfig = field(hash=False)
    vocab_size: int
    slots: int
    _costs: dict[tuple[int, Visibility], Cost] = field(default_factory=dict, compare=False)

    @cached_property
    def model(self) -> LanguageModel:
        """The model with every parameter and buffer on the meta device. Do not change it: others read it too."""
        try:
            with torch.device("meta"):
                return _without_numbers(self._built())
        except PalinodeError:
            raise
        except (RuntimeError, TypeError) as problem:
            if OVERFLOW in str(problem):
                raise OverflowError(str(problem)) from None
            return _without_numbers(self._built())

    @property
    def total_parameters(self) -> int:
        """All parameters, a tied matrix counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def parameter_tensors(self) -> int:
        """How many tensors hold the parameters."""
        return len(list(self.model.parameters()))

    def cost(self, slots: int, sees: Visibility) -> Cost:
        """What it costs to read rows of T = `slots` slots; see `LanguageModel.cost`."""
        if (slots, sees) not in self._costs:
            self._costs[slots, sees] = self.answer(lambda model: model.cost(slots, sees))
        return self._costs[slots, sees]

    def refuse_longer_rows(self, slots: int) -> None:
        """Read one left-to-right row of T = `slots` slots, to learn whether the model takes it.

        Raises:
            BadInput: the model has a longest row, and it is shorter.
        """

        def read(model: LanguageModel) -> None:
            tokens = torch.zeros(1, slots, dtype=torch.long, device=next(model.parameters()).device)
            with torch.no_grad():
                model.eval().hidden(tokens, Ltr())

        self.answer(read)

    def answer(self, question: Callable[[LanguageModel], Answer]) -> Answer:
        """The answer of the model without numbers. Where a class needs numbers for it, a real model is built for this question.

        Raises:
            PalinodeError: the model refuses the question.
        """
        try:
            return question(self.model)
        except PalinodeError:
            raise
        except (RuntimeError, TypeError):  # what PyTorch raises where a number is read that is not there
            return question(self._built())

    def _built(self) -> LanguageModel:
        return self.config.build(self.vocab_size, self.slots, SEED)


def described(config: ModelConfig, vocab_size: int, slots: int) -> Description:
    """The description of a model; the same one for every config of the same content.

    A model that looks at its numbers while it is built is really built, once: a user's may do so, and the mixer `long_conv`, which
    refuses a kernel that would never learn.

    Args:
        vocab_size: V, special tokens included.
        slots: T of the longest row the model must take.

    Raises:
        BadInput: the model refuses to be built.
        OverflowError: a tensor has more bytes than 64 bits count.
    """
    return _described(Description(content_hash(encode(config)), config, vocab_size, slots))


@lru_cache(maxsize=MOST_KEPT)
def _described(description: Description) -> Description:
    _ = description.model  # built here, so that a model that refuses to be built is not kept
    return description


def _without_numbers(model: LanguageModel) -> LanguageModel:
    """The model with every parameter and buffer on the meta device; tied ones stay tied."""
    tensors = [tensor for tensor in chain(model.parameters(), model.buffers()) if not tensor.is_meta]
    if not tensors:
        return model
    empty = {id(tensor): _like(tensor) for tensor in tensors}
    return copy.deepcopy(model, empty)  # the second argument maps the id of an object to its replacement


def _like(tensor: torch.Tensor) -> torch.Tensor:
    shape = tensor.detach().to("meta")
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    return torch.nn.Parameter(shape, tensor.requires_grad) if is_parameter else shape
