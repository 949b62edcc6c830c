"""The top of the program: bugs, closed pipes and interrupts end in an exit code and at most one line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from palinode.base.errors import AuditFailed, BadInput, Damaged, EnvironmentProblem
from palinode.cli import main
from synthetic_store import Synthetic, SyntheticArm, make_store


@pytest.fixture
def raising(monkeypatch, palinode):
    """Runs the program with a command that raises this."""

    def call(error: BaseException):
        def app(**_):
            raise error

        monkeypatch.setattr(main, "app", app)
        return palinode("anything")

    return call


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("x"), 2),
        (AuditFailed("x"), 3),
        (Damaged("x"), 4),
        (EnvironmentProblem("x"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_exit_code(raising, error, code):
    output = raising(error)
    assert output.code == code
    assert output.out == ""
    assert output.err == ("" if code == 130 else "x\n")


def test_a_bug_is_one_line_and_its_traceback_a_file(raising, cache):
    output = raising(ZeroDivisionError("a\nb"))
    assert output.code == 70
    (line,) = output.err.splitlines()
    assert line.startswith("internal error: ZeroDivisionError: a b (traceback: ")
    traceback = Path(line.partition("traceback: ")[2].rstrip(")"))
    assert traceback.is_relative_to(cache)
    assert "ZeroDivisionError" in traceback.read_text()


def test_a_bug_without_a_place_to_write_is_still_one_line(raising, monkeypatch):
    monkeypatch.setenv("PALINODE_CACHE", "/proc/nothing")
    output = raising(ZeroDivisionError("a"))
    assert output.code == 70
    assert output.err == "internal error: ZeroDivisionError: a\n"


def test_an_audit_that_failed_may_take_a_paragraph(raising):
    assert len(raising(AuditFailed("because " * 60)).err) > 400
    assert len(raising(BadInput("because " * 60)).err) <= 201


@pytest.mark.parametrize("arguments", [("--help",), ("data", "ls")])
def test_a_closed_pipe_is_silent(here, arguments):
    program = subprocess.Popen(
        [sys.executable, "-m", "palinode", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    program.stdout.close()
    err = program.stderr.read()
    program.stderr.close()
    assert program.wait(60) == 141
    assert err == b""


def test_an_interrupt_before_anything_runs_is_silent(here):
    Path("slow.py").write_text("import time, sys\nprint('ready', flush=True)\ntime.sleep(60)\n")
    program = subprocess.Popen(
        [sys.executable, "-m", "palinode", "run", "slow.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore interrupts
    )
    assert program.stderr.readline() == "ready\n", "what a user's file prints is not a result"
    os.kill(program.pid, signal.SIGINT)
    assert program.communicate(timeout=30) == ("", "")
    assert program.returncode == 130


def run_program(*arguments: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess:
    """The program in a process of its own; `shell` is what stands behind its arguments in a shell, such as `>&-`."""
    line = " ".join([sys.executable, "-m", "palinode", *arguments, shell])
    return subprocess.run(line, shell=True, capture_output=True, env={**os.environ, **environment}, timeout=120)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="the machine has no /dev/full")
def test_a_full_output_is_one_line(here):
    done = run_program("data", "ls", shell=">/dev/full")
    assert (done.returncode, done.stderr) == (5, b"cannot write the output: No space left on device\n")


@pytest.mark.parametrize("shell", [">&-", "2>&-"])
def test_a_closed_stream_takes_its_text_nowhere(here, shell):
    assert run_program("data", "ls", shell=shell).returncode == 0
    refused = run_program("show", "zz", "--json", shell=shell)
    assert (refused.returncode, refused.stdout) == (2, b"")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_a_terminal_that_lacks_characters_gets_escapes(here, encoding):
    make_store(here / "runs", Synthetic(arms=(SyntheticArm("ltr"), SyntheticArm("\u0394\U0001f600", effect_nats=-0.2))))
    plain = run_program("compare", "demo", PYTHONIOENCODING=encoding)
    assert (plain.returncode, plain.stderr) == (0, b"")
    assert b"\\u0394\\U0001f600" in plain.stdout
    rows = json.loads(run_program("compare", "demo", "--json", PYTHONIOENCODING=encoding).stdout.decode(encoding))
    assert "\u0394\U0001f600" in json.dumps(rows, ensure_ascii=False)
