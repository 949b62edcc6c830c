"""What is audited: a module, the way an Example is read through it, its objective, and the lengths it is used at.

The checks learn everything about a model from `forward(module, example)`. So any torch module can be audited: one of Palinode, a
plain one that maps (B, T) ids to (B, T, V) logits, or a Hugging Face model that returns an object with `.logits`.
Legend: B rows, T slots, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from palinode.base.errors import BadInput, printable
from palinode.base.example import Draw, Example, Group, SpecialTokens
from palinode.base.objective import Objective, Progress
from palinode.base.seeds import generator

# (module, example) -> (B, T, V) logits in the example's own order of slots
Forward = Callable[[nn.Module, Example], Tensor]
# (vocabulary with special ids, slots of the longest row, seed) -> a new module of the same kind
Rebuild = Callable[[int, int, int], nn.Module]
# (module, pass) -> how many tokens back or ahead the module is built to see; None: the whole window
Reach = Callable[[nn.Module, Group], int | None]


MARKERS = ("bos", "eos", "pad", "mask", "unk", "sep", "cls", "decoder_start")
LONGEST_DOUBLED = 128  # tokens; twice a longer window costs more than it shows
# How a hint shows what to write.
FORWARD = "CheckOptions(forward=lambda model, example: model(example.inputs))"


class StateReader(Protocol):
    """How a model that keeps a state between calls is read in pieces. The checks hand its states back unopened.

    `keeps_state` says whether this module can be read in pieces. `begin` makes the state before the first slot of `rows` rows, with
    room for `slots` slots each. `extend` reads the next (B, T) tokens: their (B, T, D) hidden states, and the state after them.
    `logits` maps (.., D) hidden states to (.., V).
    """

    def keeps_state(self, module: nn.Module) -> bool: ...
    def begin(self, module: nn.Module, rows: int, slots: int) -> Any: ...
    def extend(self, module: nn.Module, tokens: Tensor, state: Any) -> tuple[Tensor, Any]: ...
    def logits(self, module: nn.Module, hidden: Tensor) -> Tensor: ...


def plain_forward(module: nn.Module, example: Example) -> Tensor:
    """Read an Example through a module that maps token ids to logits: (B, T) -> (B, T, V), or an object with `.logits`.

    Rows that are read from the end are flipped before the module and flipped back after it.

    Raises:
        BadInput: a pass needs an explicit mask, which a plain module cannot take.
    """
    parts = []
    for group, rows in example.by_group():
        if group.sees.native == "mask":
            message = f"the pass {group.name!r} needs an explicit mask; give check(...) a `forward` that applies it"
            raise BadInput(message, field="forward")
        tokens = example.inputs[rows]
        logits = _logits(module(tokens.flip(1) if group.sees.reads_from_end else tokens))
        parts.append(logits.flip(1) if group.sees.reads_from_end else logits)
    return torch.cat(parts)


@dataclass(frozen=True)
class Subject:
    """One model under audit.

    Attributes:
        name: the model's name in findings.
        module: the model. It is never changed; the audit works on copies.
        objective: what it is trained on. Its `may_inform` is the contract that the model must keep.
        specials: where the special ids start; ids below are content.
        vocab_size: V, the number of ids that the module takes.
        window_tokens: length of a training window; `evaluation_tokens` of an evaluation window. Both are always audited.
        max_window_tokens: longest window that the module takes.
        forward: reads an Example through a module of this kind.
        reach_tokens: how far the model is meant to see. None: as far as `reach` says, or the whole window without it.
        reach: how far a module of this kind is built to see.
        state: reads a module of this kind in pieces; None: it keeps no state.
        rebuild: makes the same kind of model for another vocabulary and length. C1 then also runs at lengths that the tables
            of `module` are too short for, and C2 at its own small size. Without it both use copies of `module`.
        rebuild_small: the same with at most 2 blocks of width 32, for canary training; default `rebuild`.
        trigger_ids: ids that may change how a row is read, such as one that ends a document; C1 always tries them.
        seed: the seed of every random number in the audit.
    """

    name: str
    module: nn.Module
    objective: Objective
    specials: SpecialTokens
    vocab_size: int
    window_tokens: int
    evaluation_tokens: int
    max_window_tokens: int
    forward: Forward = plain_forward
    reach_tokens: int | None = None
    reach: Reach | None = None
    state: StateReader | None = None
    rebuild: Rebuild | None = None
    rebuild_small: Rebuild | None = None
    trigger_ids: tuple[int, ...] = ()
    seed: int = 0

    @property
    def marker_ids(self) -> tuple[int, ...]:
        """The ids that may change how a row is read: `trigger_ids`, and those that a `config` of the module names."""
        config = getattr(self.module, "config", None)
        named = [getattr(config, f"{name}_token_id", None) for name in MARKERS]
        ids = [one for value in named for one in (value if isinstance(value, (list, tuple)) else [value])]
        own = [one for one in (*self.trigger_ids, *ids) if isinstance(one, int) and 0 <= one < self.content_tokens]
        return tuple(dict.fromkeys(own))

    @property
    def lengths_beyond(self) -> tuple[int, ...]:
        """Lengths in tokens beyond the longest used one. Two more, since a row may have one slot fewer than tokens; and twice it.

        Not on a GPU, where a position beyond a table ends the process.
        """
        longest = max(self.used_lengths)
        twice = (2 * longest,) if longest <= LONGEST_DOUBLED else ()
        return (longest + 1, longest + 2, *twice) if self.device.type == "cpu" else ()

    @property
    def content_tokens(self) -> int:
        """Number of ids that a corpus can hold."""
        return min(self.specials.first_id, self.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the module's parameters are (the CPU when it has none)."""
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    @property
    def used_lengths(self) -> tuple[int, ...]:
        """The lengths in tokens that the model is trained and evaluated at, each once."""
        return tuple(dict.fromkeys((self.window_tokens, self.evaluation_tokens)))

    def reach_in(self, group: Group) -> int | None:
        """How far in tokens the module is meant to see in this pass; None: the whole window.

        A model counts its reach in slots. The target of a slot may be the next token, so one token more may be seen.
        """
        if self.reach_tokens is not None or self.reach is None:
            return self.reach_tokens
        return self.reach(self.module, group)

    def example(self, windows: Tensor, draw: Draw) -> Example:
        """The objective's Example of (windows, window_tokens) ids with these decisions."""
        return self.objective.example(windows, draw, self.specials)

    def logits(self, module: nn.Module, example: Example) -> Tensor:
        """(B, T, V) logits of a copy of the subject's module, on the CPU.

        Raises:
            BadInput: the forward did not return one row of logits for each slot.
        """
        if not example.inputs.numel():  # ltr without a direction token has no slot for a window of one token
            return torch.zeros(*example.inputs.shape, self.vocab_size)
        logits = self.forward(module, example.to(self.device))
        if logits.shape[:2] != example.inputs.shape or logits.dim() != 3:
            shape = (*example.inputs.shape, "V")
            message = f"forward must return logits of shape {shape}, got {tuple(logits.shape)}"
            raise BadInput(message, field="forward", hint=_hint_of_shape(logits, example))
        return logits.cpu()

    def slots_of(self, window_tokens: int) -> int:
        """Slots per row that the objective makes of windows of this length."""
        draw = self.objective.draw(1, window_tokens, generator(self.seed, "audit", "slots"), Progress())
        return self.example(torch.zeros(1, window_tokens, dtype=torch.long), draw).inputs.shape[1]


def _hint_of_shape(logits: Tensor, example: Example) -> str:
    """The hint of the error for logits of a wrong shape: a model must give V numbers for each slot."""
    rows, slots = example.inputs.shape
    last_slot_alone = slots > 1 and (logits.dim() == 2 or (logits.dim() == 3 and logits.shape[1] == 1))
    if last_slot_alone and logits.shape[0] == rows:
        return f"those of the last slot alone; pass one that returns all: {FORWARD}"
    return f"pass one that does: {FORWARD}"


def _logits(output: Any) -> Tensor:
    """The logits in what a module returned: the tensor itself, its `.logits`, or the first entry of a tuple."""
    logits = getattr(output, "logits", output[0] if isinstance(output, tuple) and output else output)
    if not isinstance(logits, Tensor):
        keys = [key for key, value in output.items() if isinstance(value, Tensor)] if isinstance(output, dict) else []
        key = "logits" if "logits" in keys else keys[0] if keys else None
        taken = (
            FORWARD
            if key is None
            else FORWARD.replace("(example.inputs)", f"(example.inputs)[{printable(str(key), 20)!r}]")
        )
        message = f"the module returned {type(output).__name__}, not logits"
        raise BadInput(message, field="forward", hint=f"take them out of it: {taken}")
    return logits
