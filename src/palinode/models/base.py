"""What a language model is here: tokens and a visibility in, hidden states and logits out. It knows no losses, data or steps.

A model may add auxiliary terms to the loss in training, never in evaluation. A term that compares two states can be made small by
making both vanish, which says nothing about their agreement. So every term comes with measurements that show such a collapse.
With `begin` and `extend` a row is read once, left to right (a row that reads from the end is flipped first), and each further token
costs one slot. `extend` reads the next tokens, a whole prompt or one token, and gives the last states of a pass over all tokens so
far. A model that cannot step (its own `hidden`, a mixer without `extend`) reads all tokens again each time, with the same result.
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
from palinode.base.errors import Unfinished
from palinode.base.head import LinearHead
from palinode.base.visibility import Ltr, Visibility
from palinode.models.cost import Cost
from palinode.models.mixers.base import Mixer, Reading
from palinode.models.parts.state import ModelState, continues
from palinode.models.parts.state import defined_in as _defined_in


@dataclass(frozen=True)
class AuxiliaryTerm:
    """One term, from one reading or several.

    Attributes:
        value: scalar with gradient, the mean over all rows and slots read; training adds coefficient * value to the loss.
        coefficient: above 0.
        rows: how many rows the mean is over; its weight when means are averaged.
        measured: detached scalars for the record. Names in use: `value` (the score without a variance floor), `shuffled` (the same
            score with the pairs shuffled across rows), `gain` and `least_gain` (of |gain| of the norms before the term: the
            smallest mean, and the smallest entry; 1 without learned gains), `variance` (over rows and slots, mean over the
            features, of the side with the smaller one).
    """

    value: Tensor
    coefficient: float
    rows: int
    measured: Mapping[str, Tensor]


Terms = Mapping[str, AuxiliaryTerm]


class PairTerm(nn.Module):
    """Base of the terms that compare two states. The audit trains each of them on noise before a run.

    Attributes:
        width: D of both states.
    """

    width: int

    def forward(self, left: Tensor, right: Tensor, reading: Reading) -> AuxiliaryTerm:
        """The term of two (B, T, D) states of the same slots."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(left, right, reading)")

    def aggregated(self, left: Tensor, reading: Reading) -> Tensor:
        """(B, T, D) that `right` is compared with; slot i may depend only on the slots that the reading allows it."""
        raise NotImplementedError(f"{type(self).__name__} must define aggregated(left, reading)")


def together(readings: Sequence[Terms]) -> dict[str, AuxiliaryTerm]:
    """The terms of several readings, averaged by name with the rows as weights."""
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
    """The measurements of several terms of one name, averaged with the rows as weights."""
    rows = sum(term.rows for term in terms)
    weighted = [({"value": term.value.detach(), **term.measured}, term.rows / rows) for term in terms]
    names = dict.fromkeys(name for scalars, _ in weighted for name in scalars)
    return {
        name: torch.stack([scalars[name] * share for scalars, share in weighted if name in scalars]).sum()
        for name in names
    }


GROUPS = ("embedding", "position", "matrix", "head", "vector")


class ModelConfig(Part):
    """Base of all model configs: a model chosen by name, or a user's own."""

    largest: ClassVar[int] = LARGEST_SIZE

    def build(self, vocab_size: int, max_length: int, seed: int) -> LanguageModel:
        """The model with its first weights: a pure function of the config and these three.

        Args:
            vocab_size: V, special tokens included.
            max_length: slots of the longest row that the model must take.
            seed: the run's seed; the weights come from its `init` stream.
        """
        raise Unfinished(self, "must define build(vocab_size, max_length, seed)")

    def with_terms_times(self, factor: float) -> ModelConfig:
        """The same model with the coefficients of its auxiliary terms multiplied; the config itself when it has no terms."""
        return self


class LanguageModel(nn.Module):
    """Base of all models. Rows that read from the end never reach it: `models/direction.py` flips them at the edge."""

    # The methods that a recipe with `compile` runs through torch.compile.
    compiled_methods: ClassVar[tuple[str, ...]] = ("hidden",)
    vocab_size: int
    max_length: int

    def hidden(self, tokens: Tensor, sees: Visibility) -> Tensor:
        """(B, T) token ids -> (B, T, D) states, each depending only on the slots that `sees` allows."""
        raise Unfinished(self, "must define hidden(tokens, sees)")

    def hidden_and_terms(self, tokens: Tensor, sees: Visibility) -> tuple[Tensor, Mapping[str, AuxiliaryTerm]]:
        """The states of `hidden` and, in training mode only, auxiliary terms of the loss by name. Evaluation never calls it."""
        return self.hidden(tokens, sees), {}

    def pair_terms(self) -> Mapping[str, PairTerm]:
        """The terms that compare two states, by name: the audit trains each of them on noise."""
        return {}

    def depths(self) -> int:
        """How many blocks L can be cut off from the top, one by one; 0: the model has no `residuals` and `finished`, so none."""
        return 0

    def residuals(self, tokens: Tensor, sees: Visibility) -> Iterator[Tensor]:
        """The (B, T, D) after 1, 2, .. L blocks, each before the final norm; a block runs when its states are requested."""
        raise NotImplementedError(f"{type(self).__name__} cannot be cut: it must define depths, residuals and finished")

    def finished(self, residual: Tensor) -> Tensor:
        """(B, T, D) after any number of blocks -> the states that `hidden` would give if there were no more blocks."""
        raise NotImplementedError(f"{type(self).__name__} cannot be cut: it must define depths, residuals and finished")

    def can_be_cut(self) -> bool:
        """Whether `residuals` shows what `hidden` does: False when a subclass has replaced only `hidden`."""
        return self.depths() > 0 and issubclass(_defined_in(self, "residuals"), _defined_in(self, "hidden"))

    def reach_slots(self, sees: Visibility) -> int | None:
        """The greatest distance in slots at which a slot's state depends on another slot, through all layers; None: no limit."""
        return None

    def can_step(self) -> bool:
        """Whether `extend` continues what `hidden` does, so that one more token costs one slot.

        Otherwise the function `extend` of this file reads the whole row again for each token.
        """
        return continues(self, "hidden")

    def begin(self, rows: int, slots: int) -> ModelState:
        """The state before the first token of `rows` rows of at most `slots` slots, read left to right."""
        raise NotImplementedError(f"{type(self).__name__} cannot step: it must define begin and extend")

    def extend(self, tokens: Tensor, state: Any) -> tuple[Tensor, ModelState]:
        """(B, T_new, D) states of the next (B, T_new) tokens, and the next state.

        They equal the last T_new slots of `hidden` over all tokens so far, left to right. The state comes from `begin` or `extend`
        of this model and must not be used again.

        Raises:
            ValueError: the state has no room for the tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot step: it must define begin and extend")

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V), float32 or better, soft-cap included. By default the linear head."""
        head = self.linear_head()
        if head is None:
            raise Unfinished(self, "must define logits(hidden)")
        return head(hidden)

    def linear_head(self) -> LinearHead | None:
        """The map from states to logits where it is a matrix: it saves the loss memory at large vocabularies."""
        return None

    def logits_map(self) -> Callable[[Tensor], Tensor]:
        """`logits` for the loss: its matrix form, unless a subclass or the object itself has replaced only `logits`."""
        own = _defined_in(self, "logits")
        replaced = "logits" in vars(self) or own not in (LanguageModel, _defined_in(self, "linear_head"))
        return self.logits if replaced else self.linear_head() or self.logits

    def cost(self, slots: int, sees: Visibility) -> Cost:
        """The cost of reading rows of `slots` slots with this visibility."""
        raise Unfinished(self, "must define cost(slots, sees)")

    def parameter_groups(self) -> dict[str, list[tuple[str, Parameter]]]:
        """Group name -> its (name, parameter) pairs; each parameter is in exactly one group, a tied one in its first owner's.

        embedding and head: the token tables; position: learned positions; matrix: every other 2-D weight of a linear map (Muon
        may take these); vector: gains, biases, scalars and the rest. A mixer may add groups (slope, kernel, filter, features).
        """
        groups: dict[str, list[tuple[str, Parameter]]] = {group: [] for group in GROUPS}
        special = self._special_groups()
        for name, parameter in self.named_parameters():
            owner, _, own_name = name.rpartition(".")
            group = special.get(name) or _group(self.get_submodule(owner), own_name, parameter)
            groups.setdefault(group, []).append((name, parameter))
        return groups

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters by group; asserted to add up to the model's total."""
        counts = {group: sum(p.numel() for _, p in pairs) for group, pairs in self.parameter_groups().items()}
        total = sum(parameter.numel() for parameter in self.parameters())
        if sum(counts.values()) != total:
            raise AssertionError(f"the groups hold {sum(counts.values())} parameters, the model has {total}")
        return counts

    def _special_groups(self) -> dict[str, str]:
        """Full parameter name -> group, for the parameters that a mixer puts into a group."""
        mixers = ((name, module) for name, module in self.named_modules() if isinstance(module, Mixer))
        return {f"{prefix}.{name}": group for prefix, mixer in mixers for name, group in mixer.special_groups().items()}


def _group(module: nn.Module, name: str, parameter: Parameter) -> str:
    """The group of a module's own parameter: from the module's role, or from its class where it has no role."""
    if parameter.ndim != 2:
        return "vector"
    role = getattr(module, "role", "embedding" if isinstance(module, nn.Embedding) else None)
    if role in ("embedding", "position", "head"):
        return str(role)
    return "matrix" if name.endswith("weight") else "vector"


@dataclass(frozen=True)
class Reread(ModelState):
    """The state of a model that cannot step: the (B, slots) tokens, to read them again."""

    tokens: Tensor | None = None


def begin(model: LanguageModel, rows: int, slots: int | None = None) -> ModelState:
    """The state before the first token of `rows` rows of at most `slots` slots (default: the model's longest row).

    Raises:
        BadInput: the model takes no rows of that length.
    """
    room = model.max_length if slots is None else slots
    return model.begin(rows, room) if model.can_step() else Reread(slots=room, read=0)


def extend(model: LanguageModel, tokens: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
    """(B, T_new, D) states of the next (B, T_new) tokens, and the next state; the given state must not be used again.

    Raises:
        ValueError: the state has no room for the tokens.
    """
    return _reread(model, tokens, state) if isinstance(state, Reread) else model.extend(tokens, state)


def _reread(model: LanguageModel, tokens: Tensor, state: Reread) -> tuple[Tensor, ModelState]:
    end = state.read + len(state.next_positions(tokens))
    row_tokens = tokens.new_zeros(len(tokens), state.slots) if state.tokens is None else state.tokens
    row_tokens[:, state.read : end] = tokens
    return model.hidden(row_tokens[:, :end], Ltr())[:, state.read :], Reread(state.slots, end, row_tokens)
