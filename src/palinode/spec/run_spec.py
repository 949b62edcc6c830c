"""The full spec of one run: data, model, objective, recipe, evaluation and seed. The run's id is the hash of its spec.

Runs with equal ids are equal, so an experiment reuses the runs of other experiments. The hash also covers the numerics version that
the spec records, and the code of every class of the user: the encoding of a user's part holds the hash of the code that it needs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from palinode.base.config import LATER, USER_PREFIX, Config, content_hash, identity, one_of
from palinode.base.errors import BadInput
from palinode.base.example import Example, SpecialTokens, Windows
from palinode.base.measures import Direction
from palinode.base.numerics import NUMERICS_VERSION
from palinode.base.seeds import generator
from palinode.data.config import HEX_SHA256, WindowChoice
from palinode.data.source import DATA, Data
from palinode.data.task_store import TaskData
from palinode.data.tasks.base import check_sample
from palinode.evaluate.losses import evaluation_passes
from palinode.models import MODELS
from palinode.models.base import ModelConfig
from palinode.objectives import OBJECTIVES, Objective, Progress
from palinode.objectives.label_mask import Labels, check_scores_some
from palinode.spec.retrieval import Retrieval
from palinode.spec.start import StartFrom
from palinode.train.recipe import RECIPES, Recipe

SPEC_VERSION = 1
RUN_ID_CHARACTERS = 16  # 64 bits: the probability that two of a million different runs have one id is 3e-8
SEED_LIMIT = 2**63  # torch generators take seeds below this
CHECKED_WINDOWS = 8  # the number of text windows that are checked; an objective may need several windows
CHECKED_SEQUENCES = 64  # the number of sequences of a task that are checked: enough to find the places of the answers


def known_version(version: int) -> int:
    """The version of a spec, after a check that this program can read it.

    Raises:
        ValueError: the version is newer than this program, or is no version.
    """
    return _known(version, SPEC_VERSION, "spec version")


def known_numerics(version: int) -> int:
    """The numerics version of a spec, after a check that this program or an earlier one computed with this version.

    Raises:
        ValueError: the version is newer than this program, or is no version.
    """
    return _known(version, NUMERICS_VERSION, "numerics version")


def _known(version: int, newest: int, what: str) -> int:
    if version > newest:
        raise ValueError(f"{what} {version} is newer than this program's {newest}: update palinode")
    if version < 1:
        raise ValueError(f"{what}s start at 1, got {version}")
    return version


Version = Annotated[int, AfterValidator(known_version)]


class EvaluationConfig(Config):
    """The measurements during and after training. They are the same for every arm.

    Attributes:
        split: the split that is scored during training and at the end: `tuning` in trials, else `validation`.
        directions: the reading directions, each scored on every token.
        max_tokens: the number of tokens that are scored; None: all tokens of a split.
        windows: the windows that are scored where `max_tokens` is less than a split: the `first` windows of the split, or windows
            that are `spread` over it. A stretch of text is unlike the rest of it, so spread windows give a better estimate.
        curve_tokens: the number of tokens that an evaluation before the last one scores, chosen as by `max_tokens`; None: as
            many as the last one. The last point of a learning curve is then measured on more tokens than the others.
        batch_windows: the number of windows in an evaluation batch; this number does not change the scores.
        test: whether the test split is also scored, once, at the end.
        labels: the targets that are scored: `all` targets, the `answer` tokens of a task, or the `last` answer token.
        layer_cut: whether the model is also scored, at the end, with only its first k blocks, for every k, on the same splits and
            passes.
        context_lengths: the window lengths, in tokens, at which the same splits are also scored at the end; none is above the
            window length of the data.
        length_factors: the factors by which a task's sequences are made longer for further scores at the end.
        embeddings: whether the angles in and between the tables of tokens and positions are also measured at the end.
        pairs: the file or folder of minimal pairs, or a .zip of them such as BLiMP, that are also scored at the end
            (`validation.pairs.accuracy`), ltr, or rtl for an objective that is rtl alone; see `data.pairs`.
        last_word: the .jsonl file whose texts' last words are also scored at the end (`validation.last_word.accuracy`).
        pairs_sha256, last_word_sha256: the hashes of these files, which the resolution of a spec fills in; a run with these hashes
            refuses other files under the same names.
        retrieval: a retriever that is trained from a copy of the last weights and scored (`validation.retrieval_full.ndcg_at_10`).
        layer_cut_refit_steps: the number of steps that train a new final norm and head for each cut, for further scores at the end;
            0: no further scores.
    """

    split: Annotated[Literal["validation", "tuning"], LATER] = "validation"
    directions: tuple[Direction, ...] = Field(default=("ltr", "rtl"), min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    windows: Annotated[WindowChoice, LATER] = "first"
    curve_tokens: Annotated[int | None, LATER] = Field(default=None, ge=1)
    batch_windows: int = Field(default=32, ge=1, le=10**5)
    test: bool = False
    context_lengths: tuple[Annotated[int, Field(ge=2)], ...] = ()
    labels: Annotated[Labels, LATER] = "all"
    layer_cut: bool = False
    length_factors: Annotated[tuple[Annotated[int, Field(ge=2, le=1024)], ...], LATER] = ()
    embeddings: Annotated[bool, LATER] = False
    layer_cut_refit_steps: int = Field(default=0, ge=0, le=10**6)
    pairs: Annotated[str | None, LATER] = Field(default=None, min_length=1)
    pairs_sha256: Annotated[str | None, LATER] = Field(default=None, pattern=HEX_SHA256)
    last_word: Annotated[str | None, LATER] = Field(default=None, min_length=1)
    last_word_sha256: Annotated[str | None, LATER] = Field(default=None, pattern=HEX_SHA256)
    retrieval: Annotated[Retrieval | None, LATER] = None

    @property
    def of_sentences(self) -> dict[str, str]:
        """The files of sentences that are scored: `pairs`, `last_word` -> the name of the file."""
        names = {"pairs": self.pairs, "last_word": self.last_word}
        return {field: name for field, name in names.items() if name is not None}

    @field_validator("directions")
    @classmethod
    def _each_once(cls, directions: tuple[Direction, ...]) -> tuple[Direction, ...]:
        if len(set(directions)) != len(directions):
            raise ValueError("each direction is scored once")
        return directions

    @field_validator("curve_tokens")
    @classmethod
    def _a_part_of_the_last_evaluation(cls, tokens: int | None, info: ValidationInfo) -> int | None:
        most = info.data.get("max_tokens")
        if tokens is not None and most is not None and tokens > most:
            raise ValueError(f"{tokens} is more than max_tokens = {most}")
        return tokens

    @field_validator("layer_cut_refit_steps")
    @classmethod
    def _refits_belong_to_a_cut(cls, steps: int, info: ValidationInfo) -> int:
        if steps and not info.data.get("layer_cut", True):
            raise ValueError("nothing is refitted without layer_cut = true")
        return steps


class RunSettings(Config):
    """All settings of a run except its seed. An arm is a change of these settings.

    Attributes:
        labels: the targets that the loss is summed over: `all` targets, the `answer` tokens of a task, or the `last` answer token.
        threads: the number of CPU threads of this run. It is part of the spec, because rounding depends on the number of threads.
        device: the device of the run; `auto` means CUDA if CUDA is available, else the CPU.
        start_from: the run whose weights this run starts from; None: new weights.
    """

    data: Annotated[Data, DATA]
    model: Annotated[ModelConfig, one_of(lambda: MODELS, "model")]
    objective: Annotated[Objective, one_of(lambda: OBJECTIVES, "objective")]
    recipe: Annotated[Recipe, one_of(lambda: RECIPES, "recipe")]
    evaluation: EvaluationConfig = EvaluationConfig()
    labels: Annotated[Labels, LATER] = "all"
    threads: int = Field(default=1, ge=1, le=1024)
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    start_from: Annotated[StartFrom | None, LATER] = None

    @model_validator(mode="after")
    def _fits_together(self) -> RunSettings:
        self._check_data()
        if isinstance(self.data, TaskData):
            for factor in self.evaluation.length_factors:
                self.data.longer(factor)  # raises an error for a factor that is not possible for the task
        self._check_user_task()
        self._check_user_objective()
        self._check_mixers_read_both_sides()
        self._check_labels()
        return self

    def _check_data(self) -> None:
        """Refuse an objective, a recipe or an evaluation that needs more than the data can give."""
        evaluation, window_tokens = self.evaluation, self.data.window_tokens
        text = not isinstance(self.data, TaskData)
        longest = max(evaluation.context_lengths, default=0)
        no_answers, whole = "text marks no answers: use 'all' or 'last'", "a task is read in whole sequences"
        only_tasks = "only the sequences of a task can be made longer"
        needs_answers = f"{self.objective.kind_name()} needs the answers of a task, and text marks none"
        no_tuning = evaluation.split == "tuning" and not self.data.keeps("tuning")
        refusals = (
            (no_tuning, "evaluation.split", "the tuning split needs data.tuning_fraction"),
            (text and self.labels == "answer", "labels", no_answers),
            (text and evaluation.labels == "answer", "evaluation.labels", no_answers),
            (
                text and getattr(self.objective, "hide_answers", False),
                "objective.hide_answers",
                "text marks no answers to hide; set it to false and give a rate",
            ),
            (text and getattr(self.objective, "needs_answers", False), "objective", needs_answers),
            (not text and self.recipe.growth, "recipe.growth", f"{whole}, so their length cannot grow"),
            (text and evaluation.length_factors, "evaluation.length_factors", only_tasks),
            (not text and longest, "evaluation.context_lengths", whole),
            (not text and evaluation.pairs, "evaluation.pairs", "the tokens of a task write no sentences"),
            (not text and evaluation.last_word, "evaluation.last_word", "the tokens of a task write no sentences"),
            (not text and evaluation.retrieval, "evaluation.retrieval", "the tokens of a task write no documents"),
            (
                evaluation.last_word and self.objective.groups() == ("rtl",),
                "evaluation.last_word",
                "an objective that is rtl alone reads no text before the last word",
            ),
            (
                not text and evaluation.windows == "spread",
                "evaluation.windows",
                "the sequences of a task are independent of each other: use 'first'",
            ),
            (
                longest and evaluation.windows == "spread",
                "evaluation.windows",
                "windows of other lengths would be spread over other text: context_lengths needs 'first'",
            ),
            (
                longest > window_tokens,
                "evaluation.context_lengths",
                f"{longest} is more than data.window_tokens = {window_tokens}",
            ),
        )
        for is_refused, field, message in refusals:
            if is_refused:
                raise BadInput(message, field=field)

    def _check_labels(self) -> None:
        """Refuse labels that leave no target to score, in training or in the evaluation passes of the objective."""
        passes = evaluation_passes(self.objective, self.evaluation.directions)
        groups = self.objective.groups()
        own = [objective for name, objective in passes.items() if name in groups] or list(passes.values())
        window = self.data.window_tokens
        check_scores_some(self.objective, self.labels, self._sample_windows, window, "labels")
        if len(own) == 1:  # among several passes, a pass that scores no target is left out
            check_scores_some(own[0], self.evaluation.labels, self._sample_windows, window, "evaluation.labels")

    def _sample_windows(self) -> Windows:
        """Some windows that the checks of parts use: zeros for text, real sequences with their answers for a task."""
        if not isinstance(self.data, TaskData):
            return Windows(torch.zeros(CHECKED_WINDOWS, self.data.window_tokens, dtype=torch.long))
        sample = self.data.task.sample(CHECKED_SEQUENCES, generator(0, "label check"))
        check_sample(self.data.task, sample, CHECKED_SEQUENCES)
        return sample

    def _check_user_task(self) -> None:
        """Draw sequences of a user's task. Refuse labels that need answers if the task marks no answers."""
        if not isinstance(self.data, TaskData) or not self.data.task.kind_name().startswith(USER_PREFIX):
            return
        answers = self._sample_windows().answers
        message = f"{self.data.task.kind_name()} marks no answers in {CHECKED_SEQUENCES} sequences"
        for field, labels in (("labels", self.labels), ("evaluation.labels", self.evaluation.labels)):
            if answers is not None and not answers.any() and labels != "all":
                raise BadInput(message, field=field)

    def _check_user_objective(self) -> None:
        """Call the `example` method of a user's objective, and refuse a result that is no `Example` of the windows it was given."""
        kind = self.objective.kind_name()
        if not kind.startswith(USER_PREFIX):
            return
        windows = self._sample_windows()
        progress = Progress(0, self.recipe.steps, self.objective.state())
        count, length = windows.tokens.shape
        draw = self.objective.draw(count, length, generator(0, "objective check"), progress)
        specials = SpecialTokens(int(windows.tokens.max()) + 1)
        example = self.objective.example(windows.tokens, windows.decisions(draw), specials)
        if not isinstance(example, Example):
            message = f"the method example of {kind} returns {type(example).__name__}, not an Example"
            raise BadInput(message, field="objective")
        if not example.inputs.shape[-1]:
            message = f"{kind} makes rows without slots from windows of {self.data.window_tokens} tokens"
            raise BadInput(message, field="objective")
        if not bool(example.loss_weight.isfinite().all()):
            message = f"{kind} gives a loss_weight that is no finite number, so no loss can be computed"
            raise BadInput(message, field="objective")

    def _check_mixers_read_both_sides(self) -> None:
        """Refuse a mixer that lacks the form which an objective without a direction needs, such as `full` attention."""
        if self.objective.reads_in_a_direction:
            return
        form = getattr(self.objective, "native", "full")
        for mixer in getattr(self.model, "layer_mixers", tuple)():
            if why := mixer.refusal(form):
                message = f"the mixer {mixer.kind_name()} cannot be read without a direction: {why}"
                raise BadInput(message, field="model.mixer")


class RunSpec(RunSettings):
    """The settings and the seed of a run. Spec and execution fingerprint together determine every bit of the run.

    Attributes:
        version: the version of the format of this spec.
        numerics_version: the numerics version that the run is computed with; default: the version of this program. A spec in a
            store keeps the version of the program that trained the run, and the run id is made with it.
    """

    version: Version = SPEC_VERSION
    seed: int = Field(ge=0, lt=SEED_LIMIT)
    numerics_version: Annotated[int, AfterValidator(known_numerics)] = Field(default_factory=lambda: NUMERICS_VERSION)

    @classmethod
    def of(cls, settings: RunSettings, seed: int) -> RunSpec:
        """These settings with this seed."""
        return cls(**{name: getattr(settings, name) for name in RunSettings.model_fields}, seed=seed)

    @property
    def settings(self) -> RunSettings:
        """This spec without its seed."""
        return RunSettings(**{name: getattr(self, name) for name in RunSettings.model_fields})

    @property
    def run_id(self) -> str:
        """The id of the run, 16 hex characters: the hash of this spec, its numerics version, and the user code in the spec."""
        spec = identity(self)
        version = spec.pop("numerics_version")  # the first specs did not hold it, so the hash has it beside the spec
        return content_hash({"numerics_version": version, "spec": spec})[:RUN_ID_CHARACTERS]

    def check_numerics(self) -> None:
        """Refuse to train a run that began with another numerics version: its bits could not be those of one program.

        Raises:
            BadInput: the run has another numerics version than this program.
        """
        if self.numerics_version != NUMERICS_VERSION:
            begun = f"run {self.run_id} was begun with numerics version {self.numerics_version}"
            hint = "run the experiment from its own file, which makes new runs"
            message = f"{begun}, and this program has {NUMERICS_VERSION}"
            raise BadInput(message, field="numerics_version", hint=hint)
