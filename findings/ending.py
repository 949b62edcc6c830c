"""How the scripts end: what a user can cause is one line and the exit code of its kind, as with `palinode`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from palinode.base.errors import PalinodeError


def ending(main: Callable[[], None]) -> int:
    """Run a script; the exit code it ends with."""
    try:
        main()
    except PalinodeError as problem:
        sys.stderr.write(f"{problem}\n")
        return problem.exit_code
    return 0
