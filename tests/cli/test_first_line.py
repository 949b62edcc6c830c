"""The first line of `palinode run`: at once on a terminal, and gone when the file is refused."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_experiment import TOML

from palinode.base.errors import BadInput
from palinode.cli.first_line import CLEAR_LINE, before_loading, first_line

SIZED = TOML + '\n[sizes.small]\narms = ["ltr"]\nscales = ["a", "b"]\nseeds = [4]\n'


@pytest.mark.parametrize(
    ("text", "size", "seeds", "words"),
    [
        (TOML, None, None, "2 arms, 1 scale, 2 seeds (ltr, both)"),
        (TOML, None, "5", "2 arms, 1 scale, 5 seeds (ltr, both)"),
        (TOML, None, "7,", "2 arms, 1 scale, 1 seed (ltr, both)"),
        (SIZED, "small", None, "1 arm, 2 scales, 1 seed (ltr)"),
        ("arms = 3", None, None, "loading"),
        ("no toml", None, None, "loading"),
        (TOML, None, "many", "2 arms, 1 scale, 1 seed (ltr, both)"),
    ],
)
def test_the_line_of_a_toml_file_follows_from_its_text(tmp_path, text, size, seeds, words):
    file = tmp_path / "x.toml"
    file.write_text(text)
    assert before_loading(file, size, seeds) == f"{file}: {words}"


def test_other_files_are_named():
    assert before_loading(Path("x.py"), None, None) == "x.py: loading"
    assert before_loading(Path("missing.toml"), None, None) == "missing.toml: loading"


def test_a_terminal_shows_it_at_once_and_a_refusal_takes_its_place(here, monkeypatch, capsys):
    Path("x.toml").write_text(TOML)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with contextlib.suppress(BadInput), first_line(Path("x.toml"), None, None):
        assert capsys.readouterr().err == CLEAR_LINE + "x.toml: 2 arms, 1 scale, 2 seeds (ltr, both)"
        raise BadInput("is refused")
    assert capsys.readouterr().err == CLEAR_LINE


def test_another_stream_shows_it_when_the_first_event_comes(here, capsys):
    Path("x.toml").write_text(TOML)
    with first_line(Path("x.toml"), None, None) as line:
        show = line.before(lambda event: None)
        assert capsys.readouterr().err == ""
        show({})
        show({})
        assert capsys.readouterr().err == "x.toml: 2 arms, 1 scale, 2 seeds (ltr, both)\n"


def test_it_needs_no_torch():
    program = "import sys; import palinode.cli.main, palinode.cli.first_line; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240).stdout == "False\n"
    )
