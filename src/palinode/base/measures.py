"""The shared vocabulary: measures, costs, outcomes of a run, outcomes of a check.

Each of these lists is written only in this file. To add a measure or a cost, add an entry to its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from palinode.base.errors import BadInput, nearest

# --- the measures -----------------------------------------------------------------------------------------------

Better = Literal["lower", "higher"]
Direction = Literal["ltr", "rtl"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
OWN = "own"  # the direction, in a metric, in which an arm was trained most
METRIC_SPLITS = ("validation", "test", "tuning")


@dataclass(frozen=True)
class Measure:
    """A number that an evaluation gives for every split and direction.

    Attributes:
        name: the key of the measure in the scores of a record.
        title: the name of the measure in a heading.
        unit: the name of the unit on an axis and in a sentence.
        better: whether a lower or a higher value is better.
        is_loss: whether the measure is a mean of -log p of the targets.
        has_chance_levels: whether the measure is a share from 0 to 1, and tasks give the share that guessing reaches.
        of_passes: whether the evaluation passes of a split have it; the measures of retrieval belong to no pass.
    """

    name: str
    title: str
    unit: str
    better: Better = "lower"
    is_loss: bool = False
    has_chance_levels: bool = False
    of_passes: bool = True


MEASURES: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("nats_per_token", "loss", "nats per token", is_loss=True),
        Measure("bits_per_byte", "loss", "bits per byte", is_loss=True),
        Measure("accuracy", "accuracy", "accuracy", better="higher", has_chance_levels=True),
        Measure("perplexity", "perplexity", "perplexity"),
        Measure("ndcg_at_10", "nDCG@10", "nDCG@10", better="higher", of_passes=False),
        Measure("recall_at_100", "recall@100", "recall@100", better="higher", of_passes=False),
    )
}
PASS_MEASURES = tuple(name for name, measure in MEASURES.items() if measure.of_passes)
RETRIEVAL_MEASURES = tuple(name for name, measure in MEASURES.items() if not measure.of_passes)


class Metric(NamedTuple):
    """The name of one score of a run: the split, the reading direction and the measure."""

    split: str
    direction: str
    measure: str

    @classmethod
    def parse(cls, path: str) -> Metric:
        """The metric of a path such as `validation.ltr.nats_per_token`.

        Raises:
            BadInput: no metric has this path; the error names the nearest metric.
        """
        metric = cls(*parts) if len(parts := path.split(".")) == len(cls._fields) else None
        if metric is None or metric not in METRICS:
            hint = nearest(path, map(str, METRICS)) or f"such as {METRICS[0]}"
            raise BadInput(f"unknown metric {path!r}", field="metric", hint=hint)
        return metric

    def __str__(self) -> str:
        return ".".join(self)


PAIRS, LAST_WORD = "pairs", "last_word"  # in the place of a direction: scores of files of sentences
# How a retriever reads a text: causally, without a mask, or causally from both ends with the states joined.
Reading = Literal["ltr", "full", "both"]
READINGS: tuple[Reading, ...] = get_args(Reading)
BM25 = "bm25"


def retrieval_name(reading: str) -> str:
    """The place of a direction in a metric, for late interaction with this reading."""
    return f"retrieval_{reading}"


def mean_pooling_name(reading: str) -> str:
    """The place of a direction in a metric, for the mean of the vectors of this reading."""
    return f"mean_{reading}"


RETRIEVERS = (*map(retrieval_name, READINGS), *map(mean_pooling_name, READINGS), BM25)
BESIDE_PASSES = (PAIRS, LAST_WORD, *RETRIEVERS)  # in the place of a direction: scores that belong to no pass
METRICS = (
    *(
        Metric(split, direction, measure)
        for split in METRIC_SPLITS
        for direction in (*DIRECTIONS, OWN)
        for measure in PASS_MEASURES
    ),
    Metric("validation", PAIRS, "accuracy"),
    Metric("validation", LAST_WORD, "accuracy"),
    Metric("validation", LAST_WORD, "nats_per_token"),
    *(Metric("validation", retriever, measure) for retriever in RETRIEVERS for measure in RETRIEVAL_MEASURES),
)

# If the loss on shuffled pairs is smaller than this, both losses have vanished, and their ratio is a rounding error.
LEAST_SHUFFLED = 1e-6


def probability_words(probability: float) -> str:
    """A probability in percent, with the digits that it has: 95%, 99.9%, 0.1%."""
    return f"{100 * probability:.10g}%"


def affinity(value: float, shuffled: float) -> float | None:
    """1 - value / shuffled: how much lower an auxiliary loss is on true pairs than on shuffled pairs; None when both vanished."""
    return None if shuffled < LEAST_SHUFFLED else 1 - value / shuffled


# --- the costs of a run -------------------------------------------------------------------------------------------

EQUAL_WITHIN = 0.001  # the cost that the decision declares equal may differ by 0.1 % between arms
REMARKED_ABOVE = 0.01  # the audit names every other cost that differs by more than 1 %
ParityAxis = Literal[
    "parameters", "window_tokens", "tokens_read", "tokens_scored_ltr", "train_flops", "optimizer_steps"
]
PARITY_AXES: tuple[ParityAxis, ...] = get_args(ParityAxis)  # a decision may declare one of these costs equal


@dataclass(frozen=True)
class CostAxis:
    """A cost of a run.

    Attributes:
        name: the name of the cost in tables.
        title: the name of the cost in a heading.
        short: the name of the cost on a button.
        table: the table of a result that holds the cost.
        key: the key of the cost in this table; empty: the key is `name`.
        compared: whether check C5 compares the arms in this cost.
    """

    name: str
    title: str
    short: str = ""
    table: Literal["counters", "parameters", "seconds", "rates"] = "counters"
    key: str = ""
    compared: bool = False

    @property
    def stored_key(self) -> str:
        """The key of the cost in its table of a result."""
        return self.key or self.name

    @property
    def heading(self) -> str:
        """The title with a capital letter."""
        return self.title[:1].upper() + self.title[1:]


COST_AXES: Mapping[str, CostAxis] = {
    axis.name: axis
    for axis in (
        CostAxis("parameters", "parameters", table="parameters", key="total"),
        CostAxis("non_embedding", "without embeddings", table="parameters"),
        CostAxis("window_tokens", "window tokens", compared=True),
        CostAxis("tokens_read", "tokens read", "tokens read", compared=True),
        CostAxis("tokens_read_before", "tokens read before, by the runs whose weights it starts from", compared=True),
        CostAxis("tokens_scored", "tokens scored", compared=True),
        CostAxis("tokens_scored_ltr", "tokens scored, ltr", "ltr tokens", compared=True),
        CostAxis("tokens_scored_rtl", "tokens scored, rtl"),
        CostAxis("passes", "passes", compared=True),
        CostAxis("train_flops", "training FLOPs", "FLOPs", compared=True),
        CostAxis("optimizer_flops", "optimizer FLOPs"),
        CostAxis("optimizer_steps", "optimizer steps", "steps", compared=True),
        CostAxis("evaluations", "evaluations"),
        CostAxis("train_seconds", "training seconds", "seconds", table="seconds", key="train"),
        CostAxis("total_seconds", "seconds in all", table="seconds", key="total"),
        CostAxis("product_share", "share of the machine's product rate", table="rates"),
    )
}
# The columns of a metrics row over which a learning curve can be drawn; the first one is shown first.
CURVE_AXES: Mapping[str, CostAxis] = {
    "step": COST_AXES["optimizer_steps"],
    "tokens_read": COST_AXES["tokens_read"],
    "tokens_scored_ltr": COST_AXES["tokens_scored_ltr"],
    "train_flops": COST_AXES["train_flops"],
    "seconds": COST_AXES["train_seconds"],
}

# --- the outcomes of a run and of a check ------------------------------------------------------------------------

RunOutcome = Literal["done", "diverged", "failed", "stopped", "oom"]
RecordOutcome = Literal[RunOutcome, "unfinished", "damaged", "missing"]
FINAL_OUTCOMES: frozenset[RunOutcome] = frozenset(("done", "diverged"))  # a second run would end in the same way
FAILED_OUTCOMES: frozenset[RunOutcome] = frozenset(("failed", "oom"))  # an attempt that did not finish its run
FINE_OUTCOMES: frozenset[RunOutcome] = frozenset(("done", "stopped"))  # these outcomes need no explanation

CheckOutcome = Literal["pass", "fail", "could_not_tell"]
CHECK_WORDS: Mapping[CheckOutcome, str] = {"fail": "fail", "could_not_tell": "could not tell", "pass": "pass"}
