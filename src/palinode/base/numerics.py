"""The numerics version: two programs with the same version compute the same bits from the same spec on the same machine."""

from __future__ import annotations

# Raise this number when the same spec gives other bits. The number is part of every run id, and every spec in a store records it.
# No random stream depends on it (`seeds.py`): runs of two versions start from the same weights and read the same windows.
NUMERICS_VERSION = 1
