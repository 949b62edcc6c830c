"""`palinode audit`: audit every arm of a file, or one model; print text and maps of which target sees which token."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palinode.base.errors import AuditFailed, BadInput, PalinodeError, check_known, printable
from palinode.base.measures import CHECK_WORDS, CheckOutcome
from palinode.cli import options
from palinode.cli.options import as_json, audits_are_kept, of_file, resolve
from palinode.cli.stores import writable_store
from palinode.cli.texttable import shown, stamps

if TYPE_CHECKING:
    from palinode.analysis.audits import ArmAudit, Picture
    from palinode.base.finding import AuditReport
    from palinode.results.record import ArmEntry

MOST_CHARACTERS = 70  # the largest length of the text of an error that a model raised
MEANING = "What each check asks, what it cannot see and how to read a failure: docs/checks.md"
TARGET_HELP = "An experiment file; hf:TYPE or hf:FOLDER of transformers; or package.module:Class of a torch module."
WIDEST_MAP_POSITIONS = 64


def audit(
    file: Annotated[Path, typer.Argument(metavar="TARGET", help=TARGET_HELP)],
    size: options.Size = None,
    changes: options.Changes = None,
    arm: Annotated[list[str] | None, typer.Option("--arm", metavar="NAME", help="Only this arm. Repeatable.")] = None,
    store: options.StorePath = options.DEFAULT_STORE,
    code: options.Code = None,
    allow_code: options.AllowCode = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check C1 and C6 at the length of a training window alone.")
    ] = False,
    vocab_size: Annotated[int | None, typer.Option("--vocab-size", min=2, help="Of a model: the ids it takes.")] = None,
    window_tokens: Annotated[int, typer.Option("--window-tokens", min=2, help="Of a model: tokens of a window.")] = 32,
    json: options.Json = False,
) -> None:
    """Show which positions of an arm, or of a model, see what.

    Exit 3 when an arm fails a check that it was not expected to fail.
    """
    from palinode.cli.model_names import is_target

    if is_target(str(file)):
        _audit_model(str(file), vocab_size, window_tokens, quick=quick, json=json)
        return
    place = writable_store(store)
    source, resolved = resolve(file, size, changes, None, code=code, allow_code=allow_code)
    with of_file(file):
        for name in arm or []:
            check_known(name, (one.name for one in resolved.arms), what="arm", field="--arm")
    from palinode.experiment.audits import audit_cells, quick_audits
    from palinode.experiment.cells import cells_of, pinned
    from palinode.experiment.fan_out import nursery_for
    from palinode.experiment.run import default_at_a_time

    wanted = resolved.with_(arms=tuple(one for one in resolved.arms if not arm or one.name in arm))
    if quick:
        audits = quick_audits(cells_of(pinned(wanted)))
    else:

        def tell(line: str) -> None:
            typer.echo(line, err=True)

        with audits_are_kept("makes the others"), of_file(file), nursery_for(resolved, tell) as nursery:
            audits = audit_cells(
                cells_of(pinned(wanted)),
                place,
                lambda event: typer.echo(_progress(event), err=True),
                code=source.code,
                workers=default_at_a_time(resolved),
                nursery=nursery,
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

    use_threads(1)  # a second thread does not speed up a small model, and slows it down on a busy machine
    model, vocab_size = target_of(target, vocab_size)
    with _errors_of_the_model(target):
        report = check(
            model,
            vocab_size=vocab_size,
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


@contextmanager
def _errors_of_the_model(target: str) -> Iterator[None]:
    """Turn an error in the model's own forward into a BadInput that names the model. An error in Palinode's own code stays as it
    is.

    Raises:
        BadInput: the error was raised inside a module's forward, and the forward had called no code of Palinode.
    """
    try:
        yield
    except PalinodeError:
        raise
    except Exception as error:
        package = str(Path(__file__).parents[1])
        frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
        ours = [place for place, path in enumerate(frames) if str(path).startswith(package)]
        after = frames[ours[-1] + 1 :] if ours else frames
        if not any(path.parts[-3:] == ("nn", "modules", "module.py") for path in after):
            raise
        message = f"its forward raises {type(error).__name__}: {printable(str(error), MOST_CHARACTERS)}"
        hint = "CheckOptions(forward=...) calls it otherwise"
        raise BadInput(message, file=target, field="forward", hint=hint) from error


def _refuse_failed(audits: Sequence[ArmAudit], file: object) -> None:
    """End the command if an arm failed a check that the arm was not expected to fail.

    Raises:
        AuditFailed: an arm failed such a check; the error names the arms.
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


def audit_text(of_arm: ArmAudit) -> str:
    """The audit of one arm as text: for each scale the outcome, a line per check, and a map for each pass."""
    from palinode.analysis.audits import ArmFinding, pictures_of

    lines: list[str] = []
    for scale, report in of_arm.reports.items():
        outcome = "; ".join(stamps(_outcome_data(of_arm.arm, report), ", as expected")) or CHECK_WORDS[report.outcome]
        lines.append(f"{shown(of_arm.arm.name)} at {shown(scale)}: {outcome} ({report.seconds:.1f} s)")
        lines += [f"  {_mark_of(one.outcome)} {one.check}: {shown(one.message)}" for one in report.findings]
        for finding in report.findings:
            for picture in pictures_of(ArmFinding(finding, scale), of_arm.arm.name):
                lines += ["", *(f"  {line}" for line in picture_text(picture))]
    return "\n".join(lines)


def _mark_of(outcome: CheckOutcome) -> str:
    """The mark at the beginning of a check's line, always four characters long."""
    return "FAIL" if outcome == "fail" else "ok  " if outcome == "pass" else "?   "


def _outcome_data(arm: ArmEntry, report: AuditReport) -> dict[str, Any]:
    return {
        "expect_leak": arm.expect_leak,
        "outcome": report.outcome,
        "leaks": bool(report.leaks),
        "expect_collapse": arm.expect_collapse,
        "collapses": bool(report.collapses),
    }


def picture_text(picture: Picture) -> Iterator[str]:
    """A map of the sources that each target sees: a line per target position, a column per source position."""
    from palinode.checks.text import ranges

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


def _as_data(of_arm: ArmAudit) -> list[dict[str, Any]]:
    """The audit of one arm as plain data: one table per scale."""
    from palinode.base.config import encode

    return [
        {
            "arm": of_arm.arm.name,
            "scale": scale,
            "hash": of_arm.hashes[scale],
            **_outcome_data(of_arm.arm, report),
            "report": encode(report),
        }
        for scale, report in of_arm.reports.items()
    ]
