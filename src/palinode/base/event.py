"""What a run, a worker and a sweep tell while they work."""

from __future__ import annotations

from typing import Any

# `event` names what happened, such as "row" or "finished"; the other entries are numbers and words that JSON can hold.
Event = dict[str, Any]
# Begins the line in which a process that shares a run with others says why it ends the run.
END_OF_SHARED_RUN = "the run ended: "
