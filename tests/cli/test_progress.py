"""What a sweep shows: plain lines, JSON lines, a live table; names cannot inject markup."""

import io
import json

from palinode.cli import progress as module
from palinode.cli.progress import Line, progress

CELL = {"run_id": "abc", "arm": "[red]both", "scale": "base", "seed": 3, "steps": 40}
EVENTS = [
    {
        "event": "audit",
        "arm": "x",
        "scale": "base",
        "outcome": "fail",
        "leaks": True,
        "expect_leak": True,
        "seconds": 2.0,
    },
    {"event": "plan", "runs": 4, "runs_left": 3, "workers": 2, "predicted_seconds": 90.0},
    {"event": "started", **CELL, "pid": 1},
    {"event": "train", **CELL, "step": 20, "nats_by_group": {"ltr": 2.5, "rtl": 2.75}, "seconds": 1.5},
    {"event": "output", **CELL, "text": "printed \x1b[31m by the run"},
    {
        "event": "eval",
        **CELL,
        "step": 40,
        "split": "validation",
        "scores": {"ltr": {"nats_per_token": 2.25}},
        "seconds": 3.0,
    },
    {"event": "finished", **CELL, "outcome": "failed", "reason": "KeyError: 'x'\nTraceback ..."},
    {"event": "reused", **CELL, "run_id": "def", "seed": 4, "outcome": "done", "reason": None},
    {"event": "elsewhere", **CELL, "run_id": "ghi", "seed": 5, "message": "process 7 on this host is working on it"},
]


def play(**options):
    with progress(**{"as_json": False, "quiet": False, **options}) as show:
        for event in EVENTS:
            show(event)


def test_plain_lines_say_what_happened(capsys, monkeypatch):
    monkeypatch.setattr(module, "PLAIN_EVERY_SECONDS", 0.0)
    play()
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "audit of x at base: LEAK (expected) (2.0 s)",
        "3 of 4 runs to do, 2 at a time, about 90 s",
        "[red]both seed 3: started",
        "[red]both seed 3: step 20 of 40, train ltr 2.500 rtl 2.750",
        "[red]both seed 3 | printed ?[31m by the run",
        "[red]both seed 3: step 40 of 40, validation ltr 2.250",
        "[red]both seed 3: failed: KeyError: 'x'",
        "[red]both seed 4: done before",
        "[red]both seed 5: process 7 on this host is working on it",
    ]


def test_plain_lines_are_not_one_per_row(capsys):
    with progress(as_json=False, quiet=False) as show:
        show(EVENTS[2])
        for step in range(1000):
            show({**EVENTS[3], "step": step})
    assert capsys.readouterr().err == "[red]both seed 3: started\n"


def test_json_lines_are_the_events(capsys):
    play(as_json=True)
    output = capsys.readouterr()
    assert output.err == ""
    assert [json.loads(line) for line in output.out.splitlines()] == EVENTS


def test_quiet_is_quiet(capsys):
    play(quiet=True)
    output = capsys.readouterr()
    assert output.out == output.err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_table_and_keeps_what_was_said_once(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stderr", terminal)
    play()
    text = terminal.getvalue()
    assert "[red]both seed 3" in text
    assert "done before" in text
    assert "audit of x at base: LEAK (expected)" in text
    assert "KeyError" in text


def test_a_table_of_many_runs_stays_on_the_screen():
    lines = {str(n): Line(f"run {n}", "done") for n in range(100)} | {"x": Line("now", "running")}
    header, *rows, caption = module._table(lines, 80).splitlines()
    assert header.split()[0] == "run"
    assert len(rows) == module.MOST_ROWS
    assert rows[-1].startswith("now")
    assert "100 done" in caption


def test_a_table_is_as_wide_as_the_terminal():
    lines = {"x": Line("a name that is long " * 3, "running", losses="train " + "ltr 2.345 " * 6)}
    assert all(len(line) <= 80 for line in module._table(lines, 80).splitlines())
