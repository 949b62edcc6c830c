"""Malformed inputs (numbers as in the reliability page, A5): one line naming file and field, exit 2, nothing written."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_experiment import TOML, everything_in

FILE = "x.toml"


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        make: writes what is wrong into the current directory.
        names: what the line must hold: the file, the field, or both.
    """

    number: str
    make: Callable[[], object]
    names: tuple[str, ...]
    arguments: tuple[str, ...] = ("run", FILE)
    code: int = 2


def write(content: str | bytes, name: str = FILE) -> Callable[[], object]:
    return lambda: Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


def replaced(old: str, new: str, number: str, *names: str, code: int = 2) -> Case:
    """The good experiment with one place changed."""
    assert TOML.count(old) >= 1, old
    return Case(number, write(TOML.replace(old, new, 1)), (FILE, *names), code=code)


def added(text: str, number: str, *names: str) -> Case:
    return Case(number, write(text + TOML), (FILE, *names))


def as_json(change: Callable[[dict], object], number: str, *names: str) -> Case:
    def make():
        data = tomllib.loads(TOML)
        change(data)
        Path("x.json").write_text(json.dumps(data))

    return Case(number, make, ("x.json", *names), ("run", "x.json"))


def json_text(text: str, number: str, *names: str) -> Case:
    return Case(number, write(text, "x.json"), ("x.json", *names), ("run", "x.json"))


def arm(change: str, number: str, *names: str) -> Case:
    """The good experiment with a third arm."""
    return Case(number, write(f'{TOML}\n[[arms]]\nname = "third"\n{change}\n'), (FILE, *names))


def python(text: str, number: str, *names: str) -> Case:
    return Case(number, write(text, "x.py"), ("x.py", *names), ("run", "x.py"))


def options(number: str, *arguments: str, names: tuple[str, ...], code: int = 2) -> Case:
    return Case(number, write(TOML), names, arguments, code)


def corpus(content: str | bytes, name: str, number: str, *names: str, data: str = "") -> Case:
    """The good experiment on a broken corpus."""

    def make():
        write(content, name)()
        write(TOML.replace('corpus = "text.txt"', f'corpus = "{name}"\n{data}'))()

    return Case(number, make, (name, *names) if name not in names else names)


BASELINE = 'baseline = "ltr"'
DEEP = 'rtl_sees = { kind = "prefix", lenght_slots = 3 }'
RATE = "learning_rate = 0.001"
FILES = [
    Case("1 missing", lambda: None, (FILE, "no such file")),
    Case("2 directory", lambda: Path(FILE).mkdir(), (FILE, "directory")),
    Case("3 unreadable", lambda: None, ("text.txt/x.toml", "cannot be read"), ("run", "text.txt/x.toml")),
    Case("4 empty", write(""), (FILE, "empty")),
    Case("5 binary", write(b"\x7fELF\0\0"), (FILE, "NUL")),
    Case("6 UTF-16", write(TOML.encode("utf-16")), (FILE, "UTF-8")),
    Case("7 not UTF-8", write(TOML.encode() + b"# caf\xe9\n"), (FILE, "line")),
    Case("8 TOML syntax", write('name = "x"\nseeds = [1,\n= 3'), (FILE, "line 3, column 1")),
    Case("9 YAML", write("name: x\n", "x.yaml"), ("x.yaml", "TOML"), ("run", "x.yaml")),
    json_text('{"name": "x",\n "seeds": [1,]}', "10 JSON syntax", "line 2, column 14"),
    added('name = "x"\n', "11 duplicate key in TOML", "line 2"),
    json_text('{"name": "x", "name": "y"}', "11 duplicate key in JSON", "name"),
    Case("14 too large", write("#" * 1_000_001), (FILE, "1,000,000")),
    added("deep = " + "[" * 65 + "]" * 65 + "\n", "15 deep TOML", "64"),
    json_text('{"a":' * 5000, "15 deep JSON", "64"),
    Case("16 unknown extension", write(TOML, "x.ini"), ("x.ini", ".toml"), ("run", "x.ini")),
    json_text("[1, 2]", "17 top level", "a list"),
    json_text('{"name": NaN}', "18 NaN literal", "NaN"),
    added("version = 2\n", "19 newer version", "version", "newer"),
    Case("20 link loop", lambda: Path(FILE).symlink_to(FILE), (FILE, "symbolic links")),
]
FIELDS = [
    added('questoin = "?"\n', "21 unknown key", "questoin", "'question'"),
    replaced("layers = 1", "layrs = 1", "22 unknown nested key", "base.model.layrs", "'layers'"),
    replaced(
        "learning_rate = 0.001",
        "learning_rte = 0.001",
        "22 deeper",
        "base.recipe.optimizer.learning_rte",
        "'learning_rate'",
    ),
    replaced(
        'corpus = "text.txt"\nsplit = "contiguous"\nwindow_tokens = 16',
        'task = { kind = "parity" }\ntrain_sequencs = 8',
        "22 in a task",
        "base.data.train_sequencs",
        "'train_sequences'",
    ),
    replaced(
        "window_tokens = 16", 'task = { kind = "parity" }', "22 of text in a task", "base.data.corpus", "valid: task"
    ),
    replaced('question = "Does it help?"\n', "", "23 required key", "question"),
    replaced("layers = 1", 'layers = "1"', "24 text for int", "base.model.layers"),
    replaced("layers = 1", "layers = true", "25 bool for int", "base.model.layers"),
    replaced("layers = 1", "layers = 2.5", "26 2.5 for int", "base.model.layers"),
    replaced("0.001", "-0.001", "28 negative rate", "base.recipe.optimizer.learning_rate"),
    replaced("0.001", "nan", "29 rate NaN", "base.recipe.optimizer.learning_rate"),
    replaced("0.001", "inf", "30 rate inf", "base.recipe.optimizer.learning_rate"),
    replaced("steps = 4", "steps = 0", "31 no steps", "base.recipe.steps"),
    replaced("steps = 4", f"steps = {10**30}", "32 endless steps", "base.recipe.steps"),
    replaced("batch_windows = 2", "batch_windows = 0", "33 batch 0", "base.recipe.batch_windows"),
    replaced("heads = 2", "heads = 3", "34 heads do not divide the width", "base.model", "heads"),
    replaced("heads = 2", 'heads = 16\nposition = "rotary"', "35 odd head size with rotary", "base.model", "rotary"),
    replaced("window_tokens = 16", 'tokenizer = "ids:1"', "36 vocabulary of 1", "base.data.tokenizer"),
    replaced("warmup_steps = 1", "warmup_steps = 9", "38 warm-up longer than the run", "base.recipe", "warmup_steps"),
    replaced("learning_rate = 0.001", "learning_rate = 0.001\nbeta1 = 1.5", "39 beta", "base.recipe.optimizer.beta1"),
    replaced("heads = 2", "heads = 2\ndropout = 1.5", "40 dropout 1.5", "base.model.dropout"),
    replaced("steps = 4", 'steps = 4\nprecision = "float8"', "41 precision", "base.recipe.precision"),
    replaced('kind = "adamw"', 'kind = "adamx"', "42 optimizer", "base.recipe.optimizer", "adamw"),
    replaced(
        "learning_rate = 0.001",
        "learning_rate = 0.001\nmomentum = 0.9",
        "43 option of another",
        "base.recipe.optimizer.momentum",
    ),
    replaced(
        "steps = 4", "steps = 4\ncheckpoint_every_steps = 5", "45 checkpoints", "base.recipe", "checkpoint_every_steps"
    ),
    replaced(
        'baseline = "ltr"', 'baseline = "ltr"\nconfidence = 95.0', "47 confidence 95", "decision.confidence", "0.95"
    ),
    replaced('kind = "ltr"', 'kind = "lrt"', "unknown objective", "base.objective", "ltr"),
    replaced('kind = "ltr"', 'kidn = "ltr"', "a part without a kind", "base.objective"),
    replaced(
        'kind = "ltr"',
        'kind = "both"\nrtl_sees = { kind = "prefix", lenght_slots = 3 }',
        "unknown key deep",
        "lenght_slots",
        "'length_slots'",
    ),
]
MODEL = 'kind = "decoder"\nlayers = 1\nwidth = 16\nheads = 2'


def latent(text: str, number: str, *names: str) -> Case:
    return replaced(MODEL, f'kind = "latent"\nlayers = 1\n{text}', number, "base.model", *names)


BOTH = '{ kind = "constant", p = 0.5 }'
MASK = [
    replaced(BOTH, f'{BOTH}, rtl_sees = {{ kind = "rlt" }}', "unknown visibility", "rtl_sees", "'rtl'"),
    replaced(BOTH, '{ kind = "constant", p = 1.5 }', "p above 1", "both", "objective.p"),
    replaced(BOTH, '{ kind = "constant", p = -0.1 }', "p below 0", "both", "objective.p"),
    replaced(BOTH, '{ kind = "constant", p = nan }', "p NaN", "both", "objective.p"),
    replaced(
        BOTH, '{ kind = "linear", p_start = 0.0, p_end = 1.2 }', "p that grows above 1", "both", "objective.p", "p_end"
    ),
    latent("width = 64\nheads = 3", "heads do not divide a latent width", "heads", "64"),
    latent("width = 40\nheads = 2", "heads do not divide the query width", "heads", "5"),
    latent("width = 4", "latent width below 8", "width"),
    options("p above 1 by --set", "run", FILE, "--set", "objective.p.p=2", names=(FILE, "--set objective.p")),
    Case("a CSV that is missing", lambda: None, ("gone.csv",), ("import", "mask", "gone.csv")),
    Case(
        "a CSV without its columns",
        write("a,b\n1,2\n", "x.csv"),
        ("x.csv", "line 1", "column"),
        ("import", "mask", "x.csv"),
    ),
    *(
        options(f"window {text}", "report", "tiny", "--store", ".", "--window", text, names=("--window",))
        for text in ("late", "0.5", "1..0.5", "0..2", "nan..1")
    ),
]
THIRD_SAME = 'change = { objective = { kind = "both", p = { kind = "constant", p = 0.5 } } }'
EXPERIMENTS = [
    as_json(lambda data: data.update(arms=[]), "49 no arms", "arms"),
    replaced('name = "both"', 'name = "ltr"', "50 duplicate arm", "arms", "ltr"),
    replaced('baseline = "ltr"', 'baseline = "lrt"', "51 baseline", "decision.baseline", "'ltr'"),
    arm('change = { "model.layer" = 2 }', "52 unknown path", "arms.third.change.model.layer", "'layers'"),
    arm("", "53 arm equal to the baseline", "arms.third.change"),
    arm(THIRD_SAME, "54 two equal arms", "arms.third.change", "both"),
    arm('change = { "data.corpus" = "other.txt" }', "55 another test", "arms.third.change", "data.corpus"),
    *(
        replaced('name = "both"', f'name = "{name}"', f"56 arm name {name}", "arms")
        for name in ("a/b", "..", "a\\u0000b", "-a", "a" * 101, "CON", "LTR")
    ),
    replaced("seeds = [1, 2]", "seeds = []", "57 no seeds", "seeds"),
    replaced("seeds = [1, 2]", "seeds = [1, 1]", "58 duplicate seeds", "seeds"),
    replaced("seeds = [1, 2]", "seeds = [-1]", "59 negative seed", "seeds"),
    as_json(lambda data: data.update(seeds=[2**63]), "60 seed too large", "seeds"),
    as_json(lambda data: data.update(seeds=[True]), "60 seed true", "seeds"),
    as_json(lambda data: data.update(scales=[]), "61 no scales", "scales"),
    as_json(lambda data: data.update(scales=[{"name": "a"}, {"name": "a"}]), "62 duplicate scale", "scales"),
    added('scales = [{ name = "a", change = { "recipe.steps" = "10Q" } }]\n', "63 scale 10Q", "recipe.steps"),
    replaced(
        'baseline = "ltr"',
        'baseline = "ltr"\nmetric = "validation.ltr.nats"',
        "64 metric",
        "decision.metric",
        "nats_per_token",
    ),
    replaced(
        'baseline = "ltr"',
        'baseline = "ltr"\nmetric = "validation.ltr.accuracy"',
        "65 direction of a metric",
        "decision.better",
    ),
    as_json(lambda data: data.update(seeds=list(range(501))), "66 too many runs", "seeds", "--yes"),
    added('sizes = { smoke = { scales = ["d9"] } }\n', "size with an unknown scale", "sizes.smoke.scales"),
]
CODE = [
    python("experiment = (", "Python syntax", "line 1"),
    python("import no_such_module_at_all", "68 module", "line 1", "no_such_module_at_all"),
    python("from palinode.objectives import Bth", "69 attribute", "line 1", "Bth"),
    python("from palinode import Speedrun\nrecipe = Speedrun(stps=3)", "21 in Python", "line 2", "stps", "'steps'"),
    python("from palinode import Speedrun\nrecipe = Speedrun(1)", "70 signature", "line 2"),
    python("other = 1", "no experiment", "experiment"),
    python("raise SystemExit", "ends the program", "line 1"),
    Case("67 foreign kind", write(TOML.replace('kind = "ltr"', 'kind = "os.system"', 1)), (FILE, "base.objective")),
]
DATA = [
    Case("37 window too long", write(TOML.replace("= 16\n", "= 10_000_000\n")), ("text.txt", "data.window_tokens")),
    Case("74 data missing", write(TOML.replace('"text.txt"', '"gone.txt"')), ("gone.txt", "data.corpus")),
    corpus("", "empty.txt", "75 data empty"),
    corpus("too short", "short.txt", "76 too little data"),
    corpus(
        b"\x01\x00\x09\x00" * 4000,
        "ids.bin",
        "77 id outside the vocabulary",
        data='tokenizer = "ids:5"',
    ),
    corpus(b"\x01\x00\x02" * 4001, "ids.bin", "80 odd byte count", data='tokenizer = "ids:5"'),
    corpus('{"text": "a"}\n{"text": \n', "lines.jsonl", "81 broken line", "2"),
    corpus("a,b\n1,2\n", "table.csv", "82 no text column", "text"),
    corpus("{}", "tokenizer.json", "84 tokenizer.json", data='tokenizer = "tokenizer.json"'),
]
TEXT = 'corpus = "text.txt"\nsplit = "contiguous"\nwindow_tokens = 16\n'


def task(text: str, number: str, *names: str, model: str = "", objective: str = 'kind = "ltr"') -> Case:
    """The good experiment on a task, given as its options, with a decoder of these further options."""
    data = TOML.replace(TEXT, f"[base.data.task]\n{text}\n", 1).replace("max_tokens = 400", 'labels = "answer"')
    changed = data.replace("heads = 2", f"heads = 2\n{model}", 1).replace('kind = "ltr"', objective, 1)
    third = 'name = "both"\n[arms.change]\n"recipe.steps" = 5'
    arms = changed.replace(changed[changed.index('name = "both"') : changed.index("[decision]")], f"{third}\n\n")
    return Case(number, write(arms), (FILE, *names))


RECALL, MASKED = 'kind = "associative-recall"', 'kind = "masked"'
TASKS = [
    task(f"{RECALL}\nvocabulary = 5", "vocabulary below two keys and values", "vocabulary", "6 are needed"),
    task(f"{RECALL}\nlength = 1", "no room for a pair", "length"),
    task(f"{RECALL}\nkey_tokens = 0", "keys of no tokens", "base.data.task.key_tokens"),
    task('kind = "mqar"\nvocabulary = 8\npairs = 4', "more pairs than keys", "4 pairs"),
    task('kind = "mqar"\npairs = 40', "more pairs than fit", "length"),
    task('kind = "asociative-recall"', "unknown task", "base.data.task", "'associative-recall'"),
    task(f"{RECALL}\nvocabularly = 10", "unknown option of a task", "base.data.task.vocabularly", "'vocabulary'"),
    task(RECALL, "unknown mixer", "base.model.mixer", "'hyena'", model='mixer = { kind = "hyeena" }'),
    task(RECALL, "unknown mixer of a layer", "base.model.mixers", "'h3'", model='mixers = [{ kind = "h33" }]'),
    task(
        RECALL,
        "without a direction and with weights for one side",
        "two_sided",
        model='position = "none"\nmixer = { kind = "hyena" }',
        objective=MASKED,
    ),
    task(
        RECALL,
        "accuracy of a direction that an arm has not",
        "decision.metric",
        objective=MASKED,
    ),
]
LONG = "a" * 300
BOUNDS = [
    *(
        options(f"{field} = {value}", "plan", FILE, "--set", f"{field}={value}", names=(FILE, f"--set {field}"))
        for field, value in (
            *(
                ("model.mlp_mult", 2**63 - 1),
                ("model.mlp_mult", 1e300),
                ("model.layers", 10**9),
                ("model.layers", 2**63),
            ),
            *(("model.width", 2**63 - 2), ("model.heads", 10**30), ("data.window_tokens", 2**63 - 1)),
            *(("recipe.max_tokens_read", 2**63), ("data.max_train_tokens", 10**30), ("recipe.micro_batches", 10**12)),
        )
    ),
    options(
        "a width that is too large for the machine", "plan", FILE, "--set", "model.width=1000000", names=("GB",), code=5
    ),
    *(
        options(f"a name of 300 characters: {what}", *arguments, names=("ile name too long",))
        for what, arguments in {
            "new": ("new", f"{LONG}.py"),
            "plan": ("plan", f"{LONG}.py"),
            "store of plan": ("plan", FILE, "--store", LONG),
            "store of ls": ("ls", "--store", LONG),
            "store of report": ("report", "x", "--store", LONG),
            "data add": ("data", "add", f"{LONG}.txt", "--name", "x"),
            "import": ("import", "mask", f"{LONG}.csv"),
            "corpus": ("plan", FILE, "--set", f"data.corpus={LONG}"),
            "tokenizer": ("plan", FILE, "--set", f"data.tokenizer={LONG}"),
        }.items()
    ),
]
COMMANDS = [
    options("unknown command", "rnu", FILE, names=("rnu", "'run'")),
    options("unknown option", "run", FILE, "--sise", "smoke", names=("--sise", "--size")),
    options("no file", "run", names=("FILE",)),
    *(
        options(f"workers {n}", "run", FILE, "--workers", n, names=("--workers",))
        for n in ("0", "-1", "abc", "1e9", "2000")
    ),
    options("set without a value", "run", FILE, "--set", "a.b", names=("--set", "a.b")),
    options("set unknown", "run", FILE, "--set", "recipe.stps=3", names=(FILE, "--set recipe.stps", "'steps'")),
    options("set out of range", "run", FILE, "--set", "recipe.steps=-3", names=(FILE, "--set recipe.steps")),
    options("tokenizer without a size", "run", FILE, "--set", "data.tokenizer=bpe", names=("data.tokenizer", "a size")),
    options(
        "fields that clash", "run", FILE, "--set", "recipe.micro_batches=3", names=("--set recipe.micro_batches: ",)
    ),
    options("set in one arm", "run", FILE, "--set", "objective.p=1", names=("--set objective.p", "in arm 'ltr'")),
    options("nothing to decide on", "run", FILE, "--set", "data.validation_fraction=0", names=("data.validation_fr",)),
    options("set a number for a list", "run", FILE, "--set", "evaluation.context_lengths=8", names=("such as [8]",)),
    options("arms made equal", "run", FILE, "--set", "objective=both", names=("arms.both.change", "--set objective")),
    options("report over a file", "report", "tiny", "--store", ".", "--out", "text.txt", names=("--out: is a file",)),
    options(
        "report below a file", "report", "tiny", "--store", ".", "--out", "text.txt/a", names=("--out: is a file",)
    ),
    options("report as a page", "report", "tiny", "--store", ".", "--out", "a.html", names=("--out", "(such as a)")),
    options("set twice", "run", FILE, "--set", "threads=1", "--set", "threads=2", names=("--set", "threads")),
    options("size unknown", "run", FILE, "--size", "smoke", names=(FILE, "--size")),
    options("seeds text", "run", FILE, "--seeds", "one", names=(FILE, "--seeds")),
    options("seeds negative", "run", FILE, "--seeds", "-1,2", names=(FILE, "--seeds")),
    options("a store that is a file", "run", FILE, "--store", "text.txt/runs", names=("text.txt", "--store")),
    options("no store", "ls", names=("runs", "--store")),
    options("no such store", "report", "tiny", "--store", "nowhere", names=("nowhere",)),
    options("arm unknown", "audit", FILE, "--arm", "bth", names=(FILE, "--arm", "'both'")),
    options("new over a file", "new", "text.txt", names=("text.txt",)),
    options("sample without a store", "sample", "abc", names=("runs",)),
    options("direction unknown", "sample", "abc", "--direction", "up", names=("'--direction': 'up' is not",)),
    options("data below a variable", "run", FILE, "--set", "data.corpus=data:a/b", names=("that holds a)",), code=5),
    options("data unknown", "data", "show", "nothing", names=("nothing",)),
    options("data add nothing", "data", "add", "gone.txt", names=("gone.txt",)),
    options("data get unknown", "data", "get", "wikitext-3", names=("wikitext-3", "wikitext-2")),
    options("no CUDA", "run", FILE, "--workers", "1", "--set", 'device="cuda"', names=("device", "CUDA"), code=5),
]
CASES = [*FILES, *FIELDS, *MASK, *EXPERIMENTS, *CODE, *DATA, *TASKS, *BOUNDS, *COMMANDS]


def check(case: Case, code: int, out: str, err: str, before: dict, after: dict) -> None:
    assert code == case.code, err
    assert out == ""
    assert err.endswith("\n")
    (line,) = err.splitlines()
    assert len(line.partition("valid: ")[0]) <= 200, len(line)  # all keys of a level may follow
    assert "Traceback" not in line
    for name in case.names:
        assert name in line, line
    assert after == before


def test_there_are_enough_cases():
    assert len(CASES) >= 90
    assert len({case.number for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_a_malformed_input_is_one_line(case, palinode, here):
    case.make()
    before = everything_in(here)
    output = palinode(*case.arguments)
    check(case, output.code, output.out, output.err, before, everything_in(here))


@pytest.mark.parametrize(
    "case",
    [
        FILES[7],
        *(pytest.param(case, marks=pytest.mark.nightly) for case in (CODE[2], FIELDS[1], EXPERIMENTS[3], COMMANDS[0])),
    ],
    ids=lambda case: case.number,
)
def test_the_program_itself_says_the_same(case, here):
    case.make()
    before = everything_in(here)
    command = [sys.executable, "-m", "palinode", *case.arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ})
    check(case, done.returncode, done.stdout, done.stderr, before, everything_in(here))


@pytest.mark.parametrize("long", ["d" * 120, "ünï cödé " * 12, "a b"])
def test_long_and_strange_paths_leave_room_for_the_message(long, palinode, here):
    folder = here / long
    folder.mkdir()
    (folder / FILE).write_text(TOML.replace("layers = 1", "layrs = 1"))
    output = palinode("run", str(folder / FILE))
    assert output.code == 2
    assert len(output.err.partition("valid: ")[0]) <= 201
    assert f"{FILE}: base.model.layrs" in output.err


def test_control_characters_of_a_file_do_not_reach_the_terminal(palinode, here):
    write(TOML.replace('kind = "ltr"', 'kind = "\\u001b[31mred\\u0007"', 1))()
    output = palinode("run", FILE)
    assert output.code == 2
    assert output.err.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    "good",
    [
        TOML.replace("0.001", "1e-3"),
        TOML.replace('name = "both"', 'name = "<b>bold & 🐍"'),
        TOML.replace("\n", "\r\n"),
        "\ufeff" + TOML,
        "# a comment\n" + TOML.replace("\n", " # more\n"),
    ],
)
def test_inputs_that_only_look_odd_are_fine(good, palinode):
    write(good)()
    output = palinode("plan", FILE, "--no-measure")
    assert output.code == 0, output.err
    assert "4 of 4 runs" in output.out


@pytest.mark.parametrize(
    ("sees", "message"),
    [
        ('{ kind = "flipped-lower-triangle", size = 8 }', "flipped-lower-triangle has 8 slots"),
        (
            '{ kind = "intersection", left = { kind = "rtl" }, right = { kind = "flipped-lower-triangle", size = 64 } }',
            "see nothing",
        ),
    ],
)
def test_parts_that_fit_one_by_one_and_not_together_name_file_and_arm(palinode, here, sees, message):
    """A mask is known to be too small, or to leave a slot nothing, once a model reads a window through it."""
    write(TOML.replace(BOTH, f"{BOTH}, rtl_sees = {sees}"))()
    output = palinode("audit", FILE, "--arm", "both")
    assert (output.code, output.out) == (2, "")
    *_, line = output.err.splitlines()
    assert line.startswith(f"{FILE}: arms.both: objective: ")
    assert message in line
