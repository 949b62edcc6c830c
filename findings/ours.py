"""What the runs of a page were, in a sentence: a reader holds it against the published ones before any number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from palinode.results.record import ExperimentRecord


def ours(records: Iterable[ExperimentRecord]) -> str:
    """Data, sizes and lengths of the finished runs of experiments; empty where none is finished."""
    done = [
        (run.record.spec, run.record.result)
        for record in records
        for run in record.runs
        if run.record is not None and run.record.result is not None and run.outcome == "done"
    ]
    if not done:
        return ""
    data = dict.fromkeys(read(spec["data"], spec["recipe"]) for spec, _ in done)
    parameters = span([result.parameters["total"] for _, result in done])
    steps = span([result.counters["optimizer_steps"] for _, result in done])
    tokens = span([result.counters["tokens_read"] for _, result in done])
    return f"{'; '.join(data)}; {parameters} parameters, {steps} steps, {tokens} tokens read a run"


def read(data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """What one run was trained on."""
    if "task" in data:
        task, sequences = data["task"], data["train_sequences"]
        options = ", ".join(f"{name} {value}" for name, value in task.items() if type(value) is int)
        drawn = f"{sequences:,} sequences again and again" if sequences else "drawn afresh"
        return f"{task['kind']} ({options}), {drawn}, {recipe['batch_windows']} sequences a step"
    return f"{data['corpus']} as {data['tokenizer']} in windows of {data['window_tokens']} tokens"


def span(values: Iterable[float]) -> str:
    """One number, or the least to the most."""
    ends = sorted(values)
    return " to ".join(f"{value:,.0f}" for value in dict.fromkeys((ends[0], ends[-1])))
