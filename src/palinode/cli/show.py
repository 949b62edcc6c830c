"""`palinode show NAME`: one run or one experiment, in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.stores import open_store
from palinode.cli.texttable import shown, text_table

if TYPE_CHECKING:
    from palinode.results.record import ExperimentEntry, Record
    from palinode.results.store import Store


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An experiment, or (the beginning of) a run's id.")],
    store: options.StorePath = options.DEFAULT_STORE,
    json: options.Json = False,
) -> None:
    """Show one experiment or one run in full.

    Of an experiment: its question, arms and runs. Of a run: its spec, outcome, scores, cost and machine.
    """
    place = open_store(store)
    from palinode.base.config import encode
    from palinode.base.errors import BadInput

    if any(run_id.startswith(name) for run_id in place.run_ids()):
        record = place.record(place.find(name))
        data: dict[str, Any] = {"run_id": record.run_id, "outcome": record.outcome, "spec": dict(record.spec)}
        data |= {"result": encode(record.result) if record.result else None}
        typer.echo(as_json(data) if json else _run_text(record))
        return
    try:
        entry = place.entry(name)
    except BadInput as error:
        raise BadInput(f"{name!r} is neither an experiment nor a run here", file=str(store), hint=error.hint) from None
    typer.echo(as_json(encode(entry)) if json else _experiment_text(entry, place))


def _experiment_text(entry: ExperimentEntry, store: Store) -> str:
    outcomes = {row.run_id: row.outcome for row in store.listing()}
    lines = [entry.full_name, f"  {shown(entry.question)}", f"  command: {shown(' '.join(entry.command)) or 'unknown'}"]
    lines += [f"  {name}: {value}" for name, value in entry.decision.items()]
    stamps = _stamps(entry, store)
    for arm in entry.arms:
        lines.append(f"\n  arm {shown(arm.name)}{stamps[arm.name]}  {shown(arm.note)}".rstrip())
        lines += [f"    {path}: {_brief(before)} -> {_brief(after)}" for path, before, after in arm.diff]
    for choice in entry.choices:
        tried = ", ".join(
            f"{value:g}: {_brief(score)}" for value, score in zip(choice.values, choice.scores, strict=True)
        )
        edge = ", at the edge" if choice.at_the_edge else ""
        lines.append(
            f"\n  {choice.arm} at {choice.scale}: {choice.field} = {choice.chosen:g}{edge} (tuning split: {tried})"
        )
    rows = [[run.arm, run.scale, str(run.seed), run.run_id, outcomes.get(run.run_id, "missing")] for run in entry.runs]
    return "\n".join([*lines, "", text_table(("arm", "scale", "seed", "run", "outcome"), rows, right=("seed",))])


def _stamps(entry: ExperimentEntry, store: Store) -> dict[str, str]:
    """arm -> the text behind its name that says whether its audit showed a leak or a collapse."""
    from palinode.analysis.audits import arm_audit

    record, texts = store.experiment(entry.full_name), {}
    for arm in entry.arms:
        audit = arm_audit(record, arm.name)
        leak = _stamp("LEAK", audit.leak, declared=arm.expect_leak)
        texts[arm.name] = leak + _stamp("COLLAPSE", audit.collapse, declared=arm.expect_collapse)
    return texts


def _stamp(word: str, state: str, *, declared: bool) -> str:
    if state == "none":
        return f"  (expected to {word.lower()})" if declared else ""
    return f"  {word}{', as expected' if state == 'expected' else ''}"


def _run_text(record: Record) -> str:
    from palinode.base.config import leaves

    imported = record.result is not None and record.result.provenance == "imported"
    lines = [f"run {record.run_id}: {record.outcome}{', imported: not trained here' if imported else ''}"]
    if record.reason:
        lines.append(f"  {shown(record.reason.splitlines()[0])}")
    lines += [f"  {path}: {_brief(value)}" for path, value in leaves(record.spec).items()]
    if (result := record.result) is not None:
        scores = [
            [split, direction, name, f"{value:.6g}" if value is not None else "–"]
            for split, by_direction in result.scores.items()
            for direction, by_name in by_direction.items()
            for name, value in by_name.items()
        ]
        lines += ["", text_table(("split", "direction", "score", "value"), scores, right=("value",))] if scores else []
        for title in ("counters", "parameters", "seconds", "fingerprint", *(["source"] if result.source else [])):
            lines += ["", title, *(f"  {name}: {_brief(value)}" for name, value in getattr(result, title).items())]
        lines.append(f"weights SHA-256: {result.weights_sha256}, attempts: {result.attempts}")
    return "\n".join(lines)


def _brief(value: object) -> str:
    return shown(f"{value:.6g}" if isinstance(value, float) else str(value), 80)
