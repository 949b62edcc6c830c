"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from palinode.base.measures import FINE_OUTCOMES
from palinode.cli.options import shown

if TYPE_CHECKING:
    from rich.table import Table

Event = dict[str, Any]
Show = Callable[[Event], None]
PLAIN_EVERY_SECONDS = 10.0  # a line per run and ten seconds: a log of hours stays readable
MOST_ROWS = 24
GOING, WAITING = "running", "elsewhere"


@dataclass
class Line:
    """One run, as it stands."""

    name: str
    state: str
    step: int = 0
    steps: int = 0
    losses: str = ""
    seconds: float = 0.0
    told_at: float = 0.0

    def heard(self, event: Event) -> None:
        """Take in a metrics row."""
        self.step = int(event.get("step", self.step))
        self.seconds = float(event.get("seconds", self.seconds))
        if event["event"] == "train":
            self.losses = _losses(event.get("nats_by_group", {}), "train")
        elif event["event"] == "eval":
            scores = {name: score.get("nats_per_token") for name, score in event.get("scores", {}).items()}
            self.losses = _losses(scores, str(event.get("split", "")))


@contextlib.contextmanager
def progress(*, as_json: bool, quiet: bool) -> Iterator[Show]:
    """A function to hand events to. Everything but JSON goes to standard error."""
    if as_json:
        yield _print_json
    elif quiet:
        yield lambda event: None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _Plain().show


def _print_json(event: Event) -> None:
    print(json.dumps(event, allow_nan=False), flush=True)


class _Plain:
    """Lines: what began, what ended, and now and then where a run stands."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}

    def show(self, event: Event) -> None:
        kind = event["event"]
        if text := _once(event):
            _tell(text)
        if "run_id" not in event:
            return
        line = _line(self.lines, event)
        if kind in ("train", "eval"):
            line.heard(event)
            if time.monotonic() - line.told_at >= PLAIN_EVERY_SECONDS:
                line.told_at = time.monotonic()
                _tell(f"{line.name}: step {line.step} of {line.steps}, {line.losses}")
        elif kind == "started":
            line.told_at = time.monotonic()
            _tell(f"{line.name}: started")
        elif kind in ("finished", "reused"):
            _tell(_failure(event) or f"{line.name}: {_end_words(event, line)}")


@contextlib.contextmanager
def _live() -> Iterator[Show]:
    """A table that is drawn again as events come; what is said once scrolls above it."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    lines: dict[str, Line] = {}
    with Live(console=console, refresh_per_second=4, get_renderable=lambda: _table(lines), transient=True) as live:

        def show(event: Event) -> None:
            if text := _once(event) or _failure(event):
                live.console.print(shown(text, 1000), markup=False, highlight=False)
            if "run_id" not in event:
                return
            line = _line(lines, event)
            if event["event"] in ("train", "eval"):
                line.heard(event)
            elif event["event"] in ("started", "elsewhere"):
                line.state = GOING if event["event"] == "started" else WAITING
            elif event["event"] in ("finished", "reused"):
                line.state = "done before" if event["event"] == "reused" else str(event["outcome"])

        yield show


def _table(lines: dict[str, Line]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, justify in (
        ("run", "left"),
        ("", "left"),
        ("step", "right"),
        ("loss (nats)", "left"),
        ("seconds", "right"),
    ):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    going = [line for line in lines.values() if line.state in (GOING, WAITING)]
    ended = [line for line in lines.values() if line.state not in (GOING, WAITING)]
    for line in (*ended[-max(0, MOST_ROWS - len(going)) :], *going):
        step = f"{line.step} of {line.steps}" if line.steps else str(line.step)
        table.add_row(
            *(_plain_cell(cell) for cell in (line.name, line.state, step, line.losses, f"{line.seconds:.0f}"))
        )
    if len(ended) > MOST_ROWS:
        counted = ", ".join(f"{count} {state}" for state, count in Counter(line.state for line in ended).items())
        table.caption = f"in all: {counted}"
    return table


def _plain_cell(text: str) -> Any:
    from rich.text import Text

    return Text(text)  # names hold no markup


def _once(event: Event) -> str | None:
    """What is told once, on its own line, whatever the display."""
    kind = event["event"]
    if kind == "audit":
        return f"audit of {event['arm']} at {event['scale']}: {_audit_words(event)} ({event['seconds']:.1f} s)"
    if kind == "choice":
        return _choice_words(event)
    if kind == "plan":
        return _plan_words(event)
    if kind == "note":
        who = f"{_name(event)}: " if "run_id" in event else ""
        return f"{who}{event['message']}"
    if kind == "alone":
        return f"{_name(event)}: tried again by itself, as its stack failed: {event['reason']}"
    if kind == "elsewhere":
        return f"{_name(event)}: {event['message']}"
    if kind == "output":
        return f"{_name(event)} | {event['text']}"
    return None


def _audit_words(event: Event) -> str:
    found = (("LEAK", "leaks", "expect_leak"), ("COLLAPSE", "collapses", "expect_collapse"))
    stamps = [
        f"{word}{' (expected)' if event.get(expected) else ''}" for word, key, expected in found if event.get(key)
    ]
    return ", ".join(stamps) or str(event["outcome"]).replace("_", " ")


def _failure(event: Event) -> str | None:
    """Why a run did not end well, in one line."""
    if event["event"] != "finished" or event["outcome"] in FINE_OUTCOMES or not event.get("reason"):
        return None
    return f"{_name(event)}: {event['outcome']}: {str(event['reason']).splitlines()[0]}"


def _choice_words(event: Event) -> str:
    """Which value an arm runs at, and what else was tried."""
    scores = zip(event["values"], event["scores"], strict=True)
    tried = ", ".join(f"{value:g}: {'no score' if score is None else f'{score:.4f}'}" for value, score in scores)
    edge = "; the best is at the edge" if event["chosen"] in (min(event["values"]), max(event["values"])) else ""
    return f"{event['arm']} at {event['scale']}: {event['field']} = {event['chosen']:g} (tuning split {tried}{edge})"


def _plan_words(event: Event) -> str:
    seconds = event.get("predicted_seconds")
    time_words = (
        "" if not seconds else f", about {seconds:.0f} s" if seconds < 120 else f", about {seconds / 60:.0f} min"
    )
    trials = f"{event['trials_left']} of {event['trials']} trials and " if event.get("trials") else ""
    return f"{trials}{event['runs_left']} of {event['runs']} runs to do, {event['workers']} at a time{time_words}"


def _line(lines: dict[str, Line], event: Event) -> Line:
    line = lines.setdefault(event["run_id"], Line(_name(event), GOING))
    line.steps = int(event.get("steps", line.steps))
    return line


def _name(event: Event) -> str:
    scale = f" {event['scale']}" if event.get("scale", "base") != "base" else ""
    return shown(f"{event['arm']}{scale} seed {event['seed']}" if "arm" in event else str(event["run_id"]))


def _end_words(event: Event, line: Line) -> str:
    if event["event"] == "reused":
        return f"{event['outcome']} before"
    return f"{event['outcome']}{f', {line.losses}' if line.losses else ''} ({line.seconds:.1f} s of training)"


def _losses(losses: dict[str, float | None], prefix: str) -> str:
    return " ".join([prefix, *(f"{name} {value:.3f}" for name, value in losses.items() if value is not None)])


def _tell(text: str) -> None:
    print(shown(text, 1000), file=sys.stderr, flush=True)
