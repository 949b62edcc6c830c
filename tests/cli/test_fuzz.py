"""Mutated experiments and command lines: each ends with an answer or with one line, in bounded time, and never with a traceback.

180 examples in every test run, always the same; 2,000 new ones in `make test-nightly`.
"""

import contextlib
import copy
import io
import json
import os
import random
import string
import sys
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_experiment import TOML

from palinode.cli.main import entry

MOST_CPU_SECONDS = 20
EXIT_CODES = {0, 1, 2, 3, 4, 5}  # 70 is a bug of the program
SOME = settings(max_examples=30, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=667, derandomize=False, suppress_health_check=list(HealthCheck))

NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 7, 63, 64, 255, 256, 10**6, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**30]),
    st.integers(-5, 70),
    st.sampled_from([0.0, -0.0, 0.5, 1e-300, 1e300, -1.5, 1e30]),
)
WORDS = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                " ",
                "..",
                "../x",
                "/",
                "\0",
                "a" * 300,
                "-h",
                "--help",
                "CON",
                "nul.txt",
                "NaN",
                "null",
                "true",
                "é",
                "🐍",
            ),
            *(
                "ltr",
                "rtl",
                "both",
                "choose",
                "masked",
                "decoder",
                "latent",
                "adamw",
                "muon-adamw",
                "cosine",
                "user:X",
                "kind",
            ),
            *("byte", "char", "bpe:300", "bpe:1", "ids:64", "gpt2", "text.txt", "x.json", "python-docs", "wikitext-2"),
            *("validation.ltr.nats_per_token", "test.own.accuracy", "answer", "last", "all", "full", "hyena", "parity"),
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=12),
)
TABLES = st.sampled_from(
    [
        *({"kind": "both", "p": {"kind": "constant", "p": 0.5}}, {"kind": "choose", "p": 0.5}, {"kind": "masked"}),
        *({"kind": "bottleneck"}, {"kind": "latent"}, {"kind": "encoder-decoder"}, {"kind": "hyena"}, {"kind": "h3"}),
        *(
            {"kind": "linear", "p_start": 0.0, "p_end": 1.0},
            {"kind": "prefix", "length_slots": 3},
            {"kind": "muon-adamw"},
        ),
        *({"task": {"kind": "parity"}}, {"task": {"kind": "mqar", "pairs": 3}}, {"kind": "speedrun", "steps": 3}, {}),
    ]
)
# Copies of the tables: a later change inside an experiment must not change the table that the next example gets.
VALUES = st.one_of(
    NUMBERS, WORDS, TABLES.map(copy.deepcopy), st.booleans(), st.none(), st.lists(NUMBERS | WORDS, max_size=3)
)


def places(value, path=()):
    """The path of every value inside a table or list."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key)
        yield from places(item, (*path, key))


@st.composite
def experiments(draw) -> str:
    """The good experiment as JSON with one to three places replaced, renamed, doubled or taken away."""
    data = tomllib.loads(TOML)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(data))
        *path, last = draw(st.sampled_from(paths))
        owner = data
        for key in path:
            owner = owner[key]
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add"]))
        if how == "remove":
            del owner[last]
        elif isinstance(owner, list):
            owner[last] = draw(VALUES)
        elif how == "rename":
            owner[draw(WORDS)] = owner.pop(last)
        elif how == "add":
            owner[
                draw(st.sampled_from(["dropout", "precision", "labels", "sizes", "at", "tuning", "mixer", "position"]))
            ] = draw(VALUES)
        else:
            owner[last] = draw(VALUES)
        if not data:
            break
    return json.dumps(data)


@st.composite
def texts(draw) -> bytes:
    """The good experiment as TOML with bytes changed, taken away or put in."""
    content = bytearray(TOML.encode())
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        place = draw(st.integers(0, len(content) - 1))
        how = draw(st.sampled_from(["byte", "remove", "insert", "cut"]))
        if how == "byte":
            content[place] = draw(st.integers(0, 255))
        elif how == "remove":
            del content[place : place + draw(st.integers(1, 20))]
        elif how == "insert":
            content[place:place] = draw(WORDS).encode("utf-8", "replace")
        else:
            content = content[: place + 1]
    return bytes(content)


OPTIONS = (
    *(
        "--store",
        "--set",
        "--size",
        "--seeds",
        "--arm",
        "--workers",
        "--stack",
        "--from",
        "--name",
        "--out",
        "--window",
    ),
    *(
        "--text",
        "--tokens",
        "--rows",
        "--temperature",
        "--top-k",
        "--top-p",
        "--seed",
        "--blocks",
        "--code",
        "--json",
        "--runs",
    ),
    *("--no-measure", "--yes", "--allow-code", "--help", "--verify", "--direction", "--limit-characters", "-o", "-q"),
)
# Without the commands that train, audit or fetch where they are given a good file: these get one that is missing.
COMMANDS = st.sampled_from(
    [
        *(["plan", "x.toml", "--no-measure"], ["ls"], ["show", "tiny"], ["compare", "tiny"], ["report", "tiny"]),
        *(["findings", "x.toml"], ["sample", "abc"], ["cut", "abc"], ["new"], ["data", "add"], ["data", "ls"]),
        *(
            ["data", "show"],
            ["data"],
            ["import", "mask"],
            ["import"],
            ["run", "gone.toml"],
            ["audit", "gone.toml"],
            ["doctor"],
        ),
        *(
            ["plan"],
            [],
            ["nonsense"],
            ["plan", "x.toml", "--no-measure", "--set"],
            ["plan", "x.toml", "--no-measure", "--seeds"],
        ),
    ]
)
FIELDS = st.sampled_from(
    [
        *(
            "model.layers",
            "model.width",
            "model.heads",
            "model.mlp_mult",
            "model.mixer",
            "model",
            "data.corpus",
            "data",
            "seeds",
        ),
        *(
            "data.window_tokens",
            "data.tokenizer",
            "recipe.steps",
            "recipe.batch_windows",
            "recipe.micro_batches",
            "recipe",
        ),
        *(
            "objective",
            "objective.p",
            "evaluation.max_tokens",
            "evaluation.labels",
            "labels",
            "threads",
            "device",
            "a.b.c",
        ),
    ]
)
CHANGES = st.builds(
    lambda field, value: f"{field}={value}", FIELDS, st.one_of(NUMBERS.map(str), WORDS, TABLES.map(json.dumps))
)
ARGUMENTS = st.lists(st.one_of(st.sampled_from(OPTIONS), WORDS, NUMBERS.map(str), CHANGES), max_size=4)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A directory with a text and a good experiment, which the examples share."""
    before, path = Path.cwd(), list(sys.path)
    folder, cache = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("cache")
    drawn = random.Random(1)
    words = ["".join(drawn.choices(string.ascii_lowercase, k=drawn.randint(1, 8))) for _ in range(300)]
    (folder / "text.txt").write_text("\n\n".join(" ".join(drawn.choices(words, k=12)) for _ in range(200)))
    (folder / "x.toml").write_text(TOML)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PALINODE_CACHE", str(cache))
        patched.delenv("PALINODE_STORE", raising=False)
        patched.delenv("PALINODE_DATA", raising=False)
        os.chdir(folder)
        yield folder
        os.chdir(before)
        sys.path[:] = path


def answer(*arguments: str) -> None:
    """Run a command line and check the law."""
    out, err = io.StringIO(), io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = entry(arguments)
    seconds = time.process_time() - began
    told = err.getvalue()
    assert code in EXIT_CODES, told
    assert "Traceback" not in told + out.getvalue()
    assert seconds < MOST_CPU_SECONDS, (seconds, told)
    if code:
        [line] = told.splitlines()
        assert line.isprintable()


def plan_json(experiment: str) -> None:
    Path("mutated.json").write_text(experiment)
    answer("plan", "mutated.json", "--no-measure")


def plan_toml(content: bytes) -> None:
    Path("mutated.toml").write_bytes(content)
    answer("plan", "mutated.toml", "--no-measure")


def command(first: list[str], rest: list[str]) -> None:
    answer(*first, *rest)


@SOME
@given(experiment=experiments())
def test_a_mutated_experiment(project, experiment):
    plan_json(experiment)


@SOME
@given(content=texts())
def test_a_mutated_text(project, content):
    plan_toml(content)


@SOME
@given(first=COMMANDS, rest=ARGUMENTS)
def test_a_mutated_command_line(project, first, rest):
    command(first, rest)


@pytest.mark.nightly
@MANY
@given(experiment=experiments())
def test_many_mutated_experiments(project, experiment):
    plan_json(experiment)


@pytest.mark.nightly
@MANY
@given(content=texts())
def test_many_mutated_texts(project, content):
    plan_toml(content)


@pytest.mark.nightly
@MANY
@given(first=COMMANDS, rest=ARGUMENTS)
def test_many_mutated_command_lines(project, first, rest):
    command(first, rest)
