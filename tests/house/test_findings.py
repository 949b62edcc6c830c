"""The scripts that make the findings pages: what an interval allows to say."""

import importlib.util
import sys
from pathlib import Path

import pytest

FINDINGS = Path(__file__).parents[2] / "findings"


@pytest.fixture(scope="module")
def arrows():
    spec = importlib.util.spec_from_file_location("findings_arrows", FINDINGS / "arrows.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


TELLS_NOT = "cannot tell at this scale"


@pytest.mark.parametrize(
    ("intervals", "above", "within"),
    [
        ([(-0.001, 0.002), (0.004, 0.012)], "holds", "holds"),
        ([(-0.001, 0.002), (-0.004, 0.012)], TELLS_NOT, "holds"),
        ([(-0.001, 0.002), (-0.04, -0.01)], "does not hold", "holds"),
        ([(0.06, 0.09), (0.004, 0.012)], "holds", "does not hold"),
        ([(-0.9, -0.7), (-0.9, -0.7)], "does not hold", "does not hold"),  # the published mask
        ([(0.01, 0.09), (0.004, 0.012)], "holds", TELLS_NOT),
        ([(None, None), (None, None)], TELLS_NOT, TELLS_NOT),
        ([], TELLS_NOT, TELLS_NOT),
    ],
)
def test_the_verdict_on_the_arrow_follows_from_the_intervals(arrows, intervals, above, within):
    found = [arrows.Gap(16 * 2**i, 0.0, low, high, 3, None) for i, (low, high) in enumerate(intervals)]
    assert [claim.verdict for claim in arrows.judged(found)] == [above, within]


def test_every_page_that_a_script_makes_is_listed():
    listed = (FINDINGS / "README.md").read_text()
    assert all(f"findings/{script.name}" in listed for script in FINDINGS.glob("*.py"))
