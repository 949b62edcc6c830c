"""Palinode's own models as the checks see them: how they are read, how far they see, their states, their auxiliary terms.

The checks contain no code for these models; this file gives the checks all that is particular to them.
Legend: B rows, T slots, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from palinode.audit.targets import small_values
from palinode.base.errors import BadInput
from palinode.base.example import Example, Group, SpecialTokens
from palinode.base.objective import Objective
from palinode.checks.collapse import PairScore
from palinode.checks.subject import Subject, plain_forward
from palinode.models.base import LanguageModel, ModelConfig, PairTerm, begin, extend
from palinode.models.direction import logits_for
from palinode.models.hugging_face import HfModel, SmallHfModel
from palinode.models.mixers.base import Reading
from palinode.models.parts.state import ModelState

# The number of content ids for C1: enough for a window of distinct ids, and so few that the head costs little time.
AUDIT_VOCABULARY = 64
LEAST_HEAD_WIDTH = 16


@dataclass(frozen=True)
class PalinodeState:
    """A `StateReader` of Palinode's own models.

    `from_end`: whether the rows were flipped.
    """

    from_end: bool = False

    def keeps_state(self, module: nn.Module) -> bool:
        """Whether the model and all its layers can be read in pieces."""
        return self._reader(module).can_step()

    def begin(self, module: nn.Module, rows: int, slots: int) -> ModelState:
        """The state before the first slot of each row."""
        return begin(self._reader(module), rows, slots)

    def extend(self, module: nn.Module, tokens: Tensor, state: Any) -> tuple[Tensor, ModelState]:
        """(B, T, D) hidden states of the next (B, T) tokens, and the state after these tokens."""
        return extend(self._reader(module), tokens, state)

    def logits(self, module: nn.Module, hidden: Tensor) -> Tensor:
        """(.., V) logits of (.., D) hidden states."""
        return self._reader(module).logits(hidden)

    def of_flipped_rows(self) -> PalinodeState:
        """The reader of rows that were flipped."""
        return PalinodeState(from_end=True)

    def _reader(self, module: nn.Module) -> LanguageModel:
        model = _language_model(module)
        return model.from_end() if self.from_end else model


def palinode_subject(subject: Subject) -> Subject:
    """The subject with the functions that only Palinode's own models offer. A subject with any other module is returned as it is.

    A `forward` that the user gave stays; the model's state is then not checked against it.
    """
    if not isinstance(subject.module, LanguageModel):
        return subject
    subject = replace(subject, reach=_reach)
    return replace(subject, forward=_forward, state=PalinodeState()) if subject.forward is plain_forward else subject


def subject_of_config(
    config: ModelConfig,
    objective: Objective,
    *,
    tokenizer_vocab: int,
    window_tokens: int,
    seed: int = 0,
    name: str = "model",
) -> Subject:
    """An arm as a subject before any training. The arm's config is made so small that the audit takes seconds.

    C1 uses up to 4 blocks of width 128, which is the full size of every arm of the demo. C2 uses up to 2 blocks of width 32: a
    canary of width 64 alarms no sooner and takes twice the time.
    """
    flow_size, canary_size = flow_config(config), canary_config(config)
    specials = SpecialTokens(min(tokenizer_vocab, AUDIT_VOCABULARY))
    subject = _subject(nn.Identity(), objective, specials, window_tokens, name=name, seed=seed)
    module = flow_size.build(specials.vocab_size, subject.slots_of(window_tokens), seed)
    return palinode_subject(replace(subject, module=module, rebuild=flow_size.build, rebuild_small=canary_size.build))


def flow_config(config: ModelConfig) -> ModelConfig:
    """The config of the model that C1 and C6 read before training."""
    return small_config(config, 4, 128)


def canary_config(config: ModelConfig) -> ModelConfig:
    """The config of the model that C2 trains. It is the same for every larger model of the same kind."""
    return small_config(config, 2, 32)


def subject_of_model(
    model: LanguageModel, objective: Objective, specials: SpecialTokens, window_tokens: int, *, name: str, seed: int
) -> Subject:
    """A trained model as a subject: the trained weights, at the length that the model was trained on."""
    return palinode_subject(_subject(model, objective, specials, window_tokens, name=name, seed=seed))


def small_config(config: ModelConfig, most_layers: int, most_width: int) -> ModelConfig:
    """The config with fewer and narrower blocks, where the config has such fields and larger values.

    The heads still divide the width. `most_layers` is divided between the stacks of a model with several (`encoder_layers`,
    `decoder_layers`). Where layers differ (`mixers`), one layer of each kind is kept. A config that refuses the small values is
    returned as it is.
    """
    if isinstance(config, HfModel):
        return _small_open_model(config)
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


def _small_open_model(config: HfModel) -> SmallHfModel:
    """A model of the same class as an open model, at the size at which any model of transformers is audited.

    Fields that the class does not declare are left out: it computes them from the others, and they have the large values.
    """
    standard = config.transformers_config()
    declared = {"model_type"} | {field.name for field in dataclasses.fields(standard)}
    fields = {**standard.to_dict(), **small_values(standard), "tie_word_embeddings": standard.tie_word_embeddings}
    kept = {name: value for name, value in fields.items() if value is not None and name in declared - {"dtype"}}
    kept |= {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": None}
    return SmallHfModel(fields=json.dumps(kept, sort_keys=True), rtl_positions=config.rtl_positions)


def pair_score(term: PairTerm) -> PairScore:
    """An auxiliary term in the form that C7 takes. C7 trains the term, so the caller gives a copy."""
    causal = Reading("causal")

    def score(left: Tensor, right: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        scores = term(left, right, causal)
        return scores.value, scores.measured

    return PairScore(term.width, tuple(term.train().parameters()), score, lambda left: term.aggregated(left, causal))


def _subject(
    module: nn.Module, objective: Objective, specials: SpecialTokens, window_tokens: int, *, name: str, seed: int
) -> Subject:
    """A subject whose windows all have one length."""
    return Subject(
        name=name,
        module=module,
        objective=objective,
        specials=specials,
        vocab_size=specials.vocab_size,
        window_tokens=window_tokens,
        evaluation_tokens=window_tokens,
        max_window_tokens=window_tokens,
        seed=seed,
    )


def _one_of_each(mixers: tuple[Any, ...], layers: int, changes: Mapping[str, int]) -> dict[str, Any]:
    """The changes of `mixers` after which a hybrid that is cut to `layers` layers still has each of its mixers."""
    kinds = tuple(dict.fromkeys(mixers[:layers]))
    if not kinds or "layers" not in changes:
        return {}
    return {"mixers": kinds, "layers": max(changes["layers"], len(kinds))}


def _forward(module: nn.Module, example: Example) -> Tensor:
    return logits_for(_language_model(module), example)


def _reach(module: nn.Module, group: Group) -> int | None:
    return _language_model(module).reach_slots(group.sees)


def _language_model(module: nn.Module) -> LanguageModel:
    assert isinstance(module, LanguageModel)
    return module
