"""The size of the models at each scale (blocks, width, parameters), read from the specs and results of the runs."""

from __future__ import annotations

from dataclasses import dataclass

from palinode.results.files import count
from palinode.results.record import ExperimentRecord, ExperimentRun

SIZE_AXES = ("depth", "width", "parameters")


@dataclass(frozen=True)
class ScaleSize:
    """The size of the model at one scale. A field is None if no run stores its value, or if the runs store different values.

    Attributes:
        depth: the number of blocks.
        width: the width of the residual stream.
        parameters: the number of all parameters.
    """

    scale: str
    depth: int | None
    width: int | None
    parameters: int | None

    def columns(self) -> dict[str, int | None]:
        """The size of the model as a mapping: axis in SIZE_AXES -> number."""
        return {"depth": self.depth, "width": self.width, "parameters": self.parameters}


def scale_sizes(record: ExperimentRecord) -> dict[str, ScaleSize]:
    """The model size at every scale, in the order of the experiment's entry.

    If the store has runs of the baseline at a scale, the size is read from these runs, otherwise from the runs of all arms.
    """
    baseline = record.entry.rule.baseline
    sizes = {}
    for scale in record.entry.scales:
        runs = [run for run in record.runs if run.entry.scale == scale]
        counting = [run for run in runs if run.entry.arm == baseline and run.record is not None] or runs
        sizes[scale] = ScaleSize(
            scale,
            _agreed([_model(run, "layers") for run in counting]),
            _agreed([_model(run, "width") for run in counting]),
            _agreed([run.result.parameters.get("total") if run.result is not None else None for run in counting]),
        )
    return sizes


def varying(sizes: dict[str, ScaleSize]) -> tuple[str, ...]:
    """The size axes on which the models have at least two different values."""
    return tuple(axis for axis in SIZE_AXES if len({size.columns()[axis] for size in sizes.values()} - {None}) > 1)


def _agreed(values: list[int | None]) -> int | None:
    known = set(values) - {None}
    return known.pop() if len(known) == 1 else None


def _model(run: ExperimentRun, field: str) -> int | None:
    model = run.record.spec.get("model") if run.record is not None else None
    return count(model.get(field)) if isinstance(model, dict) else None
