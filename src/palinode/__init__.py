"""Palinode: a laboratory for language-model ideas on a small budget.

The names below are the names that an experiment file needs. Each name is imported when it is first used, so that `import palinode`
is fast and a finished store can be read without torch. Two names are namespaces: `palinode.p` holds the schedules of p, the
probability of a second direction, and `palinode.rate` those of the learning rate. `palinode.Linear` and the other schedules
without a namespace are the classes of `palinode.p`, under their older names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palinode.base.decision import Claim, Decision
    from palinode.base.example import Draw, Example, SpecialTokens, joined, one_pass
    from palinode.base.visibility import FlippedLowerTriangle, Full, Ltr, Prefix, Rtl, Visibility
    from palinode.data.config import DataConfig
    from palinode.data.task_store import TaskData
    from palinode.data.tasks.base import Task
    from palinode.models.base import LanguageModel, ModelConfig
    from palinode.models.decoder import DecoderConfig, gpt2, modern
    from palinode.models.encoder_decoder import EncoderDecoderConfig
    from palinode.models.latent import LatentConfig, hlb
    from palinode.models.mixers.base import Mixer, MixerConfig
    from palinode.models.parts.embedding_loss import EmbeddingLoss
    from palinode.objectives import (
        BothObjective,
        BottleneckObjective,
        ChooseObjective,
        LtrObjective,
        MaskedInputObjective,
        MaskedObjective,
        Objective,
        Progress,
        RtlObjective,
        p,
    )
    from palinode.objectives.probability import Adaptive, Constant, Cooldown, Cosine, Linear, StepAt
    from palinode.results.store import Store
    from palinode.spec.experiment import Arm, Experiment, Scale, Size
    from palinode.spec.run_spec import EvaluationConfig, RunSettings, RunSpec
    from palinode.spec.tuning import Tuning
    from palinode.train import rate
    from palinode.train.optim import AdamW, MuonAdamW
    from palinode.train.recipe import Gpt2AdamW, Recipe, Speedrun

__version__ = "0.1.0"

_HOMES = {
    "palinode.base.decision": ("Claim", "Decision"),
    "palinode.base.example": ("Draw", "Example", "SpecialTokens", "joined", "one_pass"),
    "palinode.base.visibility": ("FlippedLowerTriangle", "Full", "Ltr", "Prefix", "Rtl", "Visibility"),
    "palinode.data.config": ("DataConfig",),
    "palinode.data.task_store": ("TaskData",),
    "palinode.data.tasks.base": ("Task",),
    "palinode.models.base": ("LanguageModel", "ModelConfig"),
    "palinode.models.decoder": ("DecoderConfig", "gpt2", "modern"),
    "palinode.models.encoder_decoder": ("EncoderDecoderConfig",),
    "palinode.models.latent": ("LatentConfig", "hlb"),
    "palinode.models.mixers.base": ("Mixer", "MixerConfig"),
    "palinode.models.parts.embedding_loss": ("EmbeddingLoss",),
    "palinode.objectives": (
        "BothObjective",
        "BottleneckObjective",
        "ChooseObjective",
        "LtrObjective",
        "MaskedInputObjective",
        "MaskedObjective",
        "Objective",
        "Progress",
        "RtlObjective",
    ),
    "palinode.objectives.probability": ("Adaptive", "Constant", "Cooldown", "Cosine", "Linear", "StepAt"),
    "palinode.results.store": ("Store",),
    "palinode.spec.experiment": ("Arm", "Experiment", "Scale", "Size"),
    "palinode.spec.run_spec": ("EvaluationConfig", "RunSettings", "RunSpec"),
    "palinode.spec.tuning": ("Tuning",),
    "palinode.train.optim": ("AdamW", "MuonAdamW"),
    "palinode.train.recipe": ("Gpt2AdamW", "Recipe", "Speedrun"),
}
_NAMESPACES = {"p": "palinode.objectives", "rate": "palinode.train"}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdamW",
    "Adaptive",
    "Arm",
    "BothObjective",
    "BottleneckObjective",
    "ChooseObjective",
    "Claim",
    "Constant",
    "Cooldown",
    "Cosine",
    "DataConfig",
    "Decision",
    "DecoderConfig",
    "Draw",
    "EmbeddingLoss",
    "EncoderDecoderConfig",
    "EvaluationConfig",
    "Example",
    "Experiment",
    "FlippedLowerTriangle",
    "Full",
    "Gpt2AdamW",
    "LanguageModel",
    "LatentConfig",
    "Linear",
    "Ltr",
    "LtrObjective",
    "MaskedInputObjective",
    "MaskedObjective",
    "Mixer",
    "MixerConfig",
    "ModelConfig",
    "MuonAdamW",
    "Objective",
    "Prefix",
    "Progress",
    "Recipe",
    "Rtl",
    "RtlObjective",
    "RunSettings",
    "RunSpec",
    "Scale",
    "Size",
    "SpecialTokens",
    "Speedrun",
    "StepAt",
    "Store",
    "Task",
    "TaskData",
    "Tuning",
    "Visibility",
    "gpt2",
    "hlb",
    "joined",
    "modern",
    "one_pass",
    "p",
    "rate",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return importlib.import_module(f"{_NAMESPACES[name]}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'palinode' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
