"""`palinode new` writes an experiment that is worth starting from."""

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from palinode.cli.main import app  # noqa: F401 - the program imports before the test changes directory
from palinode.spec.load import load, parse_overrides


def test_it_resolves_with_an_objective_of_the_users_own(palinode):
    output = palinode("new", "my idea.py")
    assert (output.code, output.err) == (0, "")
    source = load(Path("my idea.py"))
    resolved = source.resolve("smoke")
    assert resolved.name == "my-idea"
    kinds = {run.arm: run.spec.objective.kind_name() for run in resolved.runs}
    assert kinds == {"ltr": "ltr", "further": "user:LookFurther"}
    assert len(source.resolve().runs) == 10
    assert palinode("new", "my idea.py").code == 2


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my_idea.py", "my_idea"),
        ("a  b--c.py", "a-b-c"),
        ('it\'s "so".py', "it-s-so"),
        ("ä.py", "idea"),
        ("a\\b.py", "a-b"),
    ],
)
def test_what_it_prints_can_be_pasted(palinode, file, name):
    printed = palinode("new", file).out.split("`")[1]
    assert shlex.split(printed) == ["palinode", "run", file, "--size", "smoke"]
    assert load(Path(file)).resolve("smoke").name == name
    commands = [shlex.split(line) for line in ast.get_docstring(ast.parse(Path(file).read_text())).splitlines()[2:]]
    assert [command[:3] for command in commands] == [
        *(["palinode", command, file] for command in ("plan", "audit", "run")),
        ["palinode", "report", f"{name}--smoke"],
    ]


@pytest.mark.nightly
def test_the_laptop_size_asks_more_than_smoke_and_as_many_seeds_as_a_verdict_needs(palinode):
    palinode("new", "my_idea.py")
    source = load(Path("my_idea.py"))
    smoke, laptop = source.resolve("smoke"), source.resolve("laptop")
    assert laptop.runs[0].spec.recipe.steps >= 5 * smoke.runs[0].spec.recipe.steps
    assert len(laptop.seeds) >= 3
    output = palinode("plan", "my_idea.py", "--size", "laptop", "--no-measure")
    assert (output.code, output.err) == (0, "")
    assert "10 of 10 runs are left" in output.out


def test_the_command_of_the_mixers_page_fits_it(palinode):
    page = Path(__file__).parents[2] / "docs" / "mixers.md"
    (command,) = re.findall(r"^palinode plan (?:.*\\\n)*.*$", page.read_text(), re.MULTILINE)
    _, _, file, *options = shlex.split(command.replace("\\\n", " "))
    palinode("new", file)
    assert options[::2] == ["--set"] * len(options[1::2])
    runs = load(Path(file)).resolve(overrides=parse_overrides(options[1::2])).runs
    assert {run.spec.model.mixer.kind_name() for run in runs} == {"hyena"}


def test_the_objective_has_at_most_30_lines(palinode):
    palinode("new", "idea.py")
    tree = ast.parse(Path("idea.py").read_text())
    (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert cls.end_lineno - cls.lineno + 1 <= 30


@pytest.mark.parametrize("name", ["idea", "idea.toml", "idea.txt"])
def test_only_python_files_are_written(palinode, here, name):
    assert palinode("new", name).code == 2
    assert not Path(name).exists()


@pytest.mark.parametrize(
    ("name", "such"),
    [(".", "my_idea.py"), ("..", "my_idea.py"), ("/", "my_idea.py"), ("", "my_idea.py"), ("a.b", "a.py")],
)
def test_what_is_no_python_file_is_told_in_one_line_with_a_name_that_would_do(palinode, name, such):
    output = palinode("new", name)
    assert (output.code, output.out) == (2, "")
    assert output.err == f"{Path(name)}: FILE: an experiment is a Python file (such as {such})\n"


def test_it_is_formatted_as_this_project_is(palinode):
    ruff = shutil.which("ruff") or str(Path(__import__("sys").executable).with_name("ruff"))
    palinode("new", "idea.py")
    done = subprocess.run(
        [ruff, "check", "--isolated", "--line-length", "120", "--select", "E,F,W,B,UP", "idea.py"], capture_output=True
    )
    assert done.returncode == 0, done.stdout
