"""The table of laws, and how a measurement becomes a finding."""

import json
import math
import re
from pathlib import Path

import pytest

from palinode import audit
from palinode.base.config import encode
from palinode.checks import laws
from palinode.checks.laws import LAWS, finding, outcome_of


def test_every_check_has_a_law_and_every_law_a_check():
    rooms = [Path(laws.__file__).parent, Path(audit.__file__).parent]
    paths = [path for room in rooms for path in room.glob("*.py") if path.name != "laws.py"]
    sources = [path.read_text(encoding="utf-8") for path in paths]
    made = {code for source in sources for code in re.findall(r'"(C[1-9]\.[a-z_-]+)"', source)}
    assert made == set(LAWS)


@pytest.mark.parametrize(
    ("wrong", "can_tell", "outcome"),
    [(True, True, "fail"), (True, False, "fail"), (False, True, "pass"), (False, False, "could_not_tell")],
)
def test_a_check_passes_only_if_its_control_worked(wrong, can_tell, outcome):
    assert outcome_of(wrong=wrong, can_tell=can_tell) == outcome


def test_numbers_that_json_cannot_hold_are_stored_as_none():
    numbers = {"infinite": math.inf, "undefined": math.nan, "finite": 1.5, "count": 3, "text": "1, 2"}
    made = finding("C8.falls", "pass", "message", numbers)
    assert made.numbers == {"infinite": None, "undefined": None, "finite": 1.5, "count": 3, "text": "1, 2"}
    assert json.loads(json.dumps(encode(made), allow_nan=False))["law"] == LAWS["C8.falls"]
