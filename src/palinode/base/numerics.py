"""The numerics version: two programs with the same version compute the same bits from the same spec on the same machine."""

from __future__ import annotations

# Raise this number when the same spec gives other bits. The number is part of every run id, and every spec in a store records it.
# No random stream depends on it (`seeds.py`): runs of two versions start from the same weights and read the same windows.
# 2: soft-cap, cross-entropy and RMSNorm have written-out gradients; Muon's wide matrices take the Gram form; the decisions of a
# batch are drawn once for all its micro-batches; `masked-input` hides tokens only among those that are read.
NUMERICS_VERSION = 2
