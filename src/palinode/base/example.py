"""The hinge: an Example says what is predicted from what, where every token came from, and what each slot may see.

Objectives make Examples, models read them, losses sum over them, the audit checks them; none of these rooms knows another.
Legend: B windows, N tokens a window, R rows (a window may be read twice: R >= B), S slots a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from palinode.base.visibility import Visibility

NO_SOURCE = -1
SPECIAL_NAMES = ("[L]", "[R]", "[MASK]", "[PRE]", "[SUF]", "[MID]", "[EOM]", "[Rm]", "[Sm]", "[Xm]", "[END]")


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens, appended to the tokenizer's vocabulary: the same for every arm, used or not."""

    first_id: int

    def __getitem__(self, name: str) -> int:
        return self.first_id + SPECIAL_NAMES.index(name)

    @property
    def vocab_size(self) -> int:
        """The model's vocabulary: the tokenizer's and the special tokens."""
        return self.first_id + len(SPECIAL_NAMES)


@dataclass(frozen=True)
class Group:
    """Consecutive rows of an Example that are read the same way: one pass, with a name such as `ltr` or `rtl`."""

    name: str
    sees: Visibility
    rows: int


@dataclass(frozen=True)
class Windows:
    """A batch of windows, as the data has them.

    Attributes:
        tokens: (B, N) token ids.
        answers: (B, N) boolean, of a task: the tokens that a reader is asked for; None for text.
        slices: by name one number for each window of a task (B,), such as how many answers it has, or for each token (B, N), such
            as how far back an answer was seen, -1 where a token has none.
    """

    tokens: Tensor
    answers: Tensor | None = None
    slices: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def together(cls, parts: Sequence[Windows]) -> Windows:
        """Windows of one length and one kind as one batch."""
        answers = [part.answers for part in parts if part.answers is not None]
        return cls(
            torch.cat([part.tokens for part in parts]),
            torch.cat(answers) if answers else None,
            {name: torch.cat([part.slices[name] for part in parts]) for name in parts[0].slices},
        )

    def decisions(self, draw: Draw) -> Draw:
        """The draw for these windows, with the `answers` that the data marks, for objectives that hide them."""
        return draw if self.answers is None else Draw({**draw.decisions, "answers": self.answers})


@dataclass(frozen=True)
class Draw:
    """Every decision of one batch, by name; each tensor has one entry per window (B, ...), none is computed from token ids.

    All but `answers` are random; those are marked by the data, where it is a task.
    """

    decisions: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.decisions[name]

    def of_row(self, window: int) -> Draw:
        """The decisions made for one window (the leading dimension is dropped)."""
        return Draw({name: decision[window] for name, decision in self.decisions.items()})

    def repeated(self, count: int) -> Draw:
        """The decisions of the first window for `count` windows: the audit rebuilds perturbed copies with one Draw."""
        return Draw(
            {name: decision[:1].expand(count, *decision.shape[1:]) for name, decision in self.decisions.items()}
        )


@dataclass(frozen=True)
class Example:
    """One batch, ready to be read and scored.

    Attributes:
        inputs: (R, S) token ids, in natural window order where the objective has one.
        input_source: (R, S) window index each input came from, -1 for a special, masked or random token.
        targets: (R, S) id to predict at that slot.
        target_source: (R, S) window index of the target, -1 for a special target.
        loss_weight: (R, S) float32; 0 is not scored.
        window_row: (R,) which window of the batch each row was made from.
        groups: the passes; their rows add up to R, in order.
        loss_denominator: what the weighted sum of nats is divided by; None means the sum of the weights.
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
        for name in ("input_source", "targets", "target_source", "loss_weight"):
            if getattr(self, name).shape != self.inputs.shape:
                raise ValueError(f"{name} is {tuple(getattr(self, name).shape)}, inputs are {tuple(self.inputs.shape)}")

    @property
    def denominator(self) -> float:
        """What the weighted sum of nats is divided by."""
        return float(self.loss_weight.sum()) if self.loss_denominator is None else self.loss_denominator

    def by_group(self) -> Iterator[tuple[Group, slice]]:
        """Each pass with the slice of rows it covers (passes without rows are left out)."""
        start = 0
        for group in self.groups:
            if group.rows:
                yield group, slice(start, start + group.rows)
            start += group.rows

    def to(self, device: torch.device) -> Example:
        """The same example on another device."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("inputs", "input_source", "targets", "target_source", "loss_weight", "window_row")
        }
        return replace(self, **moved)


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
    """Build an Example of one pass from index arrays; ids are gathered from the windows, so provenance is true by construction.

    Args:
        windows: (B, N) token ids.
        input_source, target_source: (S,) or (R, S) window indices, -1 where the slot holds a special token.
        special_input, special_target: the id, or ids of the same shape, where the source is -1.
        loss_weight: (S,) or (R, S); default 1 wherever the target has a source.
        window_row: (R,) which window each row reads; default all windows once, in order.
    """
    rows = torch.arange(windows.shape[0], device=windows.device) if window_row is None else window_row
    chosen = windows[rows]
    input_source, inputs = _gather(chosen, input_source, special_input)
    target_source, targets = _gather(chosen, target_source, special_target)
    scored = (target_source != NO_SOURCE) if loss_weight is None else loss_weight
    weight = scored.to(device=windows.device, dtype=torch.float32).expand(inputs.shape)
    return Example(inputs, input_source, targets, target_source, weight, rows, (Group(name, sees, len(rows)),))


def joined(examples: list[Example], loss_denominator: float | None = None) -> Example:
    """Several passes over the same batch as one Example, so that a model can read them together."""
    if len(examples) == 1:
        return replace(examples[0], loss_denominator=loss_denominator)
    fields = ("inputs", "input_source", "targets", "target_source", "loss_weight", "window_row")
    together = {name: torch.cat([getattr(example, name) for example in examples]) for name in fields}
    groups = tuple(group for example in examples for group in example.groups)
    return Example(**together, groups=groups, loss_denominator=loss_denominator)


def _gather(chosen: Tensor, source: Tensor, special: int | Tensor) -> tuple[Tensor, Tensor]:
    """(R, S) sources and ids from (R, N) windows; `special` where the source is -1."""
    source = source.to(chosen.device)
    spread = (source if source.dim() == 2 else source[None]).expand(chosen.shape[0], source.shape[-1])
    ids = chosen.gather(1, spread.clamp_min(0)) if chosen.shape[1] else torch.zeros_like(spread)
    filler = torch.as_tensor(special, device=chosen.device, dtype=ids.dtype)
    return spread, torch.where(spread == NO_SOURCE, filler, ids)
