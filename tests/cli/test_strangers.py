"""Files and specs of strangers: none of them runs code, reads what lies outside its folder, or writes outside the store.

Each case unpacks something hostile into the current directory, as an archive of a stranger would lie there, and runs one command
on it. Whatever ran would write the file `canary`.
"""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_experiment import TOML, everything_in

from palinode.base.config import encode
from palinode.results.store import Store
from palinode.spec.code import keep_code
from palinode.spec.load import load

EVIL = "with open({canary!r}, 'w') as handle:\n    handle.write('ran')\n"
IDEA = """
from palinode import (
    Arm, DataConfig, Decision, EvaluationConfig, Experiment, LtrObjective, RunSettings, Speedrun, gpt2,
)


class Mine(LtrObjective):
    strength: float = 1.0


experiment = Experiment(
    name="mine",
    question="Does it help?",
    base=RunSettings(
        data=DataConfig(corpus="text.txt", window_tokens=16, split="contiguous"),
        model=gpt2(layers=1, width=16, heads=2),
        objective=LtrObjective(),
        recipe=Speedrun(steps=2, batch_windows=2),
        evaluation=EvaluationConfig(max_tokens=100, directions=("ltr",)),
    ),
    arms=(Arm(name="ltr"), Arm(name="mine", change={"objective": Mine(strength=2.0)})),
    seeds=(1,),
    decision=Decision(baseline="ltr"),
)
"""


@dataclass(frozen=True)
class Case:
    """One hostile thing.

    Attributes:
        make: writes it into the current directory and returns the command line.
        names: what the one line on standard error must hold.
        codes: the exit codes that are right.
    """

    what: str
    make: Callable[[], tuple[str, ...]]
    names: tuple[str, ...] = ()
    codes: tuple[int, ...] = (2,)


def evil() -> str:
    return EVIL.format(canary=str(Path("canary").resolve()))


def strangers_store(code: str = "stranger/idea.py", record: dict | None = None, copy: str | None = None) -> Path:
    """A store with the spec of a run that has a part of its writer, whose code starts something. The run's directory."""
    path = Path(code)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(IDEA)
    source = load(path)
    spec = source.resolve().runs[1].spec
    directory = Store("stranger/runs").write_spec(spec.run_id, encode(spec))
    keep_code(directory, source.code)
    content = evil() + IDEA
    path.write_text(content)
    (directory / "code.py").write_text(content if copy is None else copy)
    honest = {"file": str(path.resolve()), "sha256": hashlib.sha256(content.encode()).hexdigest(), "parts": {}}
    (directory / "code.json").write_text(json.dumps(honest | (record or {})))
    return directory


def spec_of(directory: Path) -> str:
    return str(directory / "spec.json")


def on_spec(command: str, *options: str, **store) -> Callable[[], tuple[str, ...]]:
    return lambda: (command, spec_of(strangers_store(**store)), *options)


def on_run(command: str) -> Callable[[], tuple[str, ...]]:
    return lambda: (command, strangers_store().name, "--store", "stranger/runs")


def entry() -> tuple[str, ...]:
    """The entry of an experiment in a stranger's store, whose runs need code."""
    directory = strangers_store()
    spec = json.loads((directory / "spec.json").read_text())
    arm = {"name": "mine", "expect_leak": False, "note": "", "diff": []}
    data = {
        "name": "mine",
        "size": "default",
        "question": "?",
        "created": "2026-01-01T00:00:00+00:00",
        "command": [],
        "decision": {"baseline": "mine", "metric": "validation.ltr.nats_per_token"},
        "arms": [arm],
        "scales": ["base"],
        "seeds": [spec["seed"]],
        "runs": [{"arm": "mine", "scale": "base", "seed": spec["seed"], "run_id": directory.name}],
    }
    path = Path("stranger/runs/experiments/mine--default.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(data))
    return "run", str(path)


def linked(name: str) -> Callable[[], tuple[str, ...]]:
    """A file next to the spec is a link to a program elsewhere."""

    def make() -> tuple[str, ...]:
        directory = strangers_store()
        Path("elsewhere.py").write_text(evil() + IDEA)
        (directory / name).unlink()
        (directory / name).symlink_to(Path("elsewhere.py").resolve())
        return "run", spec_of(directory)

    return make


def toml(old: str, new: str, *, arguments: tuple[str, ...] = ("plan", "x.toml", "--no-measure")) -> Callable:
    """The good experiment with one place changed."""

    def make() -> tuple[str, ...]:
        assert old in TOML
        strangers_store()  # code.json and code.py lie in the same archive
        Path("code.py").write_text(evil() + IDEA)
        Path("code.json").write_text(json.dumps({"file": str(Path("code.py").resolve()), "sha256": "0", "parts": {}}))
        Path("x.toml").write_text(TOML.replace(old, new, 1))
        return arguments

    return make


def kind(name: str) -> Callable[[], tuple[str, ...]]:
    return toml('kind = "ltr"', f"kind = {json.dumps(name)}")


def corpus(name: str) -> Callable[[], tuple[str, ...]]:
    return toml('corpus = "text.txt"', f"corpus = {json.dumps(name)}")


def tokenizer(name: str) -> Callable[[], tuple[str, ...]]:
    return toml('corpus = "text.txt"', f'corpus = "text.txt"\ntokenizer = {json.dumps(name)}')


class _Starts:
    """What a pickle runs when it is loaded."""

    def __init__(self, canary: str):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def pickled(name: str, then: Callable[[str], Callable[[], tuple[str, ...]]]) -> Callable[[], tuple[str, ...]]:
    """A file that is a pickle, used as what its name says."""

    def make() -> tuple[str, ...]:
        Path(name).write_bytes(pickle.dumps(_Starts(str(Path("canary").resolve()))))
        return then(name)()

    return make


def numpy_objects() -> tuple[str, ...]:
    array = np.array([_Starts(str(Path("canary").resolve()))], dtype=object)
    np.save("ids.npy", array, allow_pickle=True)
    return toml('corpus = "text.txt"', 'corpus = "ids.npy"\ntokenizer = "ids:64"')()


def folder_with_link(target: str, name: str) -> Callable[[], tuple[str, ...]]:
    """A corpus folder in which one name leads to a file or folder outside of it."""

    def make() -> tuple[str, ...]:
        Path("secret").mkdir()
        Path("secret/key.txt").write_text(" ".join(f"secret{number}" for number in range(4000)))
        Path("corpus").mkdir()
        Path("corpus/a.txt").write_text(Path("text.txt").read_text())
        Path("corpus/b.txt").write_text(Path("text.txt").read_text()[::-1])
        Path("corpus", name).symlink_to(target)
        return corpus("corpus")()

    return make


def store_entry(**changes: object) -> Callable[[], tuple[str, ...]]:
    """An entry whose names lead out of the store."""

    def make() -> tuple[str, ...]:
        _, path = entry()
        data = json.loads(Path(path).read_text())
        Path(path).write_text(json.dumps(data | changes))
        return "report", "mine", "--store", "stranger/runs"

    return make


NAMED = ("--code FILE", "--allow-code")
COMMANDS = [
    *(Case(f"the spec of a run, {name}", on_spec(name), NAMED) for name in ("run", "plan", "audit")),
    *(Case(f"a run, {name}", on_run(name), NAMED) for name in ("sample", "cut")),
    Case("the entry of an experiment", entry, NAMED),
    Case("its code lies in the project", on_spec("run", code="idea.py"), NAMED),
    Case("its code lies next to the spec", on_spec("plan", code="stranger/runs/code.py"), NAMED),
    Case("its code is gone", on_spec("run", record={"file": "/nowhere/idea.py"}), NAMED),
    Case("its code is named by a relative path", on_spec("run", record={"file": "stranger/idea.py"}), NAMED),
    Case("its code is named through ..", on_spec("run", record={"file": "stranger/../stranger/idea.py"}), NAMED),
    Case("its code is this program", on_spec("run", record={"file": sys.executable}), NAMED),
    Case("its code is on the network", on_spec("run", record={"file": "https://example.org/idea.py"}), NAMED),
    Case("its code is a directory", on_spec("run", record={"file": "/"}), NAMED),
    Case("its code is no text", on_spec("run", record={"file": ["idea.py"]}), ("code.json", "names no code file")),
    Case("its code has a NUL", on_spec("run", record={"file": "idea\0.py"}), ("code.json", "names no code file")),
    Case("its code has two lines", on_spec("run", record={"file": "a\nb"}), ("code.json", "names no code file")),
    Case("the copy is a link", linked("code.py"), NAMED),
    Case("the record is a link", linked("code.json"), ("code.json",), (2, 4)),
    Case(
        "the copy is other code, and all is allowed",
        on_spec("run", "--allow-code", record={"file": "/nowhere/idea.py", "sha256": "0" * 64}),
        ("code.py", "is not the code"),
        (4,),
    ),
    Case(
        "code for an experiment that has none",
        lambda: ("plan", toml("tiny", "tiny")()[1], "--code", str(strangers_store(code="idea.py") / "code.py")),
        ("x.toml", "--code"),
    ),
]
KINDS = [
    Case(f"the kind {name!r}", kind(name), ("x.toml", "base.objective"))
    for name in (
        *("user:Mine", "user:os.system", "os.system", "builtins.eval", "palinode.spec.code.run_file", "../idea"),
        *("user:../idea.py:Mine", "__import__('os').system('touch canary')", "$(touch canary)", "\u001b]0;title\u0007"),
    )
]
DATA = [
    *(
        Case(f"the corpus {name!r}", corpus(name), ("data.corpus",), (2, 5))
        for name in (
            *("|touch canary", "$(touch canary)", "`touch canary`", "https://example.org/a.txt", "hf://stranger/set"),
            *("file:///etc/passwd", "text.txt; touch canary", "text.txt\0"),
        )
    ),
    *(
        Case(f"the tokenizer {name!r}", tokenizer(name))
        for name in ("stranger/idea.py", "hf:stranger/code", "$(touch canary)", "/dev/zero", "/")
    ),
    Case("a pickle as a tokenizer", pickled("tokenizer.json", tokenizer), ("tokenizer.json",)),
    Case("a pickle as parquet", pickled("a.parquet", corpus), ("a.parquet",)),
    Case("a pickle as token ids", pickled("ids.npy", corpus), ("ids.npy",)),
    Case("an array of objects", numpy_objects, ("ids.npy",)),
    Case("a link to a file outside", folder_with_link("../secret/key.txt", "c.txt"), ("corpus/c.txt", "is a link to")),
    Case("a link to a system file", folder_with_link("/etc/passwd", "c.txt"), ("corpus/c.txt", "is a link to")),
    Case("a link to a folder outside", folder_with_link("../secret", "more"), ("corpus/more", "is a link to")),
    Case("a train file that is a link", folder_with_link("../secret/key.txt", "wiki.train.tokens"), ("corpus",)),
]
ENTRIES = [
    Case(what, store_entry(**changes), (), (2, 4))
    for what, changes in (
        ("a run id that leads out", {"runs": [{"arm": "mine", "scale": "base", "seed": 1, "run_id": "../x"}]}),
        ("an arm that is a path", {"arms": [{"name": "../../x"}]}),
        ("a name that is a path", {"name": "../../x"}),
    )
]
CASES = [*COMMANDS, *KINDS, *DATA, *ENTRIES]


def test_there_are_enough_cases():
    assert len(CASES) >= 40
    assert len({case.what for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_nothing_of_a_stranger_runs(case, palinode, here):
    arguments = case.make()
    assert not Path("canary").exists()
    before = everything_in(here)
    told = palinode(*arguments)
    assert told.code in case.codes, told.err
    assert told.out == ""
    [line] = told.err.splitlines()
    assert line.isprintable()
    for name in case.names:
        assert name in line
    after = {path: content for path, content in everything_in(here).items() if "index.json" not in path}
    assert after == before


def test_what_the_user_names_runs(palinode):
    """The counterpart: the same spec, with the file that the user names, or with what its writer names."""
    directory = strangers_store(code="idea.py")
    for options in (("--code", "idea.py"), ("--allow-code",)):
        Path("canary").unlink(missing_ok=True)
        told = palinode("plan", spec_of(directory), "--no-measure", *options)
        assert told.code == 0, told.err
        assert Path("canary").exists()


def test_another_file_than_the_one_of_the_run_is_refused(palinode):
    directory = strangers_store(code="idea.py")
    Path("other.py").write_text(IDEA.replace("strength: float = 1.0", "strength: float = 3.0"))
    told = palinode("plan", spec_of(directory), "--no-measure", "--code", "other.py")
    assert told.code == 2
    assert "the code of user:Mine has changed" in told.err


NAMES = ["torch.py", "palinode/__init__.py", "polars.py", "typer.py", "json.py", "sitecustomize.py"]


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.nightly) for name in NAMES[1:])])
def test_a_module_in_the_current_directory_is_not_imported(name, here):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(evil())
    Path("x.toml").write_text(TOML)
    program = "from palinode.cli.main import main; main()" if name.startswith("palinode") else None
    command = [sys.executable, *(["-P", "-c", program] if program else ["-m", "palinode"])]
    done = subprocess.run(
        [*command, "plan", "x.toml", "--no-measure"], capture_output=True, text=True, timeout=240, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert not Path("canary").exists()


def test_a_link_inside_a_folder_is_read(palinode):
    Path("corpus/original").mkdir(parents=True)
    Path("corpus/original/a.txt").write_text(Path("text.txt").read_text())
    Path("corpus/b.txt").symlink_to("original/a.txt")
    Path("corpus/c.txt").write_text("other words and more of them " * 300)
    arguments = corpus("corpus")()
    told = palinode(*arguments)
    assert told.code == 0, told.err


def test_the_links_of_a_hub_cache_are_read(palinode):
    """A hub's cache keeps files in `blobs`, and a snapshot of a data set is a folder of links to them."""
    for name, text in (("1", Path("text.txt").read_text()), ("2", "other words and more of them " * 300)):
        Path("cache/blobs").mkdir(parents=True, exist_ok=True)
        Path("cache/blobs", name).write_text(text)
        Path("cache/snapshots/abc").mkdir(parents=True, exist_ok=True)
        Path("cache/snapshots/abc", f"{name}.txt").symlink_to(f"../../blobs/{name}")
    told = palinode(*corpus("cache/snapshots/abc")())
    assert told.code == 0, told.err
