"""The `palinode` program. Each command parses its options, calls other packages of Palinode and prints; torch is imported only when
needed.

`entry` turns every error into one line on standard error and an exit code: 0 ok, 1 finished but some runs failed or
diverged, 2 bad input, 3 audit failed, 4 damaged data, 5 environment, 70 internal bug, 130 SIGINT, 143 SIGTERM.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from palinode.base.errors import BadInput, EnvironmentProblem, PalinodeError, printable, ran_out_of_memory
from palinode.cli import (
    audit,
    clean,
    compare,
    data,
    doctor,
    export,
    extend,
    import_,
    infill,
    ls,
    mirror,
    new,
    packs,
    pages,
    pairs,
    plan,
    run,
    sample,
    score,
    worker,
)
from palinode.cli.options import examples

INTERNAL_BUG, INTERRUPTED, BROKEN_PIPE = 70, 130, 141
IMPOSSIBLE_PATHS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)
OUTPUT_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # of a stream that cannot be written
LONGEST_LINE_CHARACTERS = 200
LONGEST_PATH_CHARACTERS = 70

app = typer.Typer(
    help="A laboratory for language-model ideas: audited arms, paired seeds, verdicts with intervals.",
    epilog=examples("new idea.py", "run idea.py --size smoke"),
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
EXAMPLES: Mapping[Callable[..., object], tuple[str, ...]] = {  # in the order of the help
    run.demo: ("demo", "new my_idea.py --from demo"),
    new.new: ("new my_idea.py", "new my_mask.py --from mask", "run my_idea.py --size smoke"),
    plan.plan: ("plan my_idea.py --size laptop --workers 2",),
    audit.audit: (
        "audit my_idea.py",
        "audit experiments/demo.py --arm both-published-mask",
        "audit hf:llama --quick",
        "audit my_package.models:TinyLm",
    ),
    run.run: (
        "run my_idea.py --size smoke",
        "run my_idea.py --size laptop --workers 2 --report",
        "run my_idea.py --set recipe.steps=100 --seeds 1,2,3",
        "run my_idea.py --store /shared/runs --on slurm --workers 20 --on-option partition=gpu",
    ),
    extend.extend: ("extend demo--default --steps 800",),
    worker.worker: (
        "worker --store /shared/runs",
        "worker --store /shared/runs --experiment my_idea--laptop --slots 4 --for 4h",
    ),
    worker.watch: ("watch my_idea--laptop --store /shared/runs",),
    worker.stop: ("stop my_idea--laptop --store /shared/runs",),
    mirror.mirror: (
        "mirror runs --to tensorboard",
        "mirror runs --to wandb --experiment my_idea--laptop --follow",
    ),
    pages.report: (
        "report demo--default",
        "report my_idea --out pages/my_idea",
        "report mask--laptop --window 0.8..1",
    ),
    pages.findings: ("findings mask--laptop", "findings my_idea --store runs -o pages"),
    packs.pack: ("pack demo--default", "pack my_idea -o my_idea.palinode"),
    packs.unpack: ("unpack demo--default.palinode", "unpack my_idea.palinode --store runs-of-a-colleague"),
    ls.ls: ("ls", "ls --runs --json", "ls --verify"),
    ls.show: ("show demo--default", "show 3f2a"),
    clean.rm: ("rm demo--default", "rm 3f2a --yes"),
    clean.gc: ("gc", "gc --yes"),
    compare.compare: ("compare demo--default", "compare 3f2a 91bc"),
    sample.cut: ("cut 3f2a", "cut 3f2a --blocks 2"),
    sample.sample: (
        'sample 3f2a --text "Return the "',
        'sample 3f2a --direction rtl --text " and they lived happily ever after."',
    ),
    infill.infill: ('infill 3f2a --before "The list is " --after " by default." --tokens 6 --rows 3',),
    pairs.pairs: ("pairs 3f2a blimp.zip", "pairs both:1 my_pairs.jsonl --direction rtl --json"),
    score.score: ("score 3f2a my_text.txt", "score both:1 a.txt b.jsonl --by line --tokens nats.parquet"),
    export.export: ("export 3f2a models/my_idea",),
}
for command, lines in EXAMPLES.items():
    app.command(epilog=examples(*lines))(command)
app.add_typer(
    data.app, name="data", epilog=examples("data add my_corpus.txt --name mine", "data get wikitext-2", "data ls")
)
app.add_typer(import_.app, name="import", epilog=examples("import mask results.csv", "report mask-published"))
app.command(epilog=examples("doctor"))(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        from palinode.cli.doctor import versions

        typer.echo(versions())
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
    _open_streams()
    try:
        returned = app(args=list(arguments), prog_name="palinode", standalone_mode=False, obj=list(arguments))
        sys.stdout.flush()
    except PalinodeError as error:
        return _say_refusal(error)
    except (BrokenPipeError, SystemExit):  # the reader of the output has ended: print nothing more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is not None or error.errno not in OUTPUT_FAULTS:
            return _end_of(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the end of the program would fail as well
        return _say_refusal(EnvironmentProblem(f"cannot write the output: {error.strerror}"))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the top of the program: usage errors and bugs end here, in one line
        return _end_of(error)
    return returned if isinstance(returned, int) else 0


def _open_streams() -> None:
    """Make both output streams take every text: a closed one takes it nowhere, and characters that it cannot show are escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _end_of(error: Exception) -> int:
    """Say what an exception means, in one line, and return the exit code."""
    if type(error).__name__ == "Abort":
        return INTERRUPTED
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())  # type: ignore[attr-defined]
        return 0
    refusal = _refusal(error)
    return _say_bug(error) if refusal is None else _say_refusal(refusal)


def _say_refusal(error: PalinodeError) -> int:
    if error.file is not None:
        error.file = _short_path(error.file)
    _say(str(error), error.longest_characters)
    return error.exit_code


def _refusal(error: Exception) -> PalinodeError | None:
    """The error about the input or the machine that an exception of another library stands for; None for a bug of this program."""
    if hasattr(error, "format_message"):  # the parser found a mistake in the command line
        message = " ".join(str(error.format_message()).split()).replace(" Value error, ", " ")
        return BadInput(message, field=getattr(getattr(error, "ctx", None), "command_path", "palinode"))
    if ran_out_of_memory(error):
        limits = "use a smaller model, shorter windows, smaller batches or fewer workers"
        return EnvironmentProblem(f"the machine ran out of memory: {limits}")
    if place := _place_in_users_code(error):
        return BadInput(f"{type(error).__name__}: {error}", field=place)
    if isinstance(error, OSError) and error.errno in IMPOSSIBLE_PATHS:
        return BadInput(f"cannot be a file: {error.strerror}", file=os.fspath(error.filename or "a path"))
    return None


def _place_in_users_code(error: Exception) -> str | None:
    """The last line of the user's file in the traceback of an exception; None when the traceback has no code of the user."""
    if "palinode.spec.code" not in sys.modules:
        return None
    from palinode.spec.code import USER_MODULE

    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if str(frame.f_globals.get("__name__")).startswith(USER_MODULE):
            return f"{_short_path(frame.f_code.co_filename)}, line {line}"
    return None


def _say_bug(error: Exception) -> int:
    """Report a defect of this program: write the traceback to a file, and print the path of the file."""
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
