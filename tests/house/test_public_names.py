"""`import palinode` is cheap and complete: every public name resolves, nothing heavy is loaded before it is used."""

import subprocess
import sys

import palinode


def test_every_public_name_resolves():
    for name in palinode.__all__:
        assert getattr(palinode, name).__name__ == name


def test_every_home_is_listed_and_nothing_else():
    assert sorted(palinode._HOME_OF) == sorted(palinode.__all__)


def test_importing_palinode_loads_no_torch():
    program = "import sys, palinode; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
