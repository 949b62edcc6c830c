"""The seed of a named random stream, as a whole number. This module imports no torch, so the report can use it."""

from __future__ import annotations

import hashlib

# The first part of every derived seed. It never changes, even if the numerics version is raised: the initial weights, the windows
# and the splits stay the same, so runs of two numerics versions can be compared in pairs.
CONSTANT = 1


def derive(seed: int, name: str, *position: int | str) -> int:
    """A 63-bit whole number from the SHA-256 of (seed, name, position)."""
    text = "/".join(str(item) for item in (CONSTANT, seed, name, *position))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
