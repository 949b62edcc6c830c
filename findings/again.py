"""The command that redoes the runs of a page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

LOCAL = ("--store", "--workers", "--stack")  # where the records lay and how many at a time: not what was run


def again(command: Sequence[str]) -> str:
    """A stored command without the options that say nothing about the runs."""
    kept: list[str] = []
    skip = False
    for word in command:
        name, given, _ = word.partition("=")
        if not skip and name not in LOCAL:
            kept.append(word)
        skip = not skip and name in LOCAL and not given
    return shlex.join(kept)
