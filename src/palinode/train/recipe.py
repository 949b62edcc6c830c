"""Recipes: everything about how a model is trained, as data. A named recipe is a class whose defaults are its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from palinode.base.config import Part, one_of
from palinode.train.optim import OPTIMIZERS, AdamW, MuonAdamW, OptimizerConfig
from palinode.train.schedule import SCHEDULES, Cosine, Schedule, WarmDown

Precision = Literal["float32", "bfloat16"]


class Recipe(Part):
    """How to train: budget, optimizer, schedule, and how often to look.

    Attributes:
        steps: optimizer steps.
        batch_windows: windows per optimizer step, over all micro-batches.
        micro_batches: how many parts a batch is read in; the result is that of the whole batch (sum over sum).
        gradient_clip: largest global gradient norm; None does not clip.
        precision: `bfloat16` runs the forward pass under autocast; parameters and loss stay float32.
        compile: run the stack through torch.compile.
        log_every_steps: a training row in the metrics.
        evaluate_every_steps: None evaluates after the last step only.
        checkpoint_every_steps: None saves ten times per run.
    """

    kind: ClassVar[str] = "custom"
    steps: int = Field(ge=1, le=10**9)
    batch_windows: int = Field(ge=1, le=10**6)
    micro_batches: int = Field(default=1, ge=1)
    optimizer: Annotated[OptimizerConfig, one_of(lambda: OPTIMIZERS, "optimizer")]
    schedule: Annotated[Schedule, one_of(lambda: SCHEDULES, "schedule")]
    gradient_clip: float | None = Field(default=None, gt=0.0)
    precision: Precision = "float32"
    compile: bool = False
    log_every_steps: int = Field(default=20, ge=1)
    evaluate_every_steps: int | None = Field(default=None, ge=1)
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.batch_windows % self.micro_batches:
            raise ValueError(
                f"micro_batches: {self.batch_windows} windows do not divide into {self.micro_batches} parts"
            )
        if self.schedule.warmup_steps >= self.steps > 1:
            raise ValueError(f"schedule.warmup_steps: {self.schedule.warmup_steps} must be below steps = {self.steps}")
        for name in ("evaluate_every_steps", "checkpoint_every_steps"):
            if (every := getattr(self, name)) is not None and every > self.steps:
                raise ValueError(f"{name}: {every} is more than steps = {self.steps}")
        return self

    @property
    def checkpoint_interval_steps(self) -> int:
        """How many steps at most are trained again after a crash."""
        return self.checkpoint_every_steps or max(1, self.steps // 10)


class Gpt2AdamW(Recipe):
    """nanoGPT's small-model recipe: AdamW (.9, .99), weight decay .1, clip 1, 100 warm-up steps, cosine to a tenth."""

    kind: ClassVar[str] = "gpt2-adamw"
    steps: int = Field(default=2000, ge=1, le=10**9)
    batch_windows: int = Field(default=12, ge=1, le=10**6)
    optimizer: Annotated[OptimizerConfig, one_of(lambda: OPTIMIZERS, "optimizer")] = AdamW(
        learning_rate=1e-3, beta1=0.9, beta2=0.99, weight_decay=0.1
    )
    schedule: Annotated[Schedule, one_of(lambda: SCHEDULES, "schedule")] = Cosine(warmup_steps=100, floor=0.1)
    gradient_clip: float | None = Field(default=1.0, gt=0.0)


class Speedrun(Recipe):
    """Muon for hidden matrices and AdamW for the rest, no warm-up, a straight line to zero over the last half.

    For `modern` decoders. Tuned for time to loss on a CPU at 0.1 to 0.9 million parameters (benchmarks/time_to_loss.py).
    """

    kind: ClassVar[str] = "speedrun"
    steps: int = Field(default=240, ge=1, le=10**9)
    batch_windows: int = Field(default=16, ge=1, le=10**6)
    optimizer: Annotated[OptimizerConfig, one_of(lambda: OPTIMIZERS, "optimizer")] = MuonAdamW()
    schedule: Annotated[Schedule, one_of(lambda: SCHEDULES, "schedule")] = WarmDown(share=0.5)


RECIPES: Mapping[str, type[Recipe]] = {cls.kind: cls for cls in (Recipe, Gpt2AdamW, Speedrun)}
