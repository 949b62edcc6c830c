"""A recipe says, as data, how a model is trained. The numbers of a named recipe are the defaults of its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from palinode.base.config import LATER, Part, one_of
from palinode.base.errors import BadInput
from palinode.train.growth import WINDOWS_DRAWN, LengthGrowth, NormAccumulation, Reads
from palinode.train.optim import OPTIMIZERS, AdamW, HlbAdamW, MuonAdamW, OptimizerConfig
from palinode.train.schedule import SCHEDULES, Cosine, PowerDecay, Schedule, WarmDown

Precision = Literal["float32", "bfloat16"]
Parallel = Literal["ddp", "fsdp2"]  # how several processes share a run (`train/processes.py`)
AUDIT_BYTES = 12  # of a float32 parameter and its float64 copy
TRAINING_BYTES = 16  # of a float32 parameter, its gradient and two numbers of Adam's state
AnyOptimizer = Annotated[OptimizerConfig, one_of(lambda: OPTIMIZERS, "optimizer")]
AnySchedule = Annotated[Schedule, one_of(lambda: SCHEDULES, "schedule")]


class Recipe(Part):
    """How a model is trained: budget, optimizer, schedule, and how often to log, evaluate and save.

    Attributes:
        steps: the number of optimizer steps; 0, for the kind `custom`, scores and audits the first weights.
        batch_windows: the number of windows in an optimizer step, over all micro-batches. With `growth`, a step has the tokens of
            this many full windows.
        micro_batches: the number of parts that a batch is read in. The loss is the sum over the whole batch divided by the sum of
            weights. Each part draws its own coins, so with `both` and `choose` this number decides which windows are read in which
            direction.
        growth: the growth of rows that start short; None reads full windows from the start.
        accumulation: the rule for more micro-batches as gradients get noisier; None keeps their number.
        max_tokens_read, max_ltr_tokens: the numbers of tokens that end the run, and its schedule, after the step that reaches one
            of them. Set `steps` a little higher than the limit needs.
        gradient_clip: the largest global gradient norm; None does not clip.
        precision: the number format of the forward pass. `bfloat16` uses autocast; parameters and loss stay float32.
        compile: whether the stack of layers runs through torch.compile.
        log_every_steps: the number of steps from one training row in the metrics to the next.
        evaluate_every_steps: the number of steps between evaluations; None evaluates after the last step only.
        checkpoint_every_steps: the number of steps between checkpoints; None saves ten times in a run.
        stop_at_accuracy: the accuracy at which the run ends, on the split that is evaluated during training and in the run's own
            pass. It is looked at in each evaluation; the schedule of the rate stays that of `steps`. None: the run takes all steps.
    """

    kind: ClassVar[str] = "custom"
    steps: int = Field(ge=0, le=10**9)
    batch_windows: int = Field(ge=1, le=10**6)
    micro_batches: int = Field(default=1, ge=1)
    growth: LengthGrowth | None = None
    accumulation: NormAccumulation | None = None
    max_tokens_read: int | None = Field(default=None, ge=1)
    max_ltr_tokens: int | None = Field(default=None, ge=1)
    optimizer: AnyOptimizer
    schedule: AnySchedule
    gradient_clip: float | None = Field(default=None, gt=0.0)
    precision: Precision = "float32"
    compile: bool = False
    log_every_steps: int = Field(default=20, ge=1)
    evaluate_every_steps: int | None = Field(default=None, ge=1)
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    stop_at_accuracy: Annotated[float | None, LATER] = Field(default=None, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        windows, parts = self.batch_windows, self.micro_batches
        if windows % parts:
            raise ValueError(f"micro_batches: {windows} windows do not divide into {parts} parts")
        if self.schedule.warmup_steps >= self.steps > 1:
            raise ValueError(f"schedule.warmup_steps: {self.schedule.warmup_steps} must be below steps = {self.steps}")
        for name in ("evaluate_every_steps", "checkpoint_every_steps"):
            if (every := getattr(self, name)) is not None and every > self.steps:
                raise ValueError(f"{name}: {every} is more than steps = {self.steps}")
        if self.stop_at_accuracy is not None and self.evaluate_every_steps is None:
            raise ValueError("stop_at_accuracy: nothing is evaluated before the last step; set evaluate_every_steps")
        return self

    def reads(self, step: int, state: Mapping[str, float], seed: int, full_tokens: int) -> Reads:
        """The batch that an optimizer step reads.

        Args:
            state: the result of `after_step`; empty before the first step.
            full_tokens: the number of tokens in the spec's window.
        """
        length = self.growth.window_tokens(step, full_tokens) if self.growth else full_tokens
        windows = max(1, self.batch_windows // self.micro_batches * full_tokens // length)
        factor = self.accumulation.factor(state, seed, step) if self.accumulation else 1
        since = step - self.growth.first_step(length) if self.growth else step
        drawn = int(state.get(WINDOWS_DRAWN, 0)) if self.accumulation else since * windows * self.micro_batches
        return Reads(length, windows, self.micro_batches, factor, drawn)

    def after_step(
        self,
        state: Mapping[str, float],
        step: int,
        reads: Reads,
        full_tokens: int,
        gradient_norm: float,
        parameters: int,
    ) -> dict[str, float]:
        """The state for the next step; empty for a recipe without `accumulation`."""
        if self.accumulation is None:
            return {}
        after = dict(state)
        self.accumulation.after_step(after, step, gradient_norm, parameters)
        same_length = self.growth is None or self.growth.window_tokens(step + 1, full_tokens) == reads.window_tokens
        after[WINDOWS_DRAWN] = reads.first_window + reads.windows * reads.parts if same_length else 0
        return after

    @property
    def checkpoint_interval_steps(self) -> int:
        """The number of steps from one checkpoint to the next. A crash loses at most this many steps."""
        return self.checkpoint_every_steps or max(1, self.steps // 10)


class Gpt2AdamW(Recipe):
    """The recipe of nanoGPT for small models: AdamW (.9, .99), weight decay .1, clip 1, 100 warm-up steps, cosine to a tenth."""

    kind: ClassVar[str] = "gpt2-adamw"
    steps: int = Field(default=2000, ge=1, le=10**9)
    batch_windows: int = Field(default=12, ge=1, le=10**6)
    optimizer: AnyOptimizer = AdamW(learning_rate=1e-3, beta1=0.9, beta2=0.99, weight_decay=0.1)
    schedule: AnySchedule = Cosine(warmup_steps=100, floor=0.1)
    gradient_clip: float | None = Field(default=1.0, gt=0.0)


class Speedrun(Recipe):
    """Muon for hidden matrices and AdamW for the rest. There is no warm-up; the rate falls linearly to 0 over the last half.

    The recipe is made for `modern` decoders. Its rates were tuned for the shortest time to a target loss on a CPU, at 0.1 to 0.9
    million parameters (benchmarks/time_to_loss.py).
    """

    kind: ClassVar[str] = "speedrun"
    steps: int = Field(default=240, ge=1, le=10**9)
    batch_windows: int = Field(default=16, ge=1, le=10**6)
    optimizer: AnyOptimizer = MuonAdamW()
    schedule: AnySchedule = WarmDown(share=0.5)


class Hlb(Recipe):
    """The recipe of hlb-gpt in the mask experiments: AdamW by size, growing rows, batch sizes steered by the gradient norm.

    The recipe is made for `latent` models. It corrects two points: the loss that drives weight decay is in nats per token, and an
    interrupted run resumes exactly. It leaves out the division of the embedding's gradient by each token's count in its
    micro-batch, which would depend on how a batch is cut. A micro-batch has the tokens of 55 windows of 1024 tokens: the number
    that is published for 46 million parameters, where the GPU's memory decided it. Three settings of growth and accumulation have
    the published value as an option (docs/recipes.md).
    """

    kind: ClassVar[str] = "hlb-gpt"
    steps: int = Field(default=1000, ge=1, le=10**9)
    batch_windows: int = Field(default=55, ge=1, le=10**6)
    growth: LengthGrowth | None = LengthGrowth()
    accumulation: NormAccumulation | None = NormAccumulation()
    optimizer: AnyOptimizer = HlbAdamW()
    schedule: AnySchedule = PowerDecay()


RECIPES: Mapping[str, type[Recipe]] = {cls.kind: cls for cls in (Recipe, Gpt2AdamW, Speedrun, Hlb)}


def refuse_sharing(recipe: Recipe, processes: int, parallel: Parallel) -> None:
    """Refuse a recipe that so many processes cannot train together.

    Raises:
        BadInput: the number of processes does not divide the micro-batches, or a part of the recipe cannot be cut over processes.
    """
    if recipe.micro_batches % processes:
        message = f"{processes} processes cannot share {recipe.micro_batches} micro-batches"
        raise BadInput(message, field="--processes", hint="recipe.micro_batches must be a multiple of it")
    if parallel == "fsdp2" and recipe.compile:
        raise BadInput("fsdp2 does not train compiled steps", field="recipe.compile", hint="use --parallel ddp")
    if parallel == "fsdp2" and type(recipe.optimizer) not in OPTIMIZERS.values():
        message = f"fsdp2 trains with {', '.join(OPTIMIZERS)} only, not with {recipe.optimizer.kind_name()}"
        raise BadInput(message, field="recipe.optimizer", hint="use --parallel ddp")


def chosen_parallel(parameters: int, free_bytes: float) -> Parallel:
    """`ddp` when the weights, gradients and optimizer state fit half of a device's free memory, else `fsdp2`."""
    return "ddp" if TRAINING_BYTES * parameters <= free_bytes / 2 else "fsdp2"
