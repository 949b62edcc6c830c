"""What is audited: a module, the way an Example is read through it, the objective, and the lengths it is used at.

Everything the audit learns about a model comes from `forward(module, example)`, so any torch module can be audited: Palinode's
own, a plain one that maps (R, S) ids to (R, S, V) logits, or a Hugging Face model that returns an object with `.logits`.
Legend: B windows, N tokens of a window, R rows, S slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from palinode.base.errors import BadInput
from palinode.base.example import Draw, Example, Group, SpecialTokens
from palinode.base.seeds import generator
from palinode.models.base import LanguageModel, ModelConfig
from palinode.models.direction import logits_for
from palinode.objectives import Objective, Progress

AUDIT_VOCABULARY = (
    64  # content ids that C1 needs: distinct ones for the gradient form, few enough that the head costs nothing
)
LEAST_HEAD_WIDTH = 16
Forward = Callable[[nn.Module, Example], Tensor]  # (R, S, V) logits in the example's own slot order
Rebuild = Callable[
    [int, int, int], nn.Module
]  # (vocabulary with specials, longest row in slots, seed) -> a fresh module


@dataclass(frozen=True)
class Subject:
    """One model under audit.

    Attributes:
        name: what findings call it.
        module: the model; never changed, the audit works on copies.
        objective: what it is trained on; its `may_inform` is the contract.
        forward: reads an Example through a module of this kind.
        specials: where the special ids start; ids below are content.
        vocab_size: ids the module takes, V.
        window_tokens: N in training; `evaluation_tokens` in evaluation. Both lengths are always audited.
        max_window_tokens: longest window the module takes.
        reach_tokens: how far the model is meant to see; None: as far as it says itself, or the whole window.
        rebuild: makes the same kind of model for another vocabulary and length: C1 then runs at lengths the arm's own tables
            would not take, C2 at its own tiny size. Without it both use copies of `module`.
        rebuild_small: the same, at most 2 blocks of width 32 (canary training); default `rebuild`.
        seed: of every random number in the audit.
    """

    name: str
    module: nn.Module
    objective: Objective
    forward: Forward
    specials: SpecialTokens
    vocab_size: int
    window_tokens: int
    evaluation_tokens: int
    max_window_tokens: int
    reach_tokens: int | None = None
    rebuild: Rebuild | None = None
    rebuild_small: Rebuild | None = None
    seed: int = 0

    @property
    def content_tokens(self) -> int:
        """Number of ids that a corpus can hold."""
        return min(self.specials.first_id, self.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the module's parameters are (the CPU when it has none)."""
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    def reach_in(self, group: Group) -> int | None:
        """How far in tokens the module is meant to see in this pass; None: the whole window.

        What a model of ours says in slots is taken for tokens: a target may stand one slot beside its own, so one more may be seen.
        """
        if self.reach_tokens is not None or not isinstance(self.module, LanguageModel):
            return self.reach_tokens
        return self.module.reach_slots(group.sees)

    def example(self, windows: Tensor, draw: Draw) -> Example:
        """The objective's Example of (B, N) windows with these decisions."""
        return self.objective.example(windows, draw, self.specials)

    def logits(self, module: nn.Module, example: Example) -> Tensor:
        """(R, S, V) logits of a copy of the subject's module, on the CPU.

        Raises:
            BadInput: the forward did not return one row of logits for each slot.
        """
        if not example.inputs.numel():  # a bare objective makes no slot of a window of one token
            return torch.zeros(*example.inputs.shape, self.vocab_size)
        logits = self.forward(module, example.to(self.device))
        if logits.shape[:2] != example.inputs.shape or logits.dim() != 3:
            wanted = (*example.inputs.shape, "V")
            raise BadInput(f"forward must return logits of shape {wanted}, got {tuple(logits.shape)}", field="forward")
        return logits.cpu()


def plain_forward(module: nn.Module, example: Example) -> Tensor:
    """Read an Example through a module that maps token ids to logits: (R, S) -> (R, S, V), or an object with `.logits`.

    Rows that read from the end are flipped before the module and flipped back after it.

    Raises:
        BadInput: a pass needs an explicit mask, which a plain module has no place for.
    """
    parts = []
    for group, rows in example.by_group():
        if group.sees.native == "mask":
            raise BadInput(
                f"the pass {group.name!r} needs an explicit mask; give check(...) a `forward` that applies it",
                field="forward",
            )
        tokens = example.inputs[rows]
        logits = _logits(module(tokens.flip(1) if group.sees.reads_from_end else tokens))
        parts.append(logits.flip(1) if group.sees.reads_from_end else logits)
    return torch.cat(parts)


def default_forward(module: nn.Module) -> Forward:
    """Palinode's own reading for its own models, the plain one for every other module."""
    return _palinode_forward if isinstance(module, LanguageModel) else plain_forward


def subject_of_config(
    config: ModelConfig,
    objective: Objective,
    *,
    tokenizer_vocab: int,
    window_tokens: int,
    evaluation_tokens: int | None = None,
    seed: int = 0,
    name: str = "model",
) -> Subject:
    """An arm as a subject, before any training: its config rebuilt small enough to audit in seconds.

    C1 keeps up to 4 blocks of width 128 (every arm of the demo is audited at its own size), C2 up to 2 blocks of width 32: a
    canary of width 64 alarms no sooner and takes twice the time.
    """
    evaluation = evaluation_tokens or window_tokens
    flow_size, canary_size = small_config(config, 4, 128), small_config(config, 2, 32)
    specials = SpecialTokens(min(tokenizer_vocab, AUDIT_VOCABULARY))
    longest = max(window_tokens, evaluation)
    subject = Subject(
        name=name,
        module=nn.Identity(),
        objective=objective,
        forward=_palinode_forward,
        specials=specials,
        vocab_size=specials.vocab_size,
        window_tokens=window_tokens,
        evaluation_tokens=evaluation,
        max_window_tokens=longest,
        rebuild=flow_size.build,
        rebuild_small=canary_size.build,
        seed=seed,
    )
    return replace(subject, module=flow_size.build(specials.vocab_size, slots_needed(subject, longest), seed))


def small_config(config: ModelConfig, most_layers: int, most_width: int) -> ModelConfig:
    """The config with fewer and narrower blocks where it has such fields and is larger; heads are cut to divide the width.

    `most_layers` is shared out where a model has several stacks (`encoder_layers`, `decoder_layers`). Where layers differ
    (`mixers`), one of each kind of layer is kept.
    """
    counts: dict[str, int] = {name: value for name, value in config if isinstance(value, int)}
    stacks = [name for name in counts if name == "layers" or name.endswith("_layers")]
    changes: dict[str, Any] = {
        name: most for name in stacks if counts[name] > (most := max(1, most_layers // len(stacks)))
    }
    changes |= _one_of_each(getattr(config, "mixers", ()), counts.get("layers", 0), changes)
    if counts.get("width", 0) > most_width:
        changes["width"] = most_width
        for name in counts:
            if name == "heads" or name.endswith("_heads"):
                heads = min(counts[name], max(1, most_width // LEAST_HEAD_WIDTH))
                changes[name] = 1 << (heads.bit_length() - 1)
    try:
        return config.with_(**changes)
    except (ValidationError, BadInput):
        return config


def _one_of_each(mixers: tuple[Any, ...], layers: int, changes: Mapping[str, int]) -> dict[str, Any]:
    """The changes by which a hybrid of `layers` layers that is cut still has each of its mixers."""
    kinds = tuple(dict.fromkeys(mixers[:layers]))
    if not kinds or "layers" not in changes:
        return {}
    return {"mixers": kinds, "layers": max(changes["layers"], len(kinds))}


def _palinode_forward(module: nn.Module, example: Example) -> Tensor:
    return logits_for(module, example)  # type: ignore[arg-type]


def _logits(output: Any) -> Tensor:
    """The logits of what a module returned: the tensor itself, its `.logits`, or the first of a tuple."""
    found = getattr(output, "logits", output[0] if isinstance(output, tuple) else output)
    if not isinstance(found, Tensor):
        raise BadInput(f"the module returned {type(output).__name__}, not logits", field="forward")
    return found


def slots_needed(subject: Subject, window_tokens: int) -> int:
    """Slots per row that the objective makes of windows of this length."""
    draw = subject.objective.draw(1, window_tokens, generator(subject.seed, "audit", "slots"), Progress())
    return subject.example(torch.zeros(1, window_tokens, dtype=torch.long), draw).inputs.shape[1]
