"""The first line of `palinode run`: the file with its arms, scales and seeds. A terminal shows it before torch is imported."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palinode.base.decision import UNTIL_DECIDED
from palinode.base.event import Event
from palinode.cli.texttable import shown

if TYPE_CHECKING:
    from palinode.spec.experiment import ResolvedExperiment

CLEAR_LINE = "\r\x1b[2K"
MOST_CHARACTERS = 100
DEFAULT_SEEDS = 3  # of an experiment that names no seeds


class FirstLine:
    """The line, on standard error. A terminal shows it at once; another stream shows it when the first event of the run comes.

    A refusal comes before any event, and is then the only line of the command.
    """

    def __init__(self, file: Path, size: str | None, seeds: str | None):
        self.file, self.on_terminal = file, sys.stderr.isatty()
        self._text, self._is_open = before_loading(file, size, seeds), True
        self._show()

    def resolved(self, resolved: ResolvedExperiment) -> None:
        """Complete the line with the arms, scales and seeds of the runs."""
        arms = [arm.name for arm in resolved.arms]
        seeds = UNTIL_DECIDED if resolved.seeds_planned == UNTIL_DECIDED else len(resolved.seeds)
        self._text = _words(self.file, arms, len(resolved.scales), seeds)
        self._show()

    def before(self, show: Callable[[Event], None]) -> Callable[[Event], None]:
        """The same function, but its first call ends the line."""

        def shown_after_the_line(event: Event) -> None:
            if self._is_open:
                self._is_open = False
                _write(f"{CLEAR_LINE * self.on_terminal}{self._text}\n")
            show(event)

        return shown_after_the_line

    def clear(self) -> None:
        """Take the line away, unless it has ended."""
        if self.on_terminal and self._is_open:
            _write(CLEAR_LINE)

    def _show(self) -> None:
        if self.on_terminal:
            _write(CLEAR_LINE + self._text)


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


@contextmanager
def first_line(file: Path, size: str | None, seeds: str | None) -> Iterator[FirstLine]:
    """Show the first line while an experiment is loaded, and until its first event."""
    line = FirstLine(file, size, seeds)
    try:
        yield line
    except BaseException:
        line.clear()
        raise


def before_loading(file: Path, size: str | None, seeds: str | None) -> str:
    """The line from the text of a TOML file; for another file, and for a text that is no experiment, its name alone."""
    try:
        if file.suffix.lower() != ".toml":
            return _name(file)
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        chosen = table.get("sizes", {}).get(size, {})
        arms = chosen.get("arms") or [arm["name"] for arm in table["arms"]]
        scales = chosen.get("scales") or table.get("scales") or ["base"]
        planned = chosen.get("seeds") or table.get("seeds") or range(DEFAULT_SEEDS)
        own = planned if planned == UNTIL_DECIDED else len(planned)
        count = own if seeds is None else int(seeds) if seeds.isdecimal() else len(seeds.strip(", ").split(","))
        return _words(file, [str(name) for name in arms], len(scales), count)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return _name(file)


def _name(file: Path) -> str:
    return f"{shown(str(file), MOST_CHARACTERS)}: loading"


def _words(file: Path, arms: Sequence[str], scales: int, seeds: int | str) -> str:
    """The line. `seeds` is the number of seeds, or the text "until decided"."""
    counts = [
        f"{count} {what}{'' if count == 1 else 's'}"
        for count, what in (
            (len(arms), "arm"),
            (scales, "scale"),
            *([(seeds, "seed")] if isinstance(seeds, int) else []),
        )
    ]
    counts += [f"seeds {seeds}"] if isinstance(seeds, str) else []
    return f"{shown(str(file), MOST_CHARACTERS)}: {', '.join(counts)} ({shown(', '.join(arms), MOST_CHARACTERS)})"
