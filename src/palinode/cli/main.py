"""`palinode`: thin commands over the rooms. Parse, call, print; nothing heavy is imported before a command needs it.

One handler turns everything that goes wrong into one line on standard error and an exit code: 0 ok, 1 finished but some
runs failed or diverged, 2 bad input, 3 audit failed, 4 damaged data, 5 environment, 70 internal bug, 130 SIGINT, 143 SIGTERM.
"""

from __future__ import annotations

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


def _show_version(asked: bool) -> None:
    if asked:
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
    """Run one command line and return its exit code; nothing is ever raised through here but SystemExit."""
    try:
        returned = app(args=list(arguments), prog_name="palinode", standalone_mode=False, obj=list(arguments))
        sys.stdout.flush()
    except PalinodeError as error:
        return _refused(error)
    except (BrokenPipeError, SystemExit):  # whoever read our output has gone (the parser exits then): say nothing more
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
            return _misused(error)
        return _too_large(error) or _users_mistake(error) or _bug(error)
    return returned if isinstance(returned, int) else 0


def _too_large(error: Exception) -> int | None:
    """Memory that ran out in this process is the machine's limit, no bug; None for anything else."""
    if not ran_out_of_memory(error):
        return None
    told = "the machine ran out of memory: a smaller model or window, fewer windows a batch or workers take less"
    return _refused(EnvironmentProblem(told))


def _refused(error: PalinodeError) -> int:
    if error.file is not None:
        error.file = _short_path(error.file)
    limit = LONGEST_LINE_CHARACTERS if isinstance(error, BadInput) else 10 * LONGEST_LINE_CHARACTERS
    _say(str(error), limit)
    return error.exit_code


def _misused(error: Exception) -> int:
    """A wrong command line, as the parser tells it."""
    place = getattr(getattr(error, "ctx", None), "command_path", "palinode")
    told = " ".join(str(error.format_message()).split()).replace(" Value error, ", " ")  # type: ignore[attr-defined]
    _say(f"{place}: {told}", LONGEST_LINE_CHARACTERS)
    return BadInput.exit_code


def _users_mistake(error: Exception) -> int | None:
    """An exception that came through the user's own code is theirs: the line in their file; None when it did not."""
    if "palinode.spec.code" not in sys.modules:
        return None
    from palinode.spec.code import USER_MODULE

    frames = list(traceback.walk_tb(error.__traceback__))
    own = [(frame, line) for frame, line in frames if str(frame.f_globals.get("__name__")).startswith(USER_MODULE)]
    if not own:
        return None
    frame, line = own[-1]
    place = f"{_short_path(frame.f_code.co_filename)}, line {line}"
    _say(f"{place}: {type(error).__name__}: {error}", LONGEST_LINE_CHARACTERS)
    return BadInput.exit_code


def _bug(error: Exception) -> int:
    """A defect of this program: the traceback goes to a file, its path to the user."""
    from palinode.base import fsio
    from palinode.data.cache import cache_directory

    path = cache_directory() / "crashes" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    told = f"internal error: {type(error).__name__}: {error}"
    try:
        fsio.write_text(path, "".join(traceback.format_exception(error)))
    except PalinodeError:
        _say(told, LONGEST_LINE_CHARACTERS)
    else:
        _say(f"{printable(told, LONGEST_LINE_CHARACTERS // 2)} (traceback: {path})", 2 * LONGEST_LINE_CHARACTERS)
    return INTERNAL_BUG


def _say(text: str, limit_characters: int) -> None:
    try:
        print(printable(text, limit_characters), file=sys.stderr, flush=True)
    except BrokenPipeError:
        return


def _short_path(file: str) -> str:
    """A long path keeps its end: the name of the file is what the user needs to see."""
    if len(file) <= LONGEST_PATH_CHARACTERS:
        return file
    try:
        near = os.path.relpath(file) if Path(file).is_absolute() else file
    except ValueError:
        near = file
    return near if len(near) <= LONGEST_PATH_CHARACTERS else f"…{near[-LONGEST_PATH_CHARACTERS + 1 :]}"


if __name__ == "__main__":
    main()
