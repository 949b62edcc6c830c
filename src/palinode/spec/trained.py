"""A model and its run in one object: the argument of every function that scores, cuts, audits or uses a trained model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from palinode.base.example import SpecialTokens
from palinode.data.source import Source
from palinode.models.base import LanguageModel
from palinode.spec.run_spec import RunSpec


@dataclass(frozen=True)
class Trained:
    """A model, the spec that the model was (or is being) trained with, the special tokens, and the data."""

    spec: RunSpec
    model: LanguageModel
    specials: SpecialTokens
    data: Source

    def with_spec(self, **changes: Any) -> Trained:
        """The same model and data with some fields of the spec changed, such as shorter windows, or fewer tokens to score."""
        return replace(self, spec=self.spec.with_(**changes))
