"""The base class of language models: a model takes tokens and a visibility, and returns hidden states and logits.

A model does not know the loss, the data or the training step. A model may add auxiliary terms to the loss in training, never in
evaluation. An auxiliary term that compares two states is also small when both states are near zero, although the states may not
agree. Therefore every auxiliary term comes with measurements that show whether both states are near zero.
With the functions `begin` and `extend` a model reads each token of a row only once, from left to right, so that a new token costs
only the work of one slot. (A row that is read from its end is flipped first.) `extend` reads the next tokens (a whole prompt or
one token) and returns their states, which equal the last states of a pass over all tokens so far. A model with its own `hidden`,
or with a mixer without `extend`, reads all tokens again for each new token; the states are the same.
Legend: B rows, T slots, T_new new slots, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from palinode.base.bounds import LARGEST_SIZE
from palinode.base.config import Part
from palinode.base.errors import BadInput, Unfinished
from palinode.base.head import LinearHead
from palinode.base.visibility import Ltr, Visibility
from palinode.models.cost import Cost
from palinode.models.mixers.base import Mixer, Reading
from palinode.models.parts.state import ModelState, continues
from palinode.models.parts.state import defined_in as _defined_in


@dataclass(frozen=True)
class AuxiliaryTerm:
    """One auxiliary term of the loss, computed in one call of the model or averaged over several calls.

    Attributes:
        value: a scalar with a gradient, the mean over all rows and slots; training adds coefficient * value to the loss.
        coefficient: the factor of the value in the loss, above 0.
        rows: the number of rows in the mean, which is the weight of the term when several terms are averaged.
        measured: detached scalars for the record, by name. `value`: the score before the variance floor is added. `shuffled`: the
            score when the pairs are shuffled across rows. `gain`: the mean of |gain| over the features of a norm that the term
            applies; of several norms, the smallest mean. `least_gain`: the smallest entry of |gain| in all norms of the term.
            `gain` and `least_gain` are 1 if no norm learns a gain. `variance`: the variance over rows and slots, averaged over
            the features; of the two sides, the smaller value.
    """

    value: Tensor
    coefficient: float
    rows: int
    measured: Mapping[str, Tensor]


Terms = Mapping[str, AuxiliaryTerm]


class PairTerm(nn.Module):
    """Base class of the auxiliary terms that compare two states. The audit trains each `PairTerm` on noise before a run.

    Attributes:
        width: the width D of both states.
    """

    width: int

    def forward(self, left: Tensor, right: Tensor, reading: Reading) -> AuxiliaryTerm:
        """Compute the auxiliary term of two (B, T, D) states of the same slots."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(left, right, reading)")

    def aggregated(self, left: Tensor, reading: Reading) -> Tensor:
        """The (B, T, D) tensor that `right` is compared with; its slot i depends only on the slots that slot i may see."""
        raise NotImplementedError(f"{type(self).__name__} must define aggregated(left, reading)")


def together(readings: Sequence[Terms]) -> dict[str, AuxiliaryTerm]:
    """Join the auxiliary terms of several calls: terms with the same name are averaged, with their numbers of rows as weights."""
    names = dict.fromkeys(name for terms in readings for name in terms)
    return {name: _mean([terms[name] for terms in readings if name in terms]) for name in names}


def _mean(terms: Sequence[AuxiliaryTerm]) -> AuxiliaryTerm:
    if len(terms) == 1:
        return terms[0]
    rows = sum(term.rows for term in terms)
    return AuxiliaryTerm(
        value=torch.stack([term.value * (term.rows / rows) for term in terms]).sum(),
        coefficient=terms[0].coefficient,
        rows=rows,
        measured=mean_measured(terms),
    )


def mean_measured(terms: Sequence[AuxiliaryTerm]) -> dict[str, Tensor]:
    """The measurements of several terms with the same name, averaged with the terms' numbers of rows as weights."""
    rows = sum(term.rows for term in terms)
    weighted = [({"value": term.value.detach(), **term.measured}, term.rows / rows) for term in terms]
    names = dict.fromkeys(name for scalars, _ in weighted for name in scalars)
    return {
        name: torch.stack([scalars[name] * share for scalars, share in weighted if name in scalars]).sum()
        for name in names
    }


GROUPS = ("embedding", "position", "matrix", "head", "vector")


class ModelConfig(Part):
    """Base class of all model configs, both of the built-in models and of the models that a user writes."""

    largest: ClassVar[int] = LARGEST_SIZE

    def build(self, vocab_size: int, max_length: int, seed: int) -> LanguageModel:
        """Build the model with its first weights, which depend only on the config and on the three arguments.

        Args:
            vocab_size: the vocabulary size V, special tokens included.
            max_length: the number of slots of the longest row that the model must be able to read.
            seed: the run's seed; the first weights are drawn from the random stream `init` of this seed.
        """
        raise Unfinished(self, "must define build(vocab_size, max_length, seed)")

    def pinned(self) -> ModelConfig:
        """The config with the hashes of the files that it reads; this config if it reads none.

        Raises:
            BadInput: a file is missing, or is not the one whose hash the config has.
        """
        return self

    def with_terms_times(self, factor: float) -> ModelConfig:
        """A config with the coefficients of all auxiliary terms multiplied by `factor`; this config if the model has no terms."""
        return self


class LanguageModel(nn.Module):
    """Base class of all models. A model reads each row from its start; `models/direction.py` flips rows to be read from the end."""

    # The names of the methods that torch.compile compiles when the recipe sets `compile`.
    compiled_methods: ClassVar[tuple[str, ...]] = ("hidden",)
    # The most logits that are in memory at once in an evaluation; None: those of a whole batch. Pieces round otherwise than whole
    # batches do, so the models that had runs before this limit came keep None.
    logits_at_once: ClassVar[int | None] = None
    vocab_size: int
    max_length: int

    def hidden(self, tokens: Tensor, sees: Visibility) -> Tensor:
        """(B, T) token ids -> (B, T, D) states; the state of a slot depends only on the slots that `sees` lets this slot see."""
        raise Unfinished(self, "must define hidden(tokens, sees)")

    def hidden_and_terms(self, tokens: Tensor, sees: Visibility) -> tuple[Tensor, Mapping[str, AuxiliaryTerm]]:
        """The states of `hidden` and, in training mode, the auxiliary terms by name. Evaluation never calls this method."""
        return self.hidden(tokens, sees), {}

    def from_end(self) -> LanguageModel:
        """The model that reads rows that were flipped, because they are read from their end. By default it is the model itself.

        A model with the positions of the text counts them down in such rows, so it returns another model with the same weights.
        """
        return self

    def pair_terms(self) -> Mapping[str, PairTerm]:
        """The auxiliary terms that compare two states, by name: the audit trains each of these terms on noise."""
        return {}

    def depths(self) -> int:
        """The number L of blocks that can be removed one by one from the top; 0 if the model has no `residuals` and `finished`."""
        return 0

    def residuals(self, tokens: Tensor, sees: Visibility) -> Iterator[Tensor]:
        """Yield the (B, T, D) states after 1, 2, .. L blocks, before the final norm; a block runs when its states are requested."""
        raise NotImplementedError(f"{type(self).__name__} cannot be cut: it must define depths, residuals and finished")

    def finished(self, residual: Tensor) -> Tensor:
        """(B, T, D) states after any number of blocks -> the states that `hidden` would return if there were no more blocks."""
        raise NotImplementedError(f"{type(self).__name__} cannot be cut: it must define depths, residuals and finished")

    def can_be_cut(self) -> bool:
        """Whether `residuals` yields the states between the blocks of `hidden`: False if a subclass has replaced only `hidden`."""
        return self.depths() > 0 and issubclass(_defined_in(self, "residuals"), _defined_in(self, "hidden"))

    def first_blocks(self, count: int) -> LanguageModel:
        """A copy of the model that keeps its first `count` blocks and its final norm, with weights of its own.

        Raises:
            BadInput: the model cannot be copied so, or has fewer blocks. The error names no field.
        """
        raise BadInput(
            f"a {type(self).__name__} gives no copy of its first blocks", hint="an open model (kind hf) does"
        )

    def reach_slots(self, sees: Visibility) -> int | None:
        """The greatest distance, in slots, at which a state depends on another slot, through all layers; None means no limit."""
        return None

    def can_step(self) -> bool:
        """Whether the method `extend` computes the same states as `hidden`, so that a new token costs only the work of one slot.

        If this is False, the function `extend` of this file reads the whole row again for each new token.
        """
        return continues(self, "hidden")

    def begin(self, rows: int, slots: int) -> ModelState:
        """The state before the first token is read, for `rows` rows of at most `slots` slots, which are read left to right."""
        raise NotImplementedError(f"{type(self).__name__} cannot step: it must define begin and extend")

    def extend(self, tokens: Tensor, state: Any) -> tuple[Tensor, ModelState]:
        """Return the (B, T_new, D) states of the next (B, T_new) tokens, and the model state after these tokens.

        The returned states equal the last T_new slots of `hidden` over all tokens so far, read left to right. The argument `state`
        comes from `begin` or `extend` of this model and must not be used again.

        Raises:
            ValueError: the state has no room for the tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot step: it must define begin and extend")

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) states -> (..., V) logits in float32 or better, soft-cap included; the default is to apply the linear head."""
        head = self.linear_head()
        if head is None:
            raise Unfinished(self, "must define logits(hidden)")
        return head(hidden)

    def linear_head(self) -> LinearHead | None:
        """The map from states to logits if it is a matrix, else None. With a matrix the loss needs less memory if V is large."""
        return None

    def logits_map(self) -> Callable[[Tensor], Tensor]:
        """The function with which the loss computes logits: the linear head, or `logits` if only `logits` has been replaced."""
        own = _defined_in(self, "logits")
        replaced = "logits" in vars(self) or own not in (LanguageModel, _defined_in(self, "linear_head"))
        return self.logits if replaced else self.linear_head() or self.logits

    def cost(self, slots: int, sees: Visibility) -> Cost:
        """The cost of reading rows of `slots` slots with the visibility `sees`."""
        raise Unfinished(self, "must define cost(slots, sees)")

    def parameter_groups(self) -> dict[str, list[tuple[str, Parameter]]]:
        """The (name, parameter) pairs of each training group, by group name.

        Each parameter is in exactly one group; a parameter that two modules share is in the group of the first module. Groups
        `embedding` and `head`: the tables of tokens. Group `position`: learned positions. Group `matrix`: every other 2-D weight
        of a linear map (Muon may train these weights). Group `vector`: gains, biases, scalars and all other parameters. A mixer
        may add groups, such as `kernel` or `filter`; the low-rank maps beside frozen ones are the group `adapter`.
        """
        groups: dict[str, list[tuple[str, Parameter]]] = {group: [] for group in GROUPS}
        special = self._special_groups()
        for name, parameter in self.named_parameters():
            owner, _, own_name = name.rpartition(".")
            group = special.get(name) or _group(self.get_submodule(owner), own_name, parameter)
            groups.setdefault(group, []).append((name, parameter))
        return groups

    def parameter_counts(self) -> dict[str, int]:
        """The number of parameters by group; an assertion checks that the groups add up to the model's total."""
        counts = {group: sum(p.numel() for _, p in pairs) for group, pairs in self.parameter_groups().items()}
        total = sum(parameter.numel() for parameter in self.parameters())
        if sum(counts.values()) != total:
            raise AssertionError(f"the groups hold {sum(counts.values())} parameters, the model has {total}")
        return counts

    def _special_groups(self) -> dict[str, str]:
        """A table from full names of parameters to groups, for the parameters whose group a mixer chooses."""
        mixers = ((name, module) for name, module in self.named_modules() if isinstance(module, Mixer))
        return {f"{prefix}.{name}": group for prefix, mixer in mixers for name, group in mixer.special_groups().items()}


def _group(module: nn.Module, name: str, parameter: Parameter) -> str:
    """The training group of a parameter, from the role of the module that has the parameter, or from the module's class."""
    if parameter.ndim != 2:
        return "vector"
    role = getattr(module, "role", "embedding" if isinstance(module, nn.Embedding) else None)
    if role in ("embedding", "position", "head", "adapter"):
        return str(role)
    return "matrix" if name.endswith("weight") else "vector"


@dataclass(frozen=True)
class Reread(ModelState):
    """The state of a model without a usable `extend`: the (B, slots) tokens, which are all read again for each new token."""

    tokens: Tensor | None = None


def begin(model: LanguageModel, rows: int, slots: int | None = None) -> ModelState:
    """The state before the first token is read, for `rows` rows of at most `slots` slots (default: the model's longest row).

    Raises:
        BadInput: the model cannot read rows of `slots` slots.
    """
    room = model.max_length if slots is None else slots
    return model.begin(rows, room) if model.can_step() else Reread(slots=room, read=0)


def extend(model: LanguageModel, tokens: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
    """Return the (B, T_new, D) states of the next (B, T_new) tokens, and the model state after these tokens.

    The argument `state` must not be used again.

    Raises:
        ValueError: the state has no room for the tokens.
    """
    return _reread(model, tokens, state) if isinstance(state, Reread) else model.extend(tokens, state)


def _reread(model: LanguageModel, tokens: Tensor, state: Reread) -> tuple[Tensor, ModelState]:
    end = state.read + len(state.next_positions(tokens))
    row_tokens = tokens.new_zeros(len(tokens), state.slots) if state.tokens is None else state.tokens
    row_tokens[:, state.read : end] = tokens
    return model.hidden(row_tokens[:, :end], Ltr())[:, state.read :], Reread(state.slots, end, row_tokens)
