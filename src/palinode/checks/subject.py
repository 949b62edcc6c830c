"""The subject of an audit: a module, the way it reads an Example, its objective, and its training and evaluation lengths.

The checks learn everything about a model from `forward(module, example)`. So any torch module can be audited: a model of Palinode,
a plain module that maps (B, T) ids to (B, T, V) logits, or a Hugging Face model that returns an object with `.logits`.
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

# A function: (module, example) -> (B, T, V) logits in the example's own order of slots.
Forward = Callable[[nn.Module, Example], Tensor]
# A function: (vocabulary with special ids, slots of the longest row, seed) -> a new module of the same kind.
Rebuild = Callable[[int, int, int], nn.Module]
# A function: (module, pass) -> the number of tokens back or ahead that the module is built to see; None: the whole window.
Reach = Callable[[nn.Module, Group], int | None]


MARKERS = ("bos", "eos", "pad", "mask", "unk", "sep", "cls", "decoder_start")
LONGEST_DOUBLED = 128  # in tokens: twice the length of a longer window would take too much time
# The example of a `forward` that a hint shows.
FORWARD = "CheckOptions(forward=lambda model, example: model(example.inputs))"


class StateReader(Protocol):
    """The functions that read a model in pieces, when the model keeps a state between calls. The checks never look inside a state.

    `keeps_state` says whether this module can be read in pieces. `begin` makes the state before the first slot of `rows` rows, with
    room for `slots` slots in each row. `extend` reads the next (B, T) tokens; it returns their (B, T, D) hidden states and the
    state after them. `logits` maps (.., D) hidden states to (.., V) logits. `of_flipped_rows` is the reader of rows that were
    flipped, as their text is read from its end.
    """

    def keeps_state(self, module: nn.Module) -> bool: ...
    def begin(self, module: nn.Module, rows: int, slots: int) -> Any: ...
    def extend(self, module: nn.Module, tokens: Tensor, state: Any) -> tuple[Tensor, Any]: ...
    def logits(self, module: nn.Module, hidden: Tensor) -> Tensor: ...
    def of_flipped_rows(self) -> StateReader: ...


def plain_forward(module: nn.Module, example: Example) -> Tensor:
    """Read an Example through a module that maps token ids to logits: (B, T) -> (B, T, V), or an object with `.logits`.

    Rows that are read from the end are flipped before the module reads them, and their logits are flipped back.

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
        objective: the objective that the model is trained on. Its `may_inform` is the contract that the model must keep.
        specials: the object that says where the special ids start; lower ids are content.
        vocab_size: V, the number of ids that the module takes.
        window_tokens: the length of a training window. It is always audited.
        evaluation_tokens: the length of an evaluation window. It is always audited.
        max_window_tokens: the length of the longest window that the module takes.
        forward: the function that reads an Example through a module of this kind.
        reach_tokens: the number of tokens that the model is built to see. None: as many as `reach` says, else the whole window.
        reach: the function that says how many tokens a module of this kind is built to see.
        state: the reader of a module of this kind in pieces; None: the module keeps no state.
        rebuild: the function that makes the same kind of model for another vocabulary and length. With `rebuild`, C1 also runs at
            lengths that are too long for the tables of `module`, and C2 trains a small model. Without `rebuild`, C1 and C2 use
            copies of `module`.
        rebuild_small: a function like `rebuild` that makes at most 2 blocks of width 32, for canary training; default: `rebuild`.
        trigger_ids: the ids that may change how a row is read, such as the id that ends a document; C1 always tries them.
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
        """The ids that may change how a row is read: `trigger_ids`, and the ids that a `config` of the module names."""
        config = getattr(self.module, "config", None)
        named = [getattr(config, f"{name}_token_id", None) for name in MARKERS]
        ids = [one for value in named for one in (value if isinstance(value, (list, tuple)) else [value])]
        own = [one for one in (*self.trigger_ids, *ids) if isinstance(one, int) and 0 <= one < self.content_tokens]
        return tuple(dict.fromkeys(own))

    @property
    def lengths_beyond(self) -> tuple[int, ...]:
        """The lengths in tokens beyond the longest used length: one token more, two tokens more (a row may have one slot fewer than
        tokens), and twice as many tokens if the longest length has at most 128.

        The result is empty on a GPU, where a position beyond the end of a table would end the process.
        """
        longest = max(self.used_lengths)
        twice = (2 * longest,) if longest <= LONGEST_DOUBLED else ()
        return (longest + 1, longest + 2, *twice) if self.device.type == "cpu" else ()

    @property
    def content_tokens(self) -> int:
        """The number of ids that a corpus can contain."""
        return min(self.specials.first_id, self.vocab_size)

    @property
    def device(self) -> torch.device:
        """The device of the module's parameters (the CPU when the module has none)."""
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    @property
    def used_lengths(self) -> tuple[int, ...]:
        """The lengths in tokens that the model is trained and evaluated at, each once."""
        return tuple(dict.fromkeys((self.window_tokens, self.evaluation_tokens)))

    def reach_in(self, group: Group) -> int | None:
        """The number of tokens that the module is built to see in this pass; None: the whole window.

        A model counts its reach in slots. The target of a slot may be the next token, so one more token may be seen.
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
        """The number of slots per row that the objective makes of windows of this length."""
        draw = self.objective.draw(1, window_tokens, generator(self.seed, "audit", "slots"), Progress())
        return self.example(torch.zeros(1, window_tokens, dtype=torch.long), draw).inputs.shape[1]


def _hint_of_shape(logits: Tensor, example: Example) -> str:
    """The hint of the error about logits of a wrong shape: a model must give V numbers for each slot."""
    rows, slots = example.inputs.shape
    last_slot_alone = slots > 1 and (logits.dim() == 2 or (logits.dim() == 3 and logits.shape[1] == 1))
    if last_slot_alone and logits.shape[0] == rows:
        return f"those of the last slot alone; pass one that returns all: {FORWARD}"
    return f"pass one that does: {FORWARD}"


def _logits(output: Any) -> Tensor:
    """The logits in the output of a module: the tensor itself, its `.logits`, or the first entry of a tuple."""
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
