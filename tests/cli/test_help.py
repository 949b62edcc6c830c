"""The face of the program: every command has an example that is true, help is quick, and nothing heavy is imported."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from palinode.cli.main import app

SURFACE = Path(__file__).with_name("surface.txt")


def commands(group=None, path=("palinode",)):
    """Every command of the program with its path of names."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def options_of(command) -> list[str]:
    return sorted(option for parameter in command.params for option in parameter.opts if option.startswith("-"))


ALL = {" ".join(path[1:]): command for path, command in commands()}


def test_the_surface_is_what_was_agreed():
    """A command or option that appears or vanishes must be meant: change the snapshot with it."""
    lines = [f"{name}: {' '.join(options_of(command))}".rstrip() for name, command in sorted(ALL.items())]
    assert lines == SURFACE.read_text().splitlines()


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_shows_an_example_with_options_it_has(name, palinode):
    output = palinode(*name.split(), "--help")
    assert (output.code, output.err) == (0, "")
    examples = re.findall(rf"^ +(palinode {name}\b.*)$", output.out.partition("Example:")[2], re.MULTILINE)
    assert examples
    for option in re.findall(r" (--?[a-z][a-z-]*)", " ".join(examples)):
        assert option in options_of(ALL[name])


def test_the_short_flag_says_the_same(palinode):
    for names in ((), ("plan",), ("data", "get")):
        assert palinode(*names, "-h") == palinode(*names, "--help")


def test_the_program_and_its_groups_show_examples(palinode):
    for arguments in ((), ("--help",), ("-h",), ("data",), ("data", "--help")):
        output = palinode(*arguments)
        shown = output.out + output.err
        assert "Example:" in shown, arguments
        assert "palinode" in shown


def test_help_says_what_is_true(palinode):
    listed = {
        line.split()[0]: line for line in palinode("--help").out.splitlines() if line.startswith("  ") and line.split()
    }
    assert "with only its first blocks" in listed["cut"]
    output = " ".join(palinode("plan", "--help").out.split())
    assert "null is no value" in output
    assert "A size that the file defines" in output
    assert "then new ones" in output


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("group", [(), ("data",), ("import",)])
def test_no_description_of_a_command_is_cut(columns, group, palinode, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, _, listed = palinode(*group, "--help").out.partition("Commands:\n")
    assert listed
    assert "..." not in listed
    assert all(len(line) <= columns for line in listed.splitlines())


def test_version_names_the_program_torch_and_python(palinode):
    output = palinode("--version")
    assert output.code == 0
    assert re.fullmatch(r"palinode \d+\.\d+\.\d+, torch \d+\.\d+\S*, Python 3\.\d+\.\d+\n", output.out)


def loaded_modules(*arguments: str) -> set[str]:
    program = (
        "import sys\nfrom palinode.cli.main import entry\ncode = entry(sys.argv[1:])\n"
        "print('MODULES', code, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    _, code, *names = done.stdout.splitlines()[-1].split()
    assert code == "0", done.stderr
    return set(names)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("--version",), ("new", "idea.py"), ("data", "--help")]
)
def test_quick_commands_import_nothing_heavy(arguments, here):
    heavy = {"torch", "numpy", "scipy", "polars", "altair", "tokenizers", "palinode.spec", "palinode.results"}
    assert not loaded_modules(*arguments) & heavy


@pytest.mark.parametrize("arguments", [("ls",), ("ls", "--runs"), ("ls", "--json"), ("show", "tiny--default")])
def test_a_store_is_listed_without_torch(arguments, here):
    from palinode.results.record import ExperimentEntry
    from palinode.results.store import Store

    Store("runs").write_experiment(ExperimentEntry(name="tiny", size="default"))
    assert "torch" not in loaded_modules(*arguments)


def computing_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.nightly
def test_help_computes_at_most_six_times_as_long_as_the_import_of_typer(here):
    """0.3 s on a quiet machine, where this import takes 0.06 to 0.08 s. A busy or slow machine takes longer for both."""
    pairs = [(computing_seconds("-m", "palinode", "--help"), computing_seconds("-c", "import typer")) for _ in range(6)]
    (spent, typer_alone) = (min(times) for times in zip(*pairs, strict=True))
    assert spent < 6 * typer_alone, pairs
