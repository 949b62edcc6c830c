"""What the runs of a page were, in a sentence: a reader holds it against the published ones before any number."""

from __future__ import annotations

from collections.abc import Iterable

from palinode.results.record import ExperimentRecord


def ours(records: Iterable[ExperimentRecord]) -> str:
    """Text, tokens, sizes and lengths of the finished runs of experiments on text; empty where none is finished."""
    done = [
        (run.record.spec, run.record.result)
        for record in records
        for run in record.runs
        if run.record is not None and run.record.result is not None and run.outcome == "done"
    ]
    if not done:
        return ""
    data = dict.fromkeys(
        f"{spec['data']['corpus']} as {spec['data']['tokenizer']} in windows of {spec['data']['window_tokens']} tokens"
        for spec, _ in done
    )
    parameters = span([result.parameters["total"] for _, result in done])
    steps = span([result.counters["optimizer_steps"] for _, result in done])
    read = span([result.counters["tokens_read"] for _, result in done])
    return f"{', '.join(data)}; {parameters} parameters, {steps} steps, {read} tokens read a run"


def span(values: Iterable[float]) -> str:
    """One number, or the least to the most."""
    ends = sorted(values)
    return " to ".join(f"{value:,.0f}" for value in dict.fromkeys((ends[0], ends[-1])))
