"""One numerics version against another: the final loss and the CPU time of paired trainings, in two source trees.

`python benchmarks/numerics.py OTHER_SRC` trains `modern` decoders with `speedrun` in this source tree and in the tree OTHER_SRC
(the folder `src` of another checkout), in turn, with equal seeds. Both versions start from the same weights and read the same windows,
so a difference of their final losses comes from rounding alone. A difference is this tree's loss minus the other's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine_facts
from palinode import EvaluationConfig, LtrObjective, RunSpec, Speedrun, Store, TextData, modern
from palinode.base import fsio
from palinode.base.memory import keep_memory, with_huge_pages
from palinode.base.numerics import NUMERICS_VERSION

RESULT = Path(__file__).parent / "results" / "numerics.json"
HERE = Path(__file__).parents[1] / "src"
TARGET_NATS = 0.003  # the mean difference of the final losses
SEEDS = (1, 2, 3)
CASES: dict[str, dict[str, int]] = {
    "2x64": {"layers": 2, "width": 64, "heads": 2, "steps": 600},
    "4x128": {"layers": 4, "width": 128, "heads": 4, "steps": 300},
}
