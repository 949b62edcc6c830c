"""A model with the run that it belongs to: one argument for everything that scores, cuts, audits or uses a trained model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from palinode.base.example import SpecialTokens
from palinode.data.source import Source
from palinode.models.base import LanguageModel
from palinode.spec.run_spec import RunSpec


@dataclass(frozen=True)
class Trained:
    """A model, the spec it was (or is being) trained by, its special tokens and its data."""

    spec: RunSpec
    model: LanguageModel
    specials: SpecialTokens
    data: Source

    def with_spec(self, **changes: Any) -> Trained:
        """The same model and data under a spec with some fields changed: shorter windows, or fewer tokens to score."""
        return replace(self, spec=self.spec.with_(**changes))
