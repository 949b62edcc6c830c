"""Tests of this room start processes of their own, whose files lie beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
