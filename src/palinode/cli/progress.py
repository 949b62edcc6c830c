"""The progress of a sweep: a live table on a terminal, plain lines in a file, JSON lines for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from palinode.base.event import Event
from palinode.base.measures import FINE_OUTCOMES
from palinode.cli.texttable import shown, stamps, text_table

Show = Callable[[Event], None]
PLAIN_EVERY_SECONDS = 10.0  # a run prints at most one line in this time, so that a long log stays readable
MOST_ROWS = 24
RUNNING, WAITING = "running", "elsewhere"
ENDED = ("finished", "reused")
COLUMNS = ("run", "", "step", "loss (nats)", "seconds")


@dataclass
class Line:
    """The state and the last numbers of one run."""

    name: str
    state: str
    step: int = 0
    steps: int = 0
    losses: str = ""
    seconds: float = 0.0
    printed_at: float = 0.0

    def update(self, event: Event) -> None:
        """Set the state and the numbers of the run to those of an event."""
        self.steps = int(event.get("steps", self.steps))
        if event["event"] in ("train", "eval"):
            scores = {name: score.get("nats_per_token") for name, score in event.get("scores", {}).items()}
            is_train = event["event"] == "train"
            losses, prefix = (event.get("nats_by_group", {}), "train") if is_train else (scores, event.get("split", ""))
            self.losses = " ".join([prefix, *(f"{at} {nats:.3f}" for at, nats in losses.items() if nats is not None)])
            self.step = int(event.get("step", self.step))
            self.seconds = float(event.get("seconds", self.seconds))
        elif event["event"] in ("started", "elsewhere"):
            self.state = RUNNING if event["event"] == "started" else WAITING
        elif event["event"] in ENDED:
            self.state = "done before" if event["event"] == "reused" else str(event["outcome"])
            self.seconds = float(event.get("train_seconds") or self.seconds)  # of a run that another host has trained


@contextlib.contextmanager
def progress(*, as_json: bool, quiet: bool) -> Iterator[Show]:
    """A function that shows an event. JSON goes to standard output, all else to standard error."""
    if as_json:
        yield lambda event: print(json.dumps(event, allow_nan=False), flush=True)
    elif quiet:
        yield lambda event: None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _plain()


def _plain() -> Show:
    """Prints a line when a run starts or ends, and its step and loss from time to time."""
    lines: dict[str, Line] = {}

    def show(event: Event) -> None:
        if text := _message(event):
            _print_line(text)
        if "run_id" not in event:
            return
        line, kind = _line(lines, event), event["event"]
        is_due = time.monotonic() - line.printed_at >= PLAIN_EVERY_SECONDS
        if kind == "started" or (kind in ("train", "eval") and is_due):
            line.printed_at = time.monotonic()
            what = "started" if kind == "started" else f"step {line.step} of {line.steps}, {line.losses}"
            _print_line(f"{line.name}: {what}")
        elif kind in ENDED:
            _print_line(_failure(event) or f"{line.name}: {_end_words(event, line)}")

    return show


@contextlib.contextmanager
def _live() -> Iterator[Show]:
    """A table that is drawn again after each event; single messages scroll above it."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    lines: dict[str, Line] = {}

    def table() -> Text:  # names hold no markup
        return Text(_table(lines, console.width), no_wrap=True, overflow="ellipsis")

    with Live(console=console, refresh_per_second=4, get_renderable=table, transient=True) as live:

        def show(event: Event) -> None:
            if text := _message(event) or _failure(event):
                live.console.print(shown(text, 1000), markup=False, highlight=False)
            if "run_id" in event:
                _line(lines, event)

        yield show


def _table(lines: dict[str, Line], most_characters: int) -> str:
    """The runs that ended last, and below them those that are running."""
    running = [line for line in lines.values() if line.state in (RUNNING, WAITING)]
    ended = [line for line in lines.values() if line.state not in (RUNNING, WAITING)]
    rows = []
    for line in (*ended[-max(0, MOST_ROWS - len(running)) :], *running):
        step = f"{line.step} of {line.steps}" if line.steps else str(line.step)
        rows.append([line.name, line.state, step, line.losses, f"{line.seconds:.0f}"])
    if not rows:
        return ""
    table = text_table(COLUMNS, rows, right=("step", "seconds"), most_characters=most_characters)
    if len(ended) <= MOST_ROWS:
        return table
    counts = Counter(line.state for line in ended).items()
    return f"{table}\nin all: {', '.join(f'{count} {state}' for state, count in counts)}"


def _message(event: Event) -> str | None:
    """The message that an event gets on a line of its own in every display; None for other events."""
    words_of: dict[str, Callable[[Event], str]] = {
        "audit": _audit_words,
        "choice": lambda event: str(event["words"]),
        "plan": _plan_words,
        "note": lambda event: f"{f'{_name(event)}: ' if 'run_id' in event else ''}{event['message']}",
        "alone": lambda event: f"{_name(event)}: tried again by itself, as its stack failed: {event['reason']}",
        "elsewhere": lambda event: f"{_name(event)}: {event['message']}",
        "output": lambda event: f"{_name(event)} | {event['text']}",
    }
    return words_of[event["event"]](event) if event["event"] in words_of else None


def _audit_words(event: Event) -> str:
    unsure = ", ".join(event.get("could_not_tell", ())) if event["outcome"] == "could_not_tell" else ""
    outcome = str(event["outcome"]).replace("_", " ") + (f" by {unsure}" if unsure else "")
    words = ", ".join(stamps(event, " (expected)")) or outcome
    return f"audit of {event['arm']} at {event['scale']}: {words} ({event['seconds']:.1f} s)"


def _failure(event: Event) -> str | None:
    """One line that says why a run failed; None for any other event."""
    if event["event"] != "finished" or event["outcome"] in FINE_OUTCOMES or not event.get("reason"):
        return None
    return f"{_name(event)}: {event['outcome']}: {str(event['reason']).splitlines()[0]}"


def _plan_words(event: Event) -> str:
    seconds = event.get("predicted_seconds")
    time_words = (
        "" if not seconds else f", about {seconds:.0f} s" if seconds < 120 else f", about {seconds / 60:.0f} min"
    )
    time_words = ", about a minute" if event.get("is_short") else time_words
    trials = f"{event['trials_left']} of {event['trials']} trials and " if event.get("trials") else ""
    return f"{trials}{event['runs_left']} of {event['runs']} runs to do, {event['workers']} at a time{time_words}"


def _line(lines: dict[str, Line], event: Event) -> Line:
    """The line of the event's run, after an update with the event."""
    line = lines.setdefault(event["run_id"], Line(_name(event), RUNNING))
    line.update(event)
    return line


def _name(event: Event) -> str:
    scale = f" {event['scale']}" if event.get("scale", "base") != "base" else ""
    return shown(f"{event['arm']}{scale} seed {event['seed']}" if "arm" in event else str(event["run_id"]))


def _end_words(event: Event, line: Line) -> str:
    if event["event"] == "reused":
        return f"{event['outcome']} before"
    return f"{event['outcome']}{f', {line.losses}' if line.losses else ''} ({line.seconds:.1f} s of training)"


def _print_line(text: str) -> None:
    print(shown(text, 1000), file=sys.stderr, flush=True)
