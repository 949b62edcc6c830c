"""What a scale is in blocks, width and parameters, read from the runs themselves (of imported runs, from what was published)."""

from __future__ import annotations

from dataclasses import dataclass

from palinode.analysis.verdict import rule_of
from palinode.results.record import ExperimentRecord, ExperimentRun

SIZE_AXES = ("depth", "width", "parameters")


@dataclass(frozen=True)
class ScaleSize:
    """The model of one scale. A number is None where no run says it, or where the runs that count disagree.

    Attributes:
        depth: blocks; `width`: of the residual stream; `parameters`: all of them.
    """

    scale: str
    depth: int | None
    width: int | None
    parameters: int | None

    def of(self, axis: str) -> int | None:
        """One of depth, width, parameters."""
        return {"depth": self.depth, "width": self.width, "parameters": self.parameters}[axis]


def scale_sizes(record: ExperimentRecord) -> dict[str, ScaleSize]:
    """The size of every scale, in the entry's order: the baseline's model where it has runs, else that of all arms."""
    baseline = rule_of(record.entry).baseline
    found = {}
    for scale in record.entry.scales:
        runs = [run for run in record.runs if run.entry.scale == scale]
        counting = [run for run in runs if run.entry.arm == baseline and run.record is not None] or runs
        found[scale] = ScaleSize(
            scale,
            _agreed([_model(run, "layers") for run in counting]),
            _agreed([_model(run, "width") for run in counting]),
            _agreed([run.result.parameters.get("total") if run.result is not None else None for run in counting]),
        )
    return found


def varying(sizes: dict[str, ScaleSize]) -> tuple[str, ...]:
    """The size axes that take at least two values."""
    return tuple(axis for axis in SIZE_AXES if len({size.of(axis) for size in sizes.values()} - {None}) > 1)


def _agreed(values: list[int | None]) -> int | None:
    known = set(values) - {None}
    return known.pop() if len(known) == 1 else None


def _model(run: ExperimentRun, field: str) -> int | None:
    model = run.record.spec.get("model") if run.record is not None else None
    value = model.get(field) if isinstance(model, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
