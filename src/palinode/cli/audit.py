"""`palinode audit`: the audit of every arm of a file, or of one model, as text with a map of what is seen; exit 3 on a failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palinode.base.errors import AuditFailed, BadInput, nearest
from palinode.base.measures import CHECK_WORDS, CheckOutcome
from palinode.cli.options import (
    DEFAULT_STORE,
    AllowCodeOption,
    CodeOption,
    JsonOption,
    SetOption,
    SizeOption,
    StoreOption,
    as_json,
    audits_are_kept,
    may_be_store,
    of_file,
    resolve,
    shown,
)

if TYPE_CHECKING:
    from palinode.analysis.audits import ArmAudit
    from palinode.analysis.pictures import Picture
    from palinode.base.finding import AuditReport
    from palinode.results.record import ArmEntry

EXAMPLE = (
    "\b\nExample:\n  palinode audit my_idea.py\n  palinode audit experiments/demo.py --arm both-published-mask\n"
    "  palinode audit hf:llama --quick\n  palinode audit my_package.models:TinyLm"
)
MEANING = "What each check asks, what it cannot see and how to read a failure: docs/checks.md"
WIDEST_MAP_POSITIONS = 64


TargetArgument = Annotated[
    Path,
    typer.Argument(
        metavar="TARGET",
        help="An experiment file; hf:TYPE or hf:FOLDER of transformers; or package.module:Class of a torch module.",
    ),
]


def audit(
    file: TargetArgument,
    size: SizeOption = None,
    changes: SetOption = None,
    arm: Annotated[list[str] | None, typer.Option("--arm", metavar="NAME", help="Only this arm. Repeatable.")] = None,
    store: StoreOption = DEFAULT_STORE,
    code: CodeOption = None,
    allow_code: AllowCodeOption = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check C1 and C6 at the length of a training window alone.")
    ] = False,
    vocab_size: Annotated[int | None, typer.Option("--vocab-size", min=2, help="Of a model: the ids it takes.")] = None,
    window_tokens: Annotated[int, typer.Option("--window-tokens", min=2, help="Of a model: tokens of a window.")] = 32,
    json: JsonOption = False,
) -> None:
    """Show which positions of an arm, or of a model, see what.

    Exit 3 when an arm fails a check that it was not expected to fail.
    """
    from palinode.cli.model_names import is_target

    if is_target(str(file)):
        _audit_model(str(file), vocab_size, window_tokens, quick=quick, json=json)
        return
    may_be_store(store)
    source, resolved = resolve(file, size, changes, None, code=code, allow_code=allow_code)
    for name in arm or []:
        if name not in (names := [one.name for one in resolved.arms]):
            raise BadInput(f"no arm is named {name!r}", file=str(file), field="--arm", hint=nearest(name, names))
    from palinode.experiment.audits import audit_cells, quick_audits
    from palinode.experiment.cells import cells_of
    from palinode.experiment.run import default_at_a_time
    from palinode.results.store import Store
    from palinode.spec.pin import pinned

    wanted = resolved.with_(arms=tuple(one for one in resolved.arms if not arm or one.name in arm))
    if quick:
        audits = quick_audits(cells_of(pinned(wanted)))
    else:
        with audits_are_kept("makes the others"), of_file(file):
            audits = audit_cells(
                cells_of(pinned(wanted)),
                Store(store),
                lambda event: typer.echo(_progress(event), err=True),
                code=source.code,
                workers=default_at_a_time(resolved),
            )
    text = "\n\n".join([*map(audit_text, audits), MEANING])
    typer.echo(as_json([data for one in audits for data in _as_data(one)]) if json else text)
    _refuse_failed(audits, file)


def _audit_model(target: str, vocab_size: int | None, window_tokens: int, *, quick: bool, json: bool) -> None:
    """Audit one model: progress on standard error, the report on standard output."""
    from palinode.audit.any_model import CHECKS, QUICK, QUICK_CHECKS, check
    from palinode.base.config import encode
    from palinode.checks.text import audit_text as report_text
    from palinode.cli.model_names import target_of
    from palinode.train.device import use_threads

    use_threads(1)  # a small model gains nothing from two, and waits for the second one on a busy machine
    model = target_of(target, vocab_size)
    report = check(
        model.model,
        vocab_size=model.vocab_size,
        window_tokens=window_tokens,
        checks=QUICK_CHECKS if quick else CHECKS,
        name=target,
        options=QUICK if quick else None,
        on_progress=lambda text: typer.echo(text, err=True),
    )
    typer.echo(as_json(encode(report)) if json else f"{report_text(report)}\n\n{MEANING}")
    if report.outcome == "fail":
        first = next(finding for finding in report.findings if finding.outcome == "fail")
        raise AuditFailed(f"failed its audit: {first.check}", file=target)


def _refuse_failed(audits: Sequence[ArmAudit], file: object) -> None:
    """End the command where an arm failed a check that it was not expected to fail.

    Raises:
        AuditFailed: naming the arms.
    """
    if unexpected := [one for one in audits if one.unexpected]:
        failed = ", ".join(dict.fromkeys(f"{one.arm.name} ({one.unexpected[0].finding.check})" for one in unexpected))
        raise AuditFailed(
            f"failed its audit: {failed}",
            file=str(file),
            hint="mark an arm that is meant to leak expect_leak, one that is meant to collapse expect_collapse",
        )


def _progress(event: Mapping[str, Any]) -> str:
    if event["event"] == "note":
        return str(event["message"])
    unsure = ", ".join(event.get("could_not_tell", ())) if event["outcome"] == "could_not_tell" else ""
    return f"audited {shown(event['arm'])}: {event['outcome']}{f' by {unsure}' if unsure else ''}"


def audit_text(audited: ArmAudit) -> str:
    """One arm: for each scale the outcome, a line per check, and a map for each pass."""
    from palinode.analysis.audits import Audited
    from palinode.analysis.pictures import pictures_of

    lines: list[str] = []
    for scale, report in audited.reports.items():
        name = shown(audited.arm.name)
        lines.append(f"{name} at {shown(scale)}: {_stamp(audited.arm, report)} ({report.seconds:.1f} s)")
        lines += [f"  {_mark_of(one.outcome)} {one.check}: {shown(one.message)}" for one in report.findings]
        for finding in report.findings:
            for picture in pictures_of(Audited(finding, scale), audited.arm.name):
                lines += ["", *(f"  {line}" for line in picture_text(picture))]
    return "\n".join(lines)


def _mark_of(outcome: CheckOutcome) -> str:
    """What begins the line of a check, always four characters."""
    return "FAIL" if outcome == "fail" else "ok  " if outcome == "pass" else "?   "


def _stamp(arm: ArmEntry, report: AuditReport) -> str:
    stamps_by_kind = (("LEAK", report.leaks, arm.expect_leak), ("COLLAPSE", report.collapses, arm.expect_collapse))
    stamps = [f"{word}{', as expected' if expected else ''}" for word, findings, expected in stamps_by_kind if findings]
    return "; ".join(stamps) or CHECK_WORDS[report.outcome]


def picture_text(picture: Picture) -> Iterator[str]:
    """A map of what each target sees: a line per target position, a column per source position."""
    from palinode.analysis.pictures import ranges

    length = min(picture.length, WIDEST_MAP_POSITIONS)
    yield f"{shown(picture.group)}: rows are targets, columns are the tokens they are predicted from"
    yield "# sees it   ! sees it and must not   . may see it and does not"
    for target in range(length):
        yield f"{target:4d} " + "".join(_mark(picture, target, source) for source in range(length))
    if picture.length > length:
        yield f"(the first {length} of {picture.length} positions)"
    if own := picture.targets_that_see_themselves:
        yield f"targets that see themselves: {ranges(own)}"
    if others := picture.targets_that_leak:
        yield f"targets that see what they must not see: {ranges(others)}"


def _mark(picture: Picture, target: int, source: int) -> str:
    seen = picture.influence[target][source] > 0
    if (target, source) in picture.leaks:
        return "!"
    return "#" if seen else "." if picture.is_allowed(target, source) else " "


def _as_data(audited: ArmAudit) -> list[dict[str, Any]]:
    """One table per scale."""
    from palinode.base.config import encode

    return [
        {
            "arm": audited.arm.name,
            "scale": scale,
            "hash": audited.hashes[scale],
            "expect_leak": audited.arm.expect_leak,
            "outcome": report.outcome,
            "leaks": bool(report.leaks),
            "expect_collapse": audited.arm.expect_collapse,
            "collapses": bool(report.collapses),
            "report": encode(report),
        }
        for scale, report in audited.reports.items()
    ]
