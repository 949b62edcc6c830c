"""The `palinode` program. Each command parses its options, calls other rooms and prints; torch is imported only when needed.

`entry` turns every error into one line on standard error and an exit code: 0 ok, 1 finished but some runs failed or
diverged, 2 bad input, 3 audit failed, 4 damaged data, 5 environment, 70 internal bug, 130 SIGINT, 143 SIGTERM.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from palinode.base.errors import BadInput, EnvironmentProblem, PalinodeError, printable, ran_out_of_memory
from palinode.cli import (
    audit,
    compare,
    cut,
    data,
    demo,
    doctor,
    findings,
    import_,
    ls,
    new,
    plan,
    report,
    run,
    sample,
    show,
)

INTERNAL_BUG, INTERRUPTED, BROKEN_PIPE = 70, 130, 141
IMPOSSIBLE_PATHS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)
LONGEST_LINE_CHARACTERS = 200
LONGEST_PATH_CHARACTERS = 70

app = typer.Typer(
    help="A laboratory for language-model ideas: audited arms, paired seeds, verdicts with intervals.",
    epilog="\b\nExample:\n  palinode new idea.py\n  palinode run idea.py --size smoke",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(epilog=demo.EXAMPLE)(demo.demo)
app.command(epilog=new.EXAMPLE)(new.new)
app.command(epilog=plan.EXAMPLE)(plan.plan)
app.command(epilog=audit.EXAMPLE)(audit.audit)
app.command(epilog=run.EXAMPLE)(run.run)
app.command(epilog=report.EXAMPLE)(report.report)
app.command(epilog=findings.EXAMPLE)(findings.findings)
app.command(epilog=ls.EXAMPLE)(ls.ls)
app.command(epilog=show.EXAMPLE)(show.show)
app.command(epilog=compare.EXAMPLE)(compare.compare)
app.command(epilog=cut.EXAMPLE)(cut.cut)
app.command(epilog=sample.EXAMPLE)(sample.sample)
app.add_typer(data.app, name="data", epilog=data.EXAMPLE)
app.add_typer(import_.app, name="import", epilog=import_.EXAMPLE)
app.command(epilog=doctor.EXAMPLE)(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        from palinode.cli.doctor import versions

        typer.echo(", ".join(f"{name} {version}" for name, version in versions().items()))
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show versions of palinode, torch, Python.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """A laboratory for language-model ideas: audited arms, paired seeds, verdicts with intervals."""


def main() -> None:
    """The `palinode` program."""
    sys.exit(entry(sys.argv[1:]))


def entry(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. No exception leaves this function."""
    try:
        returned = app(args=list(arguments), prog_name="palinode", standalone_mode=False, obj=list(arguments))
        sys.stdout.flush()
    except PalinodeError as error:
        return _say_refusal(error)
    except (BrokenPipeError, SystemExit):  # the reader of our output ended (the parser exits then): print nothing more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the top of the program: usage errors and bugs end here, in one line
        if type(error).__name__ == "Abort":
            return INTERRUPTED
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())  # type: ignore[attr-defined]
            return 0
        if hasattr(error, "format_message"):
            return _say_misuse(error)
        return _say_out_of_memory(error) or _say_users_mistake(error) or _say_path(error) or _say_bug(error)
    return returned if isinstance(returned, int) else 0


def _say_out_of_memory(error: Exception) -> int | None:
    """Memory that ran out is a limit of the machine and no bug; None for any other error."""
    if not ran_out_of_memory(error):
        return None
    message = "the machine ran out of memory: use a smaller model, shorter windows, smaller batches or fewer workers"
    return _say_refusal(EnvironmentProblem(message))


def _say_refusal(error: PalinodeError) -> int:
    if error.file is not None:
        error.file = _short_path(error.file)
    _say(str(error), error.longest_characters)
    return error.exit_code


def _say_misuse(error: Exception) -> int:
    """Print what the parser found wrong in the command line."""
    place = getattr(getattr(error, "ctx", None), "command_path", "palinode")
    message = " ".join(str(error.format_message()).split()).replace(" Value error, ", " ")  # type: ignore[attr-defined]
    _say(f"{place}: {message}", LONGEST_LINE_CHARACTERS)
    return BadInput.exit_code


def _say_users_mistake(error: Exception) -> int | None:
    """Print the line of the user's file that an exception came through; None when it came through no code of the user."""
    if "palinode.spec.code" not in sys.modules:
        return None
    from palinode.spec.code import USER_MODULE

    frames = list(traceback.walk_tb(error.__traceback__))
    user_frames = [
        (frame, line) for frame, line in frames if str(frame.f_globals.get("__name__")).startswith(USER_MODULE)
    ]
    if not user_frames:
        return None
    frame, line = user_frames[-1]
    place = f"{_short_path(frame.f_code.co_filename)}, line {line}"
    _say(f"{place}: {type(error).__name__}: {error}", LONGEST_LINE_CHARACTERS)
    return BadInput.exit_code


def _say_path(error: Exception) -> int | None:
    """A path that no file can have is bad input and no bug; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in IMPOSSIBLE_PATHS:
        return None
    return _say_refusal(BadInput(f"cannot be a file: {error.strerror}", file=os.fspath(error.filename or "a path")))


def _say_bug(error: Exception) -> int:
    """A defect of this program: write the traceback to a file, and print where that is."""
    from palinode.base import fsio
    from palinode.data.cache import cache_directory

    path = cache_directory() / "crashes" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    message = f"internal error: {type(error).__name__}: {error}"
    try:
        fsio.write_text(path, "".join(traceback.format_exception(error)))
    except PalinodeError:
        _say(message, LONGEST_LINE_CHARACTERS)
    else:
        _say(f"{printable(message, LONGEST_LINE_CHARACTERS // 2)} (traceback: {path})", 2 * LONGEST_LINE_CHARACTERS)
    return INTERNAL_BUG


def _say(text: str, limit_characters: int) -> None:
    try:
        print(printable(text, limit_characters), file=sys.stderr, flush=True)
    except BrokenPipeError:
        return


def _short_path(file: str) -> str:
    """Cut a long path at its beginning, so that the name of the file stays."""
    if len(file) <= LONGEST_PATH_CHARACTERS:
        return file
    try:
        relative = os.path.relpath(file) if Path(file).is_absolute() else file
    except ValueError:
        relative = file
    return relative if len(relative) <= LONGEST_PATH_CHARACTERS else f"…{relative[-LONGEST_PATH_CHARACTERS + 1 :]}"


if __name__ == "__main__":
    main()
