"""An Example: the inputs and the targets of one batch, the source of every token, and the slots that each slot may read.

Objectives make Examples, models read Examples, losses sum over Examples, and the audit checks Examples. These four parts of
Palinode share no other data. Letters: B rows, T slots of a row. A row is made from one window of `window_tokens` tokens; one window
may give several rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from palinode.base.visibility import Visibility

NO_SOURCE = -1
EXAMPLE_TENSORS = ("inputs", "input_source", "targets", "target_source", "loss_weight", "window_row")
SPECIAL_NAMES = ("[L]", "[R]", "[MASK]", "[PRE]", "[SUF]", "[MID]", "[EOM]", "[Rm]", "[Sm]", "[Xm]", "[END]")


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens. They follow the ids of the tokenizer.

    Every arm has the same special ids, even if it does not use them.
    """

    first_id: int

    def __getitem__(self, name: str) -> int:
        return self.first_id + SPECIAL_NAMES.index(name)

    @property
    def vocab_size(self) -> int:
        """V, the size of the model's vocabulary: the ids of the tokenizer and the special tokens."""
        return self.first_id + len(SPECIAL_NAMES)


@dataclass(frozen=True)
class Group:
    """One pass: consecutive rows of an Example that are read in the same way. The name of a pass is for instance `ltr` or `rtl`."""

    name: str
    sees: Visibility
    rows: int


@dataclass(frozen=True)
class Windows:
    """A batch of windows as the data gives them. Here B counts windows, and T is `window_tokens`.

    Attributes:
        tokens: (B, T) token ids.
        answers: (B, T) boolean. True marks the answers of a task, which are the tokens that the model is scored on. None for text.
        slices: name -> numbers of a task: one per window (B,), such as the number of answers, or one per token (B, T), such as
            how many tokens ago an answer was seen (-1 for a token without such a number).
        starts: (B,) the index in the split of the first token of each window; None for windows without a place in a split.
    """

    tokens: Tensor
    answers: Tensor | None = None
    slices: Mapping[str, Tensor] = field(default_factory=dict)
    starts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def together(cls, parts: Sequence[Windows]) -> Self:
        """Join several batches of windows of one length into one batch. The joined windows have no place in a split."""
        answers = [part.answers for part in parts if part.answers is not None]
        return cls(
            torch.cat([part.tokens for part in parts]),
            torch.cat(answers) if answers else None,
            {name: torch.cat([part.slices[name] for part in parts]) for name in parts[0].slices},
        )

    def decisions(self, draw: Draw) -> Draw:
        """The draw for these windows, with the `answers` that the data marks: some objectives hide the answers from the model."""
        return draw if self.answers is None else Draw({**draw.decisions, "answers": self.answers})


@dataclass(frozen=True)
class Draw:
    """Every decision of one batch by name. Each tensor has one entry per window, and no tensor is computed from token ids.

    The decisions are random, except `answers`: the data of a task marks the answers.
    """

    decisions: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.decisions[name]

    def equals(self, other: Draw) -> bool:
        """Whether this draw and another draw hold the same decisions."""
        same_names = self.decisions.keys() == other.decisions.keys()
        return same_names and all(torch.equal(decision, other[name]) for name, decision in self.decisions.items())

    def of_row(self, window: int) -> Draw:
        """The decisions for one window, without the leading dimension."""
        return Draw({name: decision[window] for name, decision in self.decisions.items()})

    def of_windows(self, first: int, count: int) -> Draw:
        """The decisions for `count` windows, from the window `first` on."""
        return Draw({name: decision[first : first + count] for name, decision in self.decisions.items()})

    def repeated(self, count: int) -> Draw:
        """The decisions of the first window, repeated `count` times, so that changed copies of a window get the same decisions."""
        first = {name: decision[:1] for name, decision in self.decisions.items()}
        return Draw({name: decision.expand(count, *decision.shape[1:]) for name, decision in first.items()})


@dataclass(frozen=True)
class Example:
    """One batch that a model can read and a loss can score.

    Attributes:
        inputs: (B, T) token ids, in the order of the window if the objective keeps this order.
        input_source: (B, T) the index in the window of each input; -1 for a special, masked or random token.
        targets: (B, T) the id to predict at each slot.
        target_source: (B, T) the index in the window of each target; -1 for a special target.
        loss_weight: (B, T) float32; a slot with weight 0 is not scored.
        window_row: (B,) the window of the batch that each row was made from.
        groups: the passes, in the order of their rows; the numbers of rows add up to B.
        loss_denominator: the number that divides the weighted sum of nats; None: the sum of the weights.
    """

    inputs: Tensor
    input_source: Tensor
    targets: Tensor
    target_source: Tensor
    loss_weight: Tensor
    window_row: Tensor
    groups: tuple[Group, ...]
    loss_denominator: float | None = None

    def __post_init__(self) -> None:
        rows = sum(group.rows for group in self.groups)
        if rows != self.inputs.shape[0]:
            raise ValueError(f"the groups cover {rows} rows, the inputs have {self.inputs.shape[0]}")
        for name in EXAMPLE_TENSORS[:-1]:
            if (shape := getattr(self, name).shape) != self.inputs.shape:
                raise ValueError(f"{name} is {tuple(shape)}, inputs are {tuple(self.inputs.shape)}")

    @property
    def denominator(self) -> float:
        """The number by which the weighted sum of nats is divided."""
        return float(self.loss_weight.sum()) if self.loss_denominator is None else self.loss_denominator

    def by_group(self) -> Iterator[tuple[Group, slice]]:
        """Yield each pass with the slice of its rows. A pass without rows is left out."""
        start = 0
        for group in self.groups:
            if group.rows:
                yield group, slice(start, start + group.rows)
            start += group.rows

    def to(self, device: torch.device) -> Example:
        """The same example on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in EXAMPLE_TENSORS})


def one_pass(
    windows: Tensor,
    *,
    name: str,
    sees: Visibility,
    input_source: Tensor,
    target_source: Tensor,
    special_input: int | Tensor = 0,
    special_target: int | Tensor = 0,
    loss_weight: Tensor | None = None,
    window_row: Tensor | None = None,
) -> Example:
    """Build an Example of one pass from index arrays. The ids are gathered from the windows, so the ids agree with the sources.

    Args:
        windows: (windows, window_tokens) token ids.
        input_source, target_source: (T,) or (B, T) indices in the window; -1 where the slot holds a special token.
        special_input, special_target: the id, or the ids of the same shape, for the slots whose source is -1.
        loss_weight: (T,) or (B, T) the weight of each slot; default: 1 where the target has a source, else 0.
        window_row: (B,) the index of the window that each row reads; default: every window once, in order.
    """
    rows = torch.arange(windows.shape[0], device=windows.device) if window_row is None else window_row
    chosen = windows[rows]
    input_source, inputs = _gather(chosen, input_source, special_input)
    target_source, targets = _gather(chosen, target_source, special_target)
    scored = (target_source != NO_SOURCE) if loss_weight is None else loss_weight
    weight = scored.to(device=windows.device, dtype=torch.float32).expand(inputs.shape)
    return Example(inputs, input_source, targets, target_source, weight, rows, (Group(name, sees, len(rows)),))


def joined(examples: list[Example], loss_denominator: float | None = None) -> Example:
    """Join several passes over the same batch into one Example, which a model reads at once."""
    if len(examples) == 1:
        return replace(examples[0], loss_denominator=loss_denominator)
    together = {name: torch.cat([getattr(example, name) for example in examples]) for name in EXAMPLE_TENSORS}
    groups = tuple(group for example in examples for group in example.groups)
    return Example(**together, groups=groups, loss_denominator=loss_denominator)


def _gather(chosen: Tensor, source: Tensor, special: int | Tensor) -> tuple[Tensor, Tensor]:
    """(B, T) sources and (B, T) ids from (B, window_tokens) windows; the id is `special` where the source is -1."""
    source = source.to(chosen.device)
    spread = (source if source.dim() == 2 else source[None]).expand(chosen.shape[0], source.shape[-1])
    ids = chosen.gather(1, spread.clamp_min(0)) if chosen.shape[1] else torch.zeros_like(spread)
    filler = torch.as_tensor(special, device=chosen.device, dtype=ids.dtype)
    return spread, torch.where(spread == NO_SOURCE, filler, ids)
