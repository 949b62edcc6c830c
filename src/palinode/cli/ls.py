"""`palinode ls`: what the store holds; `palinode show NAME`: one run or one experiment of the store, in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palinode.base.errors import BadInput, Damaged
from palinode.cli import options
from palinode.cli.options import MEGABYTE, as_json
from palinode.cli.stores import open_store
from palinode.cli.texttable import shown, terminal_characters, text_table

if TYPE_CHECKING:
    from palinode.results.index import RunRow
    from palinode.results.record import ExperimentEntry, Record
    from palinode.results.store import Store

EXPERIMENT_COLUMNS = ("experiment", "arms", "runs", "done", "other", "created")
RUN_COLUMNS = ("run", "outcome", "experiment", "arm", "scale", "seed", "step", "loss", "min left", "MB")
ATTEMPT_COLUMNS = ("attempt", "host", "kind", "from", "to", "cost")
NOTHING = "-"


def ls(
    store: options.StorePath = options.DEFAULT_STORE,
    runs: Annotated[bool, typer.Option("--runs", help="List runs instead of experiments.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file, and hold it against its hash; exit 4 if one is damaged.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List the experiments of the store, or its runs."""
    place = open_store(store)
    if verify:
        _verify(place, json=json)
        return
    typer.echo(_runs(place, json=json) if runs else _experiments(place, json=json))
    for damage in place.damaged_experiments():
        typer.echo(f"damaged: {damage}", err=True)


def _verify(store: Store, *, json: bool) -> None:
    from palinode.results.verify import verify

    verified = verify(store)
    store.rebuild_index()
    if json:
        numbers = {"files": verified.files, "unprotected": list(map(str, verified.unprotected))}
        typer.echo(as_json(numbers | {"damaged": list(map(str, verified.damaged))}))
    else:
        typer.echo(f"{verified.files} files were read, {len(verified.damaged)} are damaged")
        if verified.unprotected:
            first = f"the first is {verified.unprotected[0]}"
            typer.echo(
                f"{len(verified.unprotected)} have no hash of their content, because an older version wrote them; {first}"
            )
        for damage in verified.damaged:
            typer.echo(f"damaged: {damage}", err=True)
    if verified.damaged:
        raise typer.Exit(Damaged.exit_code)


def _experiments(store: Store, *, json: bool) -> str:
    outcomes = {row.run_id: row.outcome for row in store.listing()}
    entries = store.experiments()
    if json:
        return as_json([{"name": entry.full_name, "runs": _count(entry, outcomes)} for entry in entries])
    rows = []
    for entry in entries:
        counts = _count(entry, outcomes)
        other = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if outcome != "done")
        numbers = (str(len(entry.arms)), str(len(entry.runs)), str(counts.get("done", 0)))
        rows.append([entry.full_name, *numbers, other, entry.created])
    return text_table(EXPERIMENT_COLUMNS, rows, right=("arms", "runs", "done")) if rows else "no experiments yet"


def _count(entry: ExperimentEntry, outcomes: Mapping[str, str]) -> Counter[str]:
    return Counter(outcomes.get(run.run_id, "missing") for run in entry.runs)


def _runs(store: Store, *, json: bool) -> str:
    cells = {run.run_id: (entry.full_name, run.arm, run.scale) for entry in store.experiments() for run in entry.runs}
    listed = [listed_run(row, cells.get(row.run_id), store) for row in store.listing()]
    return as_json(listed) if json else runs_table(listed) or "no runs yet"


def runs_table(listed: Sequence[Mapping[str, Any]], most_characters: int | None = None) -> str:
    """A table of what `listed_run` gives; empty for no runs.

    Args:
        most_characters: the width of a line; None: the width of the terminal.
    """
    optional = [name for name in ("host", "last beat", "reason") if any(row[name] for row in listed)]
    columns = (*RUN_COLUMNS, *optional)
    rows = [[_cell(row, column) for column in columns] for row in listed]
    width = most_characters or terminal_characters()
    right = ("seed", "step", "loss", "min left", "MB")
    return text_table(columns, rows, right=right, most_characters=width) if rows else ""


def listed_run(row: RunRow, cell: tuple[str, str, str] | None, store: Store) -> dict[str, Any]:
    """A run with the experiment, arm and scale that it belongs to, the bytes of its files, and how far it is."""
    from palinode.results.files import bytes_of
    from palinode.sweep.watching import so_far

    directory = store.run_directory(row.run_id)
    listed = asdict(row) | dict(zip(("experiment", "arm", "scale"), cell or (None, None, None), strict=True))
    listed |= {"bytes": bytes_of(directory), "minutes_left": None, "host": None, "last beat": None}
    if row.outcome != "unfinished":
        return listed
    seen = so_far(directory, row.steps)
    listed |= {"outcome": seen.state, "step": seen.step, "loss": seen.loss, "host": seen.host}
    listed["minutes_left"] = None if seen.seconds_left is None else seen.seconds_left / 60
    listed["last beat"] = None if seen.beat_seconds is None else f"{seen.beat_seconds:.0f} s ago"
    return listed


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column == "run":
        return str(row["run_id"])
    if column == "step":
        step, steps = row["step"], row["steps"]
        return NOTHING if step is None else f"{step}/{steps or '?'}"
    if column == "min left":
        return NOTHING if row["minutes_left"] is None else f"{row['minutes_left']:.1f}"
    if column == "MB":
        return f"{row['bytes'] / MEGABYTE:.1f}"
    value = row[column]
    if column == "reason":
        return shown((value or "").partition("\n")[0], 60)
    return NOTHING if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


# --- one run or one experiment -----------------------------------------------------------------------------------------


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An experiment, or (the beginning of) a run's id.")],
    store: options.StorePath = options.DEFAULT_STORE,
    json: options.Json = False,
) -> None:
    """Show one experiment or one run in full.

    Of an experiment: its question, arms and runs. Of a run: its spec, outcome, scores, cost, machine and attempts.
    """
    place = open_store(store)
    from palinode.base.config import encode

    is_experiment = any(name in (entry.name, entry.full_name) for entry in place.experiments())
    if not is_experiment and any(run_id.startswith(name) for run_id in place.run_ids()):
        record = place.record(place.find(name))
        data: dict[str, Any] = {"run_id": record.run_id, "outcome": record.outcome, "spec": dict(record.spec)}
        data |= {"result": encode(record.result) if record.result else None}
        data |= {"attempts": attempts} if (attempts := _attempts(record)) else {}
        if record.result and record.result.may_differ_by:
            data["may_differ_by"] = record.result.may_differ_by
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
    lines += [f"\n  {choice.words}" for choice in entry.choices]
    lines += [f"\n  {stack.arm} at {stack.scale}: {stack.words}" for stack in entry.stacks]
    rows = [[run.arm, run.scale, str(run.seed), run.run_id, outcomes.get(run.run_id, "missing")] for run in entry.runs]
    return "\n".join([*lines, "", text_table(("arm", "scale", "seed", "run", "outcome"), rows, right=("seed",))])


def _stamps(entry: ExperimentEntry, store: Store) -> dict[str, str]:
    """arm -> the text after the arm's name that says whether the audit of the arm showed a leak or a collapse."""
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
        optional = [title for title in ("rates", "source") if getattr(result, title)]
        for title in ("counters", "parameters", "seconds", "fingerprint", *optional):
            lines += ["", title, *(f"  {name}: {_brief(value)}" for name, value in getattr(result, title).items())]
        lines += [result.may_differ_by] if result.may_differ_by else []
        lines.append(f"weights SHA-256: {result.weights_sha256}, attempts: {result.attempts}")
    attempts = _attempts(record)
    if attempts:
        rows = [[shown(one[name], 40) for name in ATTEMPT_COLUMNS] for one in attempts]
        lines += ["", text_table(ATTEMPT_COLUMNS, rows, right=("attempt", "cost"))]
    return "\n".join(lines)


def _attempts(record: Record) -> list[dict[str, str]]:
    """The attempts on a run: where, on what kind of machine, from when to when, and at what cost. Unknown values are `-`."""
    from palinode.results.holds import all_holds

    kind = record.result.kind if record.result is not None and record.result.fingerprint else NOTHING
    rows = []
    for hold in all_holds(record.directory):
        content, times, cost = hold.content or {}, hold.times, hold.cost
        is_last = record.result is not None and hold.number == record.result.attempts
        rows.append(
            {
                "attempt": str(hold.number),
                "host": str(content.get("host", NOTHING)),
                "kind": kind if is_last else str(content.get("kind", NOTHING)),
                "from": f"{times[0]:%Y-%m-%d %H:%M:%S}" if times is not None else str(content.get("started", NOTHING)),
                "to": f"{times[1]:%Y-%m-%d %H:%M:%S}" if times is not None else NOTHING,
                "cost": f"{cost[0]:.4g} {cost[1]}" if cost is not None else NOTHING,
            }
        )
    return rows


def _brief(value: object) -> str:
    return shown(f"{value:.6g}" if isinstance(value, float) else str(value), 80)
