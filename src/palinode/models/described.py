"""The description of a model without weights: its parameters by role, its cost, and the inputs that it refuses.

PyTorch's meta device holds tensors that have a shape but no values. On the meta device, a model of any size is built in
milliseconds and without memory. A model without values is enough to refuse a bad config, to plan, and to predict times. Training
creates the weights when it begins.
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

MOST_KEPT = (
    256  # the largest number of cached descriptions; the description of a model of 12 layers of width 768 takes 0.36 MB
)
OVERFLOW = "overflowed"  # the word in PyTorch's message about a tensor whose number of bytes does not fit into 64 bits
SEED = 0  # a shape does not depend on the seed

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Description:
    """A model whose parameters have shapes but no values. Configs with the same content share one description.

    Attributes:
        content: the hash of the config.
        config, vocab_size, slots: the arguments of the function `described`.
    """

    content: str
    config: ModelConfig = field(hash=False)
    vocab_size: int
    slots: int
    _costs: dict[tuple[int, Visibility], Cost] = field(default_factory=dict, compare=False)

    @cached_property
    def model(self) -> LanguageModel:
        """The model with all parameters and buffers on the meta device. Do not change this model: other callers share it."""
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
        """The number of all parameters; a tied matrix is counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def parameter_tensors(self) -> int:
        """The number of tensors that hold the parameters."""
        return len(list(self.model.parameters()))

    def cost(self, slots: int, sees: Visibility) -> Cost:
        """The cost of reading rows of T = `slots` slots; see `LanguageModel.cost`."""
        if (slots, sees) not in self._costs:
            self._costs[slots, sees] = self.answer(lambda model: model.cost(slots, sees))
        return self._costs[slots, sees]

    def refuse_longer_rows(self, slots: int) -> None:
        """Read one left-to-right row of T = `slots` slots, to check that the model can read rows of this length.

        Raises:
            BadInput: the longest row that the model can read has fewer than `slots` slots.
        """

        def read(model: LanguageModel) -> None:
            tokens = torch.zeros(1, slots, dtype=torch.long, device=next(model.parameters()).device)
            with torch.no_grad():
                model.eval().hidden(tokens, Ltr())

        self.answer(read)

    def answer(self, question: Callable[[LanguageModel], Answer]) -> Answer:
        """Return question(model) for the model without values. If this needs values, a model with weights is built for the call.

        Raises:
            PalinodeError: the function `question` raises this error.
        """
        try:
            return question(self.model)
        except PalinodeError:
            raise
        except (RuntimeError, TypeError):  # PyTorch raises one of the two when code reads a value of a meta tensor
            return question(self._built())

    def _built(self) -> LanguageModel:
        return self.config.build(self.vocab_size, self.slots, SEED)


def described(config: ModelConfig, vocab_size: int, slots: int) -> Description:
    """The description of a model; configs with the same content share one description.

    If the construction of a model reads the values of its weights, the model is built once with weights. The mixer `long_conv`
    reads these values, because it refuses a kernel that would never learn; a user's model may also read them.

    Args:
        vocab_size: the vocabulary size V, special tokens included.
        slots: the number T of slots of the longest row that the model must be able to read.

    Raises:
        BadInput: a model cannot be built with these arguments.
        OverflowError: the number of bytes of a tensor does not fit into 64 bits.
    """
    return _described(Description(content_hash(encode(config)), config, vocab_size, slots))


@lru_cache(maxsize=MOST_KEPT)
def _described(description: Description) -> Description:
    _ = description.model  # build the model now: if it refuses to be built, the cache does not keep its description
    return description


def _without_numbers(model: LanguageModel) -> LanguageModel:
    """The model with all parameters and buffers on the meta device; tied parameters stay tied."""
    tensors = [tensor for tensor in chain(model.parameters(), model.buffers()) if not tensor.is_meta]
    if not tensors:
        return model
    empty = {id(tensor): _like(tensor) for tensor in tensors}
    return copy.deepcopy(model, empty)  # the second argument maps the id of an object to its replacement


def _like(tensor: torch.Tensor) -> torch.Tensor:
    shape = tensor.detach().to("meta")
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    return torch.nn.Parameter(shape, tensor.requires_grad) if is_parameter else shape
