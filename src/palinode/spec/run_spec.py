"""One run, fully resolved: data, model, objective, recipe, evaluation, seed. Its id is the hash of what it says.

Same id, same run: an experiment reuses what another one trained. The hash covers the numerics version of this program and
the code of every class the user wrote (a user's part encodes with the hash of the code that it depends on).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator

from palinode.base.config import LATER, USER_PREFIX, Config, content_hash, identity, one_of
from palinode.base.errors import BadInput
from palinode.base.example import Example, SpecialTokens, Windows
from palinode.base.measures import Direction
from palinode.base.seeds import NUMERICS_VERSION, generator
from palinode.data.source import DATA, Data
from palinode.data.task_store import TaskData
from palinode.data.tasks.base import check_sample
from palinode.evaluate.losses import evaluation_passes
from palinode.models import MODELS
from palinode.models.base import ModelConfig
from palinode.objectives import OBJECTIVES, Objective, Progress
from palinode.objectives.label_mask import Labels, check_scores_some
from palinode.train.recipe import RECIPES, Recipe

SPEC_VERSION = 1
RUN_ID_CHARACTERS = 16  # 64 bits: two of a million different runs collide with probability 3e-8
SEED_LIMIT = 2**63  # what a torch generator takes
WINDOWS_LOOKED_AT = 8  # of text: all are alike, and an objective may want several
SEQUENCES_LOOKED_AT = 64  # of a task, for the places of its answers


class EvaluationConfig(Config):
    """What is measured after training, the same for every arm.

    Attributes:
        split: the split that is scored along the way and at the end: `tuning` in trials, from which nothing is claimed.
        directions: reading directions that are scored, each on every token.
        max_tokens: score only the first so many tokens of a split; None scores all.
        batch_windows: windows per evaluation batch (does not change the numbers).
        test: also score the test split, once, at the end.
        labels: which targets are scored: `all`, the `answer` tokens of a task, or the `last` of them.
        layer_cut: at the end also score the model with only its first k blocks, for every k, on the same splits and passes.
        context_lengths: at the end also score the same splits cut into windows of these lengths; none is longer than the data's.
        length_factors: of a task: at the end also score sequences so many times as long.
        embeddings: at the end also measure how the tables of tokens and positions lie to each other.
        layer_cut_refit_steps: and with a final norm and head trained so many steps for each k, a short control; 0 leaves it out.
    """

    split: Annotated[Literal["validation", "tuning"], LATER] = "validation"
    directions: tuple[Direction, ...] = Field(default=("ltr", "rtl"), min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    batch_windows: int = Field(default=32, ge=1, le=10**5)
    test: bool = False
    context_lengths: tuple[Annotated[int, Field(ge=2)], ...] = ()
    labels: Annotated[Labels, LATER] = "all"
    layer_cut: bool = False
    length_factors: Annotated[tuple[Annotated[int, Field(ge=2, le=1024)], ...], LATER] = ()
    embeddings: Annotated[bool, LATER] = False
    layer_cut_refit_steps: int = Field(default=0, ge=0, le=10**6)

    @field_validator("directions")
    @classmethod
    def _each_once(cls, directions: tuple[Direction, ...]) -> tuple[Direction, ...]:
        if len(set(directions)) != len(directions):
            raise ValueError("each direction is scored once")
        return directions

    @field_validator("layer_cut_refit_steps")
    @classmethod
    def _refits_belong_to_a_cut(cls, steps: int, info: ValidationInfo) -> int:
        if steps and not info.data.get("layer_cut", True):
            raise ValueError("nothing is refitted without layer_cut = true")
        return steps


class RunSettings(Config):
    """Everything about a run but its seed: what an arm changes.

    Attributes:
        labels: which targets are trained on: `all`, the `answer` tokens of a task, or the `last` of them.
        threads: CPU threads of this run. Part of the spec, because one and two threads round differently.
        device: `auto` takes CUDA when it is there.
    """

    data: Annotated[Data, DATA]
    model: Annotated[ModelConfig, one_of(lambda: MODELS, "model")]
    objective: Annotated[Objective, one_of(lambda: OBJECTIVES, "objective")]
    recipe: Annotated[Recipe, one_of(lambda: RECIPES, "recipe")]
    evaluation: EvaluationConfig = EvaluationConfig()
    labels: Annotated[Labels, LATER] = "all"
    threads: int = Field(default=1, ge=1, le=1024)
    device: Literal["cpu", "cuda", "auto"] = "cpu"

    @model_validator(mode="after")
    def _lengths_fit(self) -> RunSettings:
        if self.evaluation.split == "tuning" and not self.data.keeps("tuning"):
            raise BadInput("the tuning split needs data.tuning_fraction", field="evaluation.split")
        answers = isinstance(self.data, TaskData)
        for field, labels in (("labels", self.labels), ("evaluation.labels", self.evaluation.labels)):
            if labels == "answer" and not answers:
                raise BadInput("text marks no answers; it has 'all' and 'last'", field=field)
        if not answers and getattr(self.objective, "hide_answers", False):
            raise BadInput(
                "text marks no answers to hide; set it to false and give a rate", field="objective.hide_answers"
            )
        if not answers and getattr(self.objective, "needs_answers", False):
            raise BadInput(
                f"{self.objective.kind_name()} asks for the answers of a task, and text marks none", field="objective"
            )
        if answers and self.recipe.growth is not None:
            raise BadInput("a task is read in whole sequences: their length cannot grow", field="recipe.growth")
        if self.evaluation.length_factors:
            if not isinstance(self.data, TaskData):
                raise BadInput("only the sequences of a task can be made longer", field="evaluation.length_factors")
            for factor in self.evaluation.length_factors:
                self.data.longer(factor)
        self._users_parts_give_what_they_must()
        self._model_reads_what_is_asked()
        self._labels_leave_something_to_score()
        longest = max(self.evaluation.context_lengths, default=0)
        if longest and isinstance(self.data, TaskData):
            raise BadInput("a task is read in whole sequences", field="evaluation.context_lengths")
        if longest > self.data.window_tokens:
            raise BadInput(
                f"{longest} is more than data.window_tokens = {self.data.window_tokens}",
                field="evaluation.context_lengths",
            )
        return self

    def _labels_leave_something_to_score(self) -> None:
        """In training, and in the passes of its own that a run is judged by."""
        passes = evaluation_passes(self.objective, self.evaluation.directions)
        own = [made for name, made in passes.items() if name in self.objective.groups()] or list(passes.values())
        window = self.data.window_tokens
        check_scores_some(self.objective, self.labels, self._some_windows, window, "labels")
        if len(own) == 1:  # of several, one that scores nothing is left out
            check_scores_some(own[0], self.evaluation.labels, self._some_windows, window, "evaluation.labels")

    def _some_windows(self) -> Windows:
        """Of a task: enough to see where answers stand. All windows of text are alike."""
        if not isinstance(self.data, TaskData):
            return Windows(torch.zeros(WINDOWS_LOOKED_AT, self.data.window_tokens, dtype=torch.long))
        sample = self.data.task.sample(SEQUENCES_LOOKED_AT, generator(0, "label check"))
        check_sample(self.data.task, sample, SEQUENCES_LOOKED_AT)
        return Windows(sample.tokens, sample.answers)

    def _users_parts_give_what_they_must(self) -> None:
        """Of a user's own task some sequences, of a user's own objective an Example of them."""
        if isinstance(self.data, TaskData) and self.data.task.kind_name().startswith(USER_PREFIX):
            answers = self._some_windows().answers
            asked = {"labels": self.labels, "evaluation.labels": self.evaluation.labels}
            if answers is not None and not answers.any():
                for field in (name for name, labels in asked.items() if labels != "all"):
                    told = f"{self.data.task.kind_name()} marks no answers in {SEQUENCES_LOOKED_AT} sequences"
                    raise BadInput(told, field=field)
        kind = self.objective.kind_name()
        if not kind.startswith(USER_PREFIX):
            return
        windows = self._some_windows()
        progress = Progress(0, self.recipe.steps, self.objective.state())
        count, length = windows.tokens.shape
        draw = self.objective.draw(count, length, generator(0, "objective check"), progress)
        specials = SpecialTokens(int(windows.tokens.max()) + 1)
        example = self.objective.example(windows.tokens, windows.decisions(draw), specials)
        if not isinstance(example, Example):
            raise BadInput(f"example of {kind} gives {type(example).__name__}, not an Example", field="objective")
        if not example.inputs.shape[-1]:
            told = f"{kind} makes rows without slots of windows of {self.data.window_tokens} tokens"
            raise BadInput(told, field="objective")

    def _model_reads_what_is_asked(self) -> None:
        """Without a direction every slot sees every other, or what the objective says: a mixer needs a form for that."""
        if self.objective.reads_in_a_direction:
            return
        form = getattr(self.objective, "native", "full")
        for mixer in getattr(self.model, "layer_mixers", tuple)():
            if why := mixer.refusal(form):
                raise BadInput(
                    f"the mixer {mixer.kind_name()} cannot be read without a direction: {why}", field="model.mixer"
                )


class RunSpec(RunSettings):
    """Settings and a seed: enough to train, and nothing else decides the bits (on one execution fingerprint)."""

    version: int = SPEC_VERSION
    seed: int = Field(ge=0, lt=SEED_LIMIT)

    @field_validator("version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        return known_version(version)

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
        """16 hex characters: the hash of this spec, the numerics version, and the source of user code in it."""
        return content_hash({"numerics_version": NUMERICS_VERSION, "spec": identity(self)})[:RUN_ID_CHARACTERS]


def known_version(version: int) -> int:
    """The version of a spec when this program can read it.

    Raises:
        ValueError: it is newer than this program, or not a version.
    """
    if version > SPEC_VERSION:
        raise ValueError(f"spec version {version} is newer than this program's {SPEC_VERSION}: update palinode")
    if version < 1:
        raise ValueError(f"spec versions start at 1, got {version}")
    return version
