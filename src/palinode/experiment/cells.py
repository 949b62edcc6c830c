"""The cells of an experiment: each is one arm at one scale, with all that follows from its settings before a run.

`cells_of` makes them once. Audits, the plan, its predicted seconds and the refusals at the end of this file read them. A cell works
out each quantity when it is first read, from the settings, the data and the description of the model. It makes no weights.
Legend: T slots.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

from palinode.base.config import content_hash, encode
from palinode.base.errors import BadInput, EnvironmentProblem, PalinodeError
from palinode.base.example import Draw, SpecialTokens
from palinode.base.numerics import NUMERICS_VERSION
from palinode.base.seeds import generator
from palinode.base.visibility import Ltr, Visibility
from palinode.data.absent import AbsentText, known_vocabulary
from palinode.data.config import DataConfig, Split
from palinode.data.pairs import lines_sha256
from palinode.data.retrieval import collection_sha256
from palinode.data.source import Data, Source, prepare, resolve
from palinode.data.task_store import TaskData
from palinode.models.base import ModelConfig
from palinode.models.cost import Cost
from palinode.models.described import Description, described
from palinode.objectives import Progress
from palinode.objectives.label_mask import masked
from palinode.results.record import ArmEntry
from palinode.results.store import Store
from palinode.run.one import refuse_evaluation
from palinode.run.retrieval import FOLDER
from palinode.spec.experiment import ResolvedExperiment
from palinode.spec.run_spec import EvaluationConfig, RunSettings, RunSpec
from palinode.spec.start import with_sources
from palinode.train.device import resolve_device
from palinode.train.optim import OptimizerConfig, check_optimizers, trainable

WINDOWS_COUNTED = 64  # the number of windows whose labels are counted: windows of a task have different answers
GROUP_DRAWS = 50  # the number of batches of decisions that are drawn to find every pass of an objective
MOMENTS = 200  # the number of moments of a schedule over which the probability of a pass is averaged
GUESSED_FLOPS_PER_SECOND = 20e9  # a quarter of the rate of one core of 2023 in float32
GUESSED_START_SECONDS, GUESSED_STEP_SECONDS = 1.0, 0.005  # no run starts and no step ends much sooner
LEAST_BYTES_PER_PARAMETER = 12  # float32 weights, their gradients and one optimizer moment: no recipe takes less


@dataclass(frozen=True)
class Pass:
    """One reading of a window.

    Attributes:
        slots: T, the number of slots of a row.
        scored: the mean number of targets of a row that the labels keep.
        sees: the visibility of the slots.
        share: the probability that a window is read this way, averaged over the schedule of the run.
    """

    slots: int
    scored: float
    sees: Visibility
    share: float


@dataclass(frozen=True)
class Cell:
    """An arm at a scale.

    Attributes:
        specs: the specs of the runs, one for each seed; the specs differ only in the seed.
        source: the data of the runs, ready to be read.
        counted: the passes that another cell has counted already; the counts do not depend on the model.
    """

    arm: ArmEntry
    scale: str
    specs: tuple[RunSpec, ...]
    source: Source
    counted: dict[str, Mapping[str, Pass]] = field(default_factory=dict, compare=False)

    @property
    def spec(self) -> RunSpec:
        """The run of the first seed."""
        return self.specs[0]

    @cached_property
    def settings(self) -> RunSettings:
        """The settings that all runs of the cell share."""
        return self.spec.settings

    @property
    def specials(self) -> SpecialTokens:
        """The special tokens that every arm carries, behind the ids of the data."""
        return SpecialTokens(self.source.vocab_size)

    @cached_property
    def model(self) -> Description:
        """The model of every run, without weights."""
        return described(self.spec.model, self.specials.vocab_size, self.spec.data.window_tokens)

    @cached_property
    def cost(self) -> Cost:
        """The cost of the model when it reads a whole window from left to right."""
        return self.model.cost(self.spec.data.window_tokens, Ltr())

    @cached_property
    def passes(self) -> Mapping[str, Pass]:
        """Name -> each pass that the objective makes, counted on the first windows of the run."""
        spec = self.spec
        reading = [encode(spec.data), encode(spec.objective), spec.labels, spec.recipe.steps, spec.seed]
        if (key := content_hash(reading)) not in self.counted:
            self.counted[key] = self._count_passes()
        return self.counted[key]

    def _count_passes(self) -> Mapping[str, Pass]:
        spec, objective, window_tokens = self.spec, self.spec.objective, self.spec.data.window_tokens
        windows = self.source.training(window_tokens, spec.seed).read(0, WINDOWS_COUNTED)
        shares = _over_the_run(spec)
        passes: dict[str, Pass] = {}
        drawn: list[Draw] = []
        for attempt in range(GROUP_DRAWS):
            rng = generator(0, "plan", attempt)
            draw = objective.draw(WINDOWS_COUNTED, window_tokens, rng, Progress(0, 1, objective.state()))
            if any(draw.equals(earlier) for earlier in drawn):  # its example would be the same, and takes 50 ms
                continue
            drawn.append(draw)
            example = objective.example(windows.tokens, windows.decisions(draw), self.specials)
            example = masked(example, windows, spec.labels)
            for group, rows in example.by_group():
                if group.name not in passes:
                    scored = int((example.loss_weight[rows] > 0).sum()) / group.rows
                    share = fmean(probabilities.get(group.name, 0.0) for probabilities in shares)
                    passes[group.name] = Pass(example.inputs.shape[1], scored, group.sees, share)
            if set(passes) >= set(objective.groups()):
                break
        return passes

    @cached_property
    def split_tokens(self) -> dict[str, int]:
        """Split -> its tokens; 0 for the train split of a task that draws every training sequence anew."""
        held_out: tuple[Split, ...] = ("tuning", "validation", "test")
        data, count = self.spec.data, self.source.scored_tokens
        if isinstance(data, TaskData):
            train = (data.train_sequences or 0) * data.window_tokens
        else:
            train = count("train", None)
        return {"train": train} | {split: count(split, None) for split in held_out}

    @cached_property
    def steps(self) -> float:
        """The number of optimizer steps of one run."""
        return expected_steps(self.spec)

    @cached_property
    def counters(self) -> Mapping[str, float]:
        """The tokens and FLOPs that one run will count, under the names that a plan uses."""
        windows = self.steps * self.spec.recipe.batch_windows
        read, scored_ltr, flops = 0.0, 0.0, 0.0
        for name, one in self.passes.items():
            times = windows * one.share
            read += times * one.slots
            scored_ltr += times * one.scored if name == "ltr" else 0.0
            flops += self.model.cost(one.slots, one.sees).train_flops(times * one.slots, times * one.scored)
        optimizer = self.spec.recipe.optimizer
        of_step = self.model.answer(lambda model: optimizer.flops_per_step(trainable(model.parameter_groups())))
        return {
            "window_tokens": float(windows * self.spec.data.window_tokens),
            "tokens_read": read,
            "tokens_scored_ltr": scored_ltr,
            "train_flops": flops,
            "optimizer_flops": self.steps * of_step,
        }


def pinned(resolved: ResolvedExperiment) -> ResolvedExperiment:
    """The same experiment with the hashes of its data, and with ids of runs in place of the arms that `start_from` names. This call
    tokenises data that was not tokenised before.

    Raises:
        BadInput: a corpus is missing, too small, or differs from the corpus whose hash is in the spec.
        EnvironmentProblem: the disk cannot be written, or a data set cannot be fetched.
    """
    by_config: dict[Data, Data] = {}
    models: dict[ModelConfig, ModelConfig] = {}
    runs = []
    for run in resolved.runs:
        data = run.spec.data
        try:
            if data not in by_config:
                by_config[data] = resolve(data)
        except PalinodeError as error:
            if error.field in DataConfig.model_fields:
                error.inside("data")
            raise
        if (model := run.spec.model) not in models:
            models[model] = _pinned_model(model)
        evaluation = run.spec.evaluation
        hashes: dict[str, Any] = {
            f"{field}_sha256": _sentences_sha256(field, evaluation) for field in evaluation.of_sentences
        }
        if (retrieval := evaluation.retrieval) is not None and retrieval.folder_sha256 is None:
            found_hash = collection_sha256(retrieval.folder, FOLDER)
            hashes["retrieval"] = retrieval.with_(folder_sha256=found_hash)
        found = {"data": by_config[data], "model": models[model], "evaluation": evaluation.with_(**hashes)}
        runs.append(run.with_(spec=run.spec.with_(**found)))
    return with_sources(resolved.with_(runs=tuple(runs)))


def _pinned_model(model: ModelConfig) -> ModelConfig:
    try:
        return model.pinned()
    except PalinodeError as error:
        raise error.inside("model") from None


def _sentences_sha256(field: str, evaluation: EvaluationConfig) -> str:
    """The hash of a file of sentences; the hash in the settings stays, and `check_sentences` compares it with the file."""
    stored: str | None = getattr(evaluation, f"{field}_sha256")
    return lines_sha256(evaluation.of_sentences[field], f"evaluation.{field}") if stored is None else stored


def guessed_seconds(cell: Cell) -> float:
    """The seconds of one run, guessed from its FLOPs without any measurement: enough to tell minutes from hours."""
    spec, evaluation = cell.spec, cell.spec.evaluation
    trained = cell.counters["train_flops"] + cell.counters["optimizer_flops"]
    scored = cell.source.scored_tokens(evaluation.split, evaluation.max_tokens) * len(evaluation.directions)
    evaluated = expected_evaluations(spec) * cell.cost.forward_flops(scored)
    training_seconds = max(trained / GUESSED_FLOPS_PER_SECOND, cell.steps * GUESSED_STEP_SECONDS)
    return GUESSED_START_SECONDS + training_seconds + evaluated / GUESSED_FLOPS_PER_SECOND


def cells_of(resolved: ResolvedExperiment, source_of: Callable[[Data], Source] = prepare) -> tuple[Cell, ...]:
    """The cells of an experiment whose data is pinned, scale by scale; cells with the same data share its source.

    Raises:
        BadInput, EnvironmentProblem: the data cannot be read.
    """
    specs: dict[tuple[str, str], list[RunSpec]] = {}
    for run in resolved.runs:
        specs.setdefault((run.arm, run.scale), []).append(run.spec)
    sources: dict[Data, Source] = {}
    cells = []
    counted: dict[str, Mapping[str, Pass]] = {}
    for scale in resolved.scales:
        for arm in resolved.arms:
            own = tuple(specs[arm.name, scale])
            data = own[0].data
            if data not in sources:
                sources[data] = source_of(data)
            cells.append(Cell(arm, scale, own, sources[data], counted))
    return tuple(cells)


def cells_without_text(resolved: ResolvedExperiment) -> tuple[Cell, ...] | None:
    """The cells for a plan without the text of the data; None if the number of ids of the tokenizer is not known."""
    texts = {run.spec.data for run in resolved.runs if isinstance(run.spec.data, DataConfig)}
    absent = {data: AbsentText(size) for data in texts if (size := known_vocabulary(data)) is not None}
    if len(absent) < len(texts):
        return None
    return cells_of(resolved, lambda data: absent[data] if isinstance(data, DataConfig) else prepare(data))


def expected_passes(settings: RunSettings) -> float:
    """Passes for each window, averaged over the schedule of the run (an adaptive p counts as it starts)."""
    return fmean(sum(probabilities.values()) for probabilities in _over_the_run(settings))


def expected_steps(settings: RunSettings) -> float:
    """Optimizer steps until the first limit: the recipe's steps, or its token limits at what a step reads on average.

    With batches that grow by the gradient norm this counts the batch they start with: fewer steps may reach a token limit.
    """
    recipe, step_tokens = settings.recipe, settings.recipe.batch_windows * settings.data.window_tokens
    ltr = settings.objective.pass_probabilities(Progress(0, recipe.steps, settings.objective.state())).get("ltr", 0.0)
    limits = (
        (recipe.max_tokens_read, step_tokens * expected_passes(settings)),
        (recipe.max_ltr_tokens, step_tokens * ltr),
    )
    reached = [limit / tokens for limit, tokens in limits if limit is not None and tokens > 0]
    return min([float(recipe.steps), *reached])


def expected_evaluations(settings: RunSettings) -> float:
    """The number of evaluations of one run, each as long as the last one. An evaluation of fewer tokens counts as a part of one."""
    evaluation, every = settings.evaluation, settings.recipe.evaluate_every_steps
    last = (1 + evaluation.test) * (1 + len(evaluation.context_lengths))
    before = int(expected_steps(settings) - 1) // every if every else 0
    share = 1.0
    if evaluation.curve_tokens is not None and evaluation.max_tokens is not None:
        share = evaluation.curve_tokens / evaluation.max_tokens
    return last + before * share


def _over_the_run(settings: RunSettings) -> list[Mapping[str, float]]:
    """Pass -> its probability for a window, at moments spread evenly over the steps."""
    steps, objective = settings.recipe.steps, settings.objective
    moments = range(0, max(1, steps), max(1, steps // MOMENTS))
    return [objective.pass_probabilities(Progress(step, steps, objective.state())) for step in moments]


# --- what is refused before anything is measured, audited, written or trained -----------------------------------------


def refuse_what_cannot_be(cells: Sequence[Cell], *, trains_here: bool = True) -> None:
    """Refuse an experiment with a cell that could not be trained or measured.

    Args:
        trains_here: whether this machine trains the runs. Other hosts may have the memory and the device that it lacks.

    Raises:
        BadInput: parts do not fit together, or a model cannot do what its evaluation asks for.
        EnvironmentProblem: a model is larger than this machine's memory, or a device is missing.
    """
    accepted: set[tuple[int, OptimizerConfig]] = set()
    for cell in cells:
        if trains_here:
            _refuse_too_large(cell)
            resolve_device(cell.spec.device)
        refuse_evaluation(cell.spec, cell.specials)
        moved = (id(cell.model), cell.spec.recipe.optimizer)  # the arms of a scale often share both
        if moved not in accepted:
            _refuse_optimizer(cell)
            accepted.add(moved)
        _ = cell.passes  # an objective that cannot make an example raises here


def refuse_other_numerics(resolved: ResolvedExperiment, store: Store) -> None:
    """Refuse to go on with runs of a store that were begun with another numerics version. Runs that have ended need no work.

    Raises:
        BadInput: a run that is left to do has another numerics version than this program.
    """
    for run in resolved.runs:
        if run.spec.numerics_version != NUMERICS_VERSION and store.ended(run.spec.run_id) is None:
            run.spec.check_numerics()


def refuse_full_disk(bytes_needed: int, store: Store) -> None:
    """Refuse runs whose checkpoints do not fit on the disk of the store.

    Raises:
        EnvironmentProblem: the disk has too little free space; the error names both numbers.
    """
    free = shutil.disk_usage(store.create().root).free
    if bytes_needed > free:
        message = f"the runs need about {bytes_needed:,} bytes and {free:,} are free"
        hint = "free some space, or name another store with --store"
        raise EnvironmentProblem(message, file=str(store.root), hint=hint)


def machine_memory_bytes() -> int | None:
    """The memory of this machine in bytes; None if the system does not report it."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _refuse_too_large(cell: Cell) -> None:
    """Refuse a model whose parameters alone, while they are trained, need more memory than the machine has.

    Without this the system would end the program, or other programs, while the weights are written.
    """
    try:
        needed = float(LEAST_BYTES_PER_PARAMETER * cell.model.total_parameters)
    except OverflowError:
        needed = math.inf
    memory = machine_memory_bytes()
    if memory is None or needed <= memory:
        return
    take = f"take at least {needed / 1e9:,.0f} GB" if math.isfinite(needed) else "take more bytes than 64 bits count"
    message = f"its parameters {take} to train, and this machine has {memory / 1e9:,.0f} GB"
    raise EnvironmentProblem(message, field="model")


def _refuse_optimizer(cell: Cell) -> None:
    """Refuse an optimizer that names a role which the model does not have."""
    config = cell.spec.recipe.optimizer
    try:
        cell.model.answer(lambda model: check_optimizers(config, model, model.parameter_groups()))
    except BadInput as refused:
        raise refused.inside("recipe.optimizer") from None
