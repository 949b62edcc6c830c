"""The import of published results: each row of the file becomes a run, and all these runs form one experiment.

The published models were not trained by this program, so they were not audited. One check (C8) needs only the losses of a model
and is made at import: an rtl loss far below the ltr loss counts as a leak, and the report marks the arm of the model.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.config import content_hash
from palinode.base.errors import BadInput
from palinode.base.finding import AuditReport, Finding
from palinode.checks.loss_floor import check_directions
from palinode.published.mask_csv import DIRECTIONS, EVAL, FORMAT, PROBABILITIES, TRAIN, MaskFile, MaskRow, read_mask_csv
from palinode.results.record import RESULT_FILE, ArmEntry, ExperimentEntry, Result, RunEntry
from palinode.results.rows import METRICS_FILE
from palinode.results.store import Store

NAME, SIZE = "mask-published", "imported"
QUESTION = "Published: a window is also read right to left with probability p: does that help the left-to-right task?"
# The likely number of tokens in a published evaluation: if it is multiplied by this number, two in three published accuracies
# become whole numbers.
EVALUATION_TOKENS = 153_600
RUN_ID_CHARACTERS = 16


@dataclass(frozen=True)
class Imported:
    """The experiment that an import made, and the findings of the check of its losses.

    Attributes:
        findings: (arm, scale, seed) -> the finding of the check that compares the ltr loss of this run with its rtl loss.
        written: the number of runs that the import added to the store.
    """

    entry: ExperimentEntry
    findings: dict[tuple[str, str, int], Finding]
    written: int

    @property
    def leaking_arms(self) -> tuple[str, ...]:
        """The arms with a run whose rtl loss is too low for a model without a leak."""
        return tuple(dict.fromkeys(arm for (arm, _, _), finding in self.findings.items() if finding.shows_leak))


def import_mask(file: Path, store: Store, name: str = NAME) -> Imported:
    """Store the runs of the mask system's published CSV file. A second import of the same file changes nothing.

    Args:
        name: the name of the experiment; its size is `imported`.

    Raises:
        BadInput: the file is wrong (the message names line and column), or the store has another experiment of this name.
        EnvironmentProblem: the disk cannot be written. A second import of the same file writes the runs that are missing.
    """
    table = read_mask_csv(file)
    arms = {row.line: _arm_name(row) for row in table.rows}
    _refuse_twins(table, arms)
    entry = _entry(table, arms, name)
    before = _entry_there(store, entry)
    findings = {(arms[row.line], row.scale, row.seed): _finding(row) for row in table.rows}
    written = sum(_write_run(store, table, row) for row in table.rows)
    entry = entry.model_copy(update={"created": before.created if before else time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    if before != entry:
        store.write_experiment(entry)
    return Imported(entry, findings, written)


def _arm_name(row: MaskRow) -> str:
    """The name of a row's arm: `p=0.05`, followed by words for the mask, an adaptive p and missing direction tokens."""
    parts = [f"p={row.probability:g}"]
    parts += [] if row.mask == "bidirectional" else [f"{row.directions[0]} only"]
    parts += ["adaptive"] if row.adjusted else []
    parts += [] if row.direction_tokens else ["no direction tokens"]
    return ", ".join(parts)


def _spec(table: MaskFile, row: MaskRow) -> dict[str, Any]:
    """The spec of a published run, with the fields that were published."""
    return {
        "imported": {**table.source, "line": row.line, "run_number": row.run_number},
        "seed": row.seed,
        "data": {"corpus": "wikitext-103", "tokenizer": "gpt2"},
        "model": {
            "kind": "hlb-gpt 0.4.1",
            "layers": row.depth,
            "width": row.width,
            "heads": row.heads,
            "model_scale": row.model_scale,
            "direction_tokens": row.direction_tokens,
        },
        "objective": {
            "kind": f"published {row.mask} mask",
            "directions": list(row.directions),
            "p": {"kind": "adaptive" if row.adjusted else "constant", "value": row.probability},
        },
    }


def _run_id(table: MaskFile, row: MaskRow) -> str:
    """The id of a row's run. The id depends on the bytes of the file and not on the file's name."""
    return content_hash([FORMAT, table.sha256, row.line])[:RUN_ID_CHARACTERS]


def _refuse_twins(table: MaskFile, arms: dict[int, str]) -> None:
    seen: dict[tuple[str, str, int], int] = {}
    for row in table.rows:
        place = (arms[row.line], row.scale, row.seed)
        if place in seen:
            message = f"is line {seen[place]} again: {place[0]}, {place[1]}, seed {row.seed}"
            raise BadInput(message, file=str(table.path), field=f"line {row.line}, column seed")
        seen[place] = row.line


def _entry(table: MaskFile, arms: dict[int, str], name: str) -> ExperimentEntry:
    by_size = sorted(table.rows, key=lambda row: (row.parameters, row.depth, row.heads))
    of_arm = {arm: [row for row in by_size if arms[row.line] == arm] for arm in sorted(set(arms.values()))}
    baseline = next((arm for arm, rows in of_arm.items() if "rtl" not in rows[0].directions), None)
    absent = ArmEntry(name="p=0", note="Left to right only: the baseline. The file holds no such run.")
    entries = [ArmEntry(name=arm, note=_note(rows[0]), diff=_diff(rows[0])) for arm, rows in of_arm.items()]
    entries = sorted(entries, key=lambda arm: arm.name != baseline)
    return ExperimentEntry(
        name=name,
        size=SIZE,
        question=QUESTION,
        command=("palinode", "import", "mask", table.path.name),
        decision={
            "metric": "validation.ltr.nats_per_token",
            "baseline": baseline or absent.name,
            "better": "lower",
            "confidence": 0.95,
            "equal": "tokens_read",
        },
        arms=tuple(entries) if baseline else (absent, *entries),
        scales=tuple(dict.fromkeys(row.scale for row in by_size)),
        seeds=tuple(sorted({row.seed for row in table.rows})),
        runs=tuple(
            RunEntry(arm=arm, scale=row.scale, seed=row.seed, run_id=_run_id(table, row))
            for arm, rows in of_arm.items()
            for row in rows
        ),
        source=table.source,
    )


def _note(row: MaskRow) -> str:
    if "rtl" not in row.directions:
        return "Published: left to right only."
    how = "p follows the ratio of the perplexities" if row.adjusted else f"p = {row.probability:g} throughout"
    return f"Published: every window is read ltr, and with probability p also rtl; {how}."


def _diff(row: MaskRow) -> tuple[tuple[str, Any, Any], ...]:
    p_kind = (("objective.p.kind", "constant", "adaptive"),) if row.adjusted else ()
    tokens = () if row.direction_tokens else (("model.direction_tokens", True, False),)
    return (("objective.p.value", 0, row.probability), *p_kind, *tokens)


def _entry_there(store: Store, entry: ExperimentEntry) -> ExperimentEntry | None:
    """The entry of an earlier import of a file with the same bytes; None if there was no such import.

    Raises:
        BadInput: another experiment has this name.
    """
    before = next((other for other in store.experiments() if other.full_name == entry.full_name), None)
    if before is not None and before.source.get("sha256") != entry.source["sha256"]:
        raise BadInput(
            f"experiment {entry.full_name!r} exists already and came from another file",
            file=str(store.root),
            hint="choose another --name",
        )
    return before


def _write_run(store: Store, table: MaskFile, row: MaskRow) -> bool:
    """Write one run; its result is written last. The return value is False if the store has this run already."""
    run_id = _run_id(table, row)
    directory = store.run_directory(run_id)
    if (directory / RESULT_FILE).exists():
        return False
    store.write_spec(run_id, _spec(table, row))
    fsio.rewrite_lines(directory / METRICS_FILE, list(_metrics(row)))
    store.write_run_audit(run_id, AuditReport(subject=run_id, findings=(_finding(row),)))
    store.write_result(_result(run_id, table, row))
    return True


def _metrics(row: MaskRow) -> Iterable[dict[str, Any]]:
    """The metrics rows of a run. The published training loss of a step is the loss of its last pass, ltr or rtl."""
    lists, last_step = row.lists, int(row.lists[EVAL["steps"]][-1])
    for step, tokens_read, epochs, nats, accuracy in zip(*(lists[column] for column in TRAIN.values()), strict=True):
        yield {
            "event": "train",
            "step": int(step),
            "tokens_read": int(tokens_read),
            "epochs": epochs,
            "nats_by_group": {"as published": nats},
            "accuracy": accuracy,
            "p": None if row.adjusted else row.probability,
        }
    evaluations = zip(*(lists[column] for column in EVAL.values()), strict=True)
    for index, (step, tokens_read, epochs, seconds) in enumerate(evaluations):
        yield {
            "event": "eval",
            "split": "validation",
            "final": step == last_step,
            "step": int(step),
            "tokens_read": int(tokens_read),
            "epochs": epochs,
            "seconds": seconds,
            "scores": {direction: row.scores(direction, index) for direction in DIRECTIONS},
        }
    cuts = {direction: row.cuts(direction) for direction in DIRECTIONS}
    if any(cuts.values()):
        yield {"event": "layer_cut", "step": last_step, "split": "validation", "final": True, "scores": cuts}
    passes = [[value, len(list(equal))] for value, equal in groupby(lists[PROBABILITIES])]
    yield {"event": "rtl_probability", "step": last_step, "p_and_passes": passes}


def _finding(row: MaskRow) -> Finding:
    """The finding of check C8 on the final losses of the directions that were trained."""
    nats = {direction: row.final_nats[direction] for direction in row.directions}
    return check_directions(nats, dict.fromkeys(DIRECTIONS, EVALUATION_TOKENS))


def _result(run_id: str, table: MaskFile, row: MaskRow) -> Result:
    final = {direction: row.scores(direction, -1) for direction in DIRECTIONS}
    for direction, nats in row.final_nats.items():
        # This final loss is from an evaluation whose other scores are not published.
        if final[direction]["nats_per_token"] != nats:
            final[direction] = {"nats_per_token": nats}
    steps, seconds = int(row.lists[EVAL["steps"]][-1]), row.lists[EVAL["seconds"]][-1]
    return Result(
        run_id=run_id,
        outcome="done",
        scores={"validation": final},
        counters={
            "tokens_read": int(row.lists[EVAL["tokens_read"]][-1]),
            "optimizer_steps": steps,
            "evaluations": len(row.lists[EVAL["steps"]]),
        },
        parameters={"total": row.parameters},
        seconds={"total": seconds},
        provenance="imported",
        source={**table.source, "line": row.line},
    )


def leak_lines(imported: Imported) -> Sequence[str]:
    """One line for each arm that leaks."""
    lines = []
    for arm in imported.leaking_arms:
        mine = {place: finding for place, finding in imported.findings.items() if place[0] == arm}
        failed = {place: finding for place, finding in mine.items() if finding.shows_leak}
        (_, scale, seed), worst = min(failed.items(), key=lambda item: float(item[1].numbers["ratio"] or 0))
        lines.append(
            f"LEAK  {arm}: rtl far below ltr in {len(failed)} of {len(mine)} runs; {scale}, seed {seed}: {worst.message}"
        )
    return lines
