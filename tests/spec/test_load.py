"""Files in, experiments out: Python, TOML, JSON; strictness; whose code is run."""

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.base.config import decode, encode
from palinode.base.errors import BadInput, Damaged
from palinode.experiment.cells import pinned
from palinode.results.store import Store
from palinode.spec.code import changed_parts, keep_code
from palinode.spec.experiment import Experiment
from palinode.spec.load import load, load_run, parse_overrides, parse_seeds
from palinode.spec.text import parse_json, parse_toml, read_text

TOML = """
name = "t"
question = "?"
[base]
data = { corpus = "python-docs", window_tokens = 32 }
model = { kind = "decoder", layers = 2, width = 32, heads = 2 }
objective = { kind = "ltr" }
recipe = { kind = "speedrun", steps = 10 }
[[arms]]
name = "ltr"
[[arms]]
name = "both"
[arms.change]
objective = { kind = "both", p = { kind = "constant", p = 0.5 } }
recipe.batch_windows = 8
[decision]
baseline = "ltr"
"""

USER = """
from typing import ClassVar
from palinode.data.config import DataConfig
from palinode.models.decoder import DecoderConfig
from palinode.objectives.directional import LtrObjective
from palinode.spec import Arm, Decision, Experiment, RunSettings
from palinode.train.recipe import Speedrun

class Mine(LtrObjective):
    kind: ClassVar[str] = ""
    strength: float = 1.0

experiment = Experiment(
    name="mine", question="?", arms=(Arm(name="ltr"), Arm(name="mine", change={"objective": Mine(strength=2.0)})),
    base=RunSettings(data=DataConfig(), model=DecoderConfig(), objective=LtrObjective(), recipe=Speedrun()),
    decision=Decision(baseline="ltr"), seeds=(1,),
)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def at(name: str, content: str | bytes) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return at


def refusal(action, *args, **named) -> str:
    with pytest.raises(BadInput) as caught:
        action(*args, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_toml_json_and_python_mean_the_same(write):
    toml = load(write("t.toml", TOML)).resolve()
    data = parse_toml(TOML, "t.toml")
    assert load(write("t.json", json.dumps(data))).resolve() == toml
    imports = "from palinode.base.config import decode\nfrom palinode.spec import Experiment\n"
    python = f"{imports}experiment = decode(Experiment, {data!r})"
    assert load(write("t.py", python)).resolve() == toml
    assert toml.runs[1].spec.objective.p.p == 0.5
    assert toml.runs[1].spec.recipe.batch_windows == 8
    assert toml.runs[1].spec.recipe.steps == 10


NAMED = TOML.replace('name = "both"', 'name = "<b>🐍"')


@pytest.mark.parametrize("variant", [TOML.replace("\n", "\r\n"), "\ufeff" + TOML, TOML.replace("\n", " # x\n"), NAMED])
def test_files_that_are_fine(write, variant):
    assert len(load(write("t.toml", variant)).resolve().runs) == 6


def test_an_encoded_experiment_is_an_experiment_file(write, experiment):
    path = write("e.json", json.dumps(encode(experiment)))
    assert load(path).resolve("smoke") == experiment.resolve("smoke")
    assert decode(Experiment, encode(experiment)).resolve() == experiment.resolve()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.toml", "a = 1\nb = = 2\n", "line 2, column 5"),
        ("a.toml", "a = 1\na = 2\n", "line 2"),
        ("a.toml", 'a = "unfinished', "a.toml"),
        ("a.toml", "x = " + "[" * 100_000, "deeper"),
        ("a.toml", "a" + ".a" * 70 + " = 1", "deeper than 64"),
        ("a.json", '{"a": 1,}', "line 1, column 9"),
        ("a.json", '{"b": {"a": 1, "a": 2}}', "a: key is given twice"),
        ("a.json", '{"lr": NaN}', "NaN"),
        ("a.json", '{"lr": -Infinity}', "Infinity"),
        ("a.json", "[1]", "a list"),
        ("a.json", '{"x":' * 100_000, "deeper"),
        ("a.json", '{"x":' * 65 + "1" + "}" * 65, "deeper than 64"),
        ("a.json", '{"a": ' + "9" * 5000 + "}", "not JSON"),
        ("a.json", "", "empty"),
        ("a.json", " \n", "empty"),
        ("a.toml", b"\xff\xfea\x00", "UTF-16"),
        ("a.toml", b"a = 1\n\x00", "NUL"),
        ("a.toml", b"a = 1\nb = '\xff'\n", "line 2"),
        ("a.toml", "#" * 1_000_001, "bytes"),
        ("a.yaml", "a: 1", "TOML"),
        ("a.txt", "a", ".toml"),
        ("a.py", "experiment = (", "line 1"),
        ("a.py", "x = 1\nimport no_such_module_anywhere\n", "line 2"),
        ("a.py", "raise SystemExit(3)", "line 1"),
        ("a.py", "x = 1\n\n1 / 0\n", "line 3: ZeroDivisionError"),
        ("a.py", "x = 1", "defines no experiment"),
        ("a.py", "experiment = 3", "experiment is a int"),
        ("a.py", "x = '\x00'", "NUL"),
    ],
)
def test_files_that_are_refused(write, name, content, says):
    message = refusal(load, write(name, content))
    assert message.startswith(name)
    assert says in message


def test_things_that_are_no_files(write, tmp_path):
    assert "no such file" in refusal(load, Path("gone.toml"))
    Path("d.toml").mkdir()
    assert "directory" in refusal(load, Path("d.toml"))
    Path("loop.toml").symlink_to("loop.toml")
    assert "symbolic links" in refusal(load, Path("loop.toml"))
    os.mkfifo("pipe.toml")
    assert "regular" in refusal(load, Path("pipe.toml"))
    assert "null byte" in refusal(read_text, Path("a\0.toml"))


def test_python_errors_name_line_and_field_with_the_nearest(write):
    bad = USER.replace("Speedrun()", "Speedrun(stps=3)")
    message = refusal(load, write("u.py", bad))
    assert "stps" in message
    assert "did you mean 'steps'" in message
    assert "line 1" in message
    assert not list(Path().glob("__pycache__"))


def test_a_users_class_is_user_code(write):
    source = load(write("mine.py", USER))
    assert source.code.path == Path("mine.py").resolve()
    encoded = encode(source.resolve().runs[1].spec)["objective"]
    assert encoded["kind"] == "user:Mine"
    assert encoded["strength"] == 2.0
    before = source.resolve().runs[1].spec.run_id
    assert load(write("mine.py", USER)).resolve().runs[1].spec.run_id == before
    assert load(write("mine.py", USER + "# edited\n")).resolve().runs[1].spec.run_id == before
    assert load(write("mine.py", USER.replace("= 1.0", "= 1.5"))).resolve().runs[1].spec.run_id != before


OLD_ID = "410c1de508f06149"  # of the run below, as version 0.1 named it by the hash of the whole file
OLD_FILE = "5f0400042816183c93ae490981011eb6f24dd06bf249d78d9c27ad322d858cf0"


def old_run(write):
    """A run of the user's class as version 0.1 stored it: no numerics version, and named by the hash of the whole file."""
    source = load(write("mine.py", USER))
    spec = source.resolve().runs[1].spec
    encoded = encode(spec)
    del encoded["objective"]["code_sha256"], encoded["numerics_version"]
    encoded["objective"]["source_sha256"] = OLD_FILE
    directory = Store("runs").write_spec(OLD_ID, encoded)
    write(f"runs/{OLD_ID}/code.py", USER)
    write(f"runs/{OLD_ID}/code.json", json.dumps({"file": str(source.code.path), "sha256": OLD_FILE}))
    return spec, directory


def test_a_stored_spec_with_the_hash_of_the_whole_file_keeps_its_id(write):
    now, directory = old_run(write)
    spec = load_run(directory, code_file=Path("mine.py"))
    assert spec.run_id == OLD_ID != now.run_id
    assert spec.with_(data=spec.data.with_(window_tokens=128)).with_(data=spec.data).run_id == OLD_ID
    loaded = load(directory / "spec.json", code_file=Path("mine.py"))
    [again] = loaded.resolve().runs  # the same run with the numerics of this program
    assert again.spec.run_id != OLD_ID == again.spec.with_(numerics_version=1).run_id
    write("mine.py", USER + "# changed\n")
    assert "--allow-code" in refusal(load_run, directory)
    assert load_run(directory, allow_code=True).run_id == OLD_ID


def test_what_changed_since_a_run_is_named(write):
    _, directory = stored_user_run(write)
    assert changed_parts(directory, load(Path("mine.py")).code) == {}
    code = load(
        write(
            "mine.py",
            USER.replace("class Mine(LtrObjective)", "G = 1.0\n\n\nclass Mine(LtrObjective)").replace(
                "= 1.0\n\nexp", "= G\n\nexp"
            ),
        )
    ).code
    assert changed_parts(directory, code) == {"user:Mine": ["G", "Mine"]}
    assert changed_parts(directory, load(write("mine.py", USER.replace("Mine", "Own"))).code) == {
        "user:Mine": ["it is gone"]
    }
    _, old = old_run(write)
    assert "an earlier version" in changed_parts(old, load(Path("mine.py")).code)["user:Mine"][0]


def unsealed(text: str) -> str:
    """The text of a stored file without the hash of itself."""
    return json.dumps({key: value for key, value in json.loads(text).items() if key != "self_sha256"})


def stored_user_run(write, code_path="mine.py"):
    source = load(write(code_path, USER))
    spec = source.resolve().runs[1].spec
    directory = Store("runs").write_spec(spec.run_id, encode(spec))
    keep_code(directory, source.code)
    return spec, directory


@pytest.mark.parametrize("permission", [{"code_file": Path("mine.py")}, {"allow_code": True}], ids=["named", "allowed"])
def test_a_stored_run_finds_its_code_again(write, permission):
    spec, directory = stored_user_run(write)
    assert encode(load_run(directory, **permission)) == encode(spec)
    resolved = load(directory / "spec.json", **permission).resolve()
    assert [run.spec.run_id for run in resolved.runs] == [spec.run_id]


def test_a_changed_file_is_replaced_by_the_kept_copy_only_when_allowed(write):
    spec, directory = stored_user_run(write)
    write("mine.py", USER + "# changed\n")
    assert load_run(directory, code_file=Path("mine.py")).run_id == spec.run_id
    write("mine.py", USER.replace("= 1.0", "= 1.5"))
    assert "the code of user:Mine has changed" in refusal(load_run, directory, code_file=Path("mine.py"))
    for changed in (USER.replace("= 1.0", "= 1.5"), "raise ValueError\n"):
        write("mine.py", changed)
        assert "--allow-code" in refusal(load_run, directory)
        assert load_run(directory, allow_code=True).run_id == spec.run_id


def test_a_copy_that_is_not_the_recorded_code_is_damage(write):
    _, directory = stored_user_run(write)
    Path("mine.py").unlink()
    (directory / "code.py").write_text("raise ValueError\n")
    with pytest.raises(Damaged, match="is not the code that"):
        load_run(directory, allow_code=True)


@pytest.mark.parametrize("place", ["mine.py", "project/mine.py", "elsewhere/mine.py", "project/runs/x/mine.py"])
def test_code_that_only_a_stored_spec_names_needs_permission_wherever_it_lies(write, monkeypatch, place):
    canary = Path("canary").resolve()
    source = load(write(place, USER))
    spec = source.resolve().runs[1].spec
    directory = Store("project/runs").write_spec(spec.run_id, encode(spec))
    content = f"open({str(canary)!r}, 'w')\n" + USER
    write(place, content)
    record = {"file": str(source.code.path), "sha256": hashlib.sha256(content.encode()).hexdigest()}
    (directory / "code.json").write_text(json.dumps(record))
    monkeypatch.chdir("project")
    assert "--allow-code" in refusal(load_run, Path("runs") / spec.run_id)
    assert not canary.exists()


def test_a_user_part_without_its_code_is_an_unknown_kind(write):
    spec, directory = stored_user_run(write)
    (directory / "code.json").unlink()
    assert "objective" in refusal(load_run, directory)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda text: text.replace('"seed": 1', '"seed": 2'), "was changed since it was written"),
        (lambda text: unsealed(text.replace('"steps": 10', '"steps": 11')), "holds the spec of run "),
        (lambda text: text[:-20], "not JSON"),
        (lambda text: "", "is empty"),
        (None, "there is no such file"),
    ],
)
def test_a_stored_run_whose_spec_is_altered_or_gone_is_damaged(write, content, says):
    spec = load(write("t.toml", TOML)).resolve().runs[0].spec
    directory = Store("runs").write_spec(spec.run_id, encode(spec))
    assert load_run(directory) == spec
    path = directory / "spec.json"
    if content is None:
        path.unlink()
    else:
        text = path.read_text()
        path.write_text(content(text))
        assert path.read_text() != text
    with pytest.raises(Damaged, match=says) as caught:
        load_run(directory)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objective", [{"kind": "masked"}, {"kind": "bottleneck"}])
def test_the_spec_of_a_run_without_a_direction_is_an_experiment(write, objective):
    data = parse_toml(TOML, "t.toml")
    own = {"baseline": "own", "metric": "validation.own.nats_per_token"}
    base = {"objective": objective, "data": {"task": {"kind": "copy", "length": 8}}}
    changed = {"base": data["base"] | base, "arms": [{"name": "own"}], "decision": own}
    spec = load(write("t.json", json.dumps(data | changed))).resolve().runs[0].spec
    assert not spec.objective.reads_in_a_direction
    resolved = load(write("spec.json", json.dumps(encode(spec)))).resolve()
    assert [run.spec for run in resolved.runs] == [spec]
    assert resolved.decision.metric == own["metric"]


def test_the_spec_of_a_run_with_a_direction_keeps_its_own_metric(write):
    spec = load(write("t.toml", TOML)).resolve().runs[0].spec
    rtl = spec.with_(evaluation=spec.evaluation.with_(directions=("rtl",)))
    resolved = load(write("spec.json", json.dumps(encode(rtl)))).resolve()
    assert resolved.decision.metric == "validation.rtl.nats_per_token"


def stored_entry(write):
    from palinode.results.record import ExperimentEntry

    resolved = load(write("t.toml", TOML)).resolve()
    store = Store("runs")
    for run in resolved.runs:
        store.write_spec(run.spec.run_id, encode(run.spec))
    entry = ExperimentEntry(
        name=resolved.name,
        size=resolved.size,
        question=resolved.question,
        decision=encode(resolved.decision),
        arms=tuple(encode(arm) for arm in resolved.arms),
        scales=resolved.scales,
        seeds=resolved.seeds,
        runs=tuple({"arm": r.arm, "scale": r.scale, "seed": r.seed, "run_id": r.spec.run_id} for r in resolved.runs),
    )
    return store, resolved, store.write_experiment(entry)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"runs": []}, "runs: there are none"),
        ({"runs": [], "arms": [], "decision": {}}, "runs: there are none"),
        ({"seeds": [1, 2]}, "runs: these are not the 2 arms x 1 scales x 2 seeds"),
        ({"scales": ["base", "other"]}, "runs: these are not"),
        ({"arms": []}, "decision.baseline: no arm is named 'ltr'"),
        ({"decision": {}}, "decision.baseline: "),
        ({"decision": {"baseline": "ltr", "confidence": 2}}, "decision.confidence: "),
        ({"decision": {"baseline": "ltr", "metric": "validation.up.accuracy"}}, "decision.metric: "),
        ({"decision": {"baseline": "ltr", "metric": "validation.ltr.accuracy"}}, "decision.better: "),
        ({"audits": {"ltr": {"base": "../x"}}}, "audits.ltr.base: "),
        ({"runs": [{"arm": "ltr", "scale": "base", "seed": 1, "run_id": "../x"}]}, "runs: '../x'"),
        ({"size": 3}, "size: "),
    ],
)
def test_an_entry_that_holds_what_none_can_is_damage_that_names_it(write, changes, says):
    _, _, path = stored_entry(write)
    path.write_text(json.dumps(json.loads(unsealed(path.read_text())) | changes))
    with pytest.raises(Damaged) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {says}")


def test_an_experiment_entry_resolves_to_its_runs(write):
    store, resolved, path = stored_entry(write)
    source = load(path)
    assert [run.spec for run in source.resolve().runs] == [run.spec for run in resolved.runs]
    assert "--size" in refusal(source.resolve, "smoke")
    spec_file = store.run_directory(resolved.runs[0].spec.run_id) / "spec.json"
    tampered = json.loads(unsealed(spec_file.read_text())) | {"seed": 99}
    spec_file.write_text(json.dumps(tampered))
    with pytest.raises(Damaged, match="holds the spec of run"):
        load(Path("runs/experiments/t--default.json"))


def test_data_is_pinned_once_per_config_and_changes_the_id(experiment, monkeypatch):
    configs = []

    def resolve_data(config):
        configs.append(config)
        return config.with_(corpus_sha256="0" * 64)

    resolved = experiment.resolve()
    monkeypatch.setattr("palinode.experiment.cells.resolve", resolve_data)
    done = pinned(resolved)
    assert len(configs) == 1
    assert all(run.spec.data.corpus_sha256 == "0" * 64 for run in done.runs)
    assert not {run.spec.run_id for run in done.runs} & {run.spec.run_id for run in resolved.runs}


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("2", (5, 6)), ("1", (5,)), ("4", (5, 6, 7, 8)), ("1,2,3", (1, 2, 3)), ("9,", (9,)), (" 4 , 2 ", (4, 2))],
)
def test_seeds_on_the_command_line(text, seeds):
    assert parse_seeds(text, (5, 6)) == seeds


@pytest.mark.parametrize(
    "text", ["", ",", "a", "1,b", "0", "-1", "-1,2", "1,1", "1.5", "9223372036854775808,", "1e3", "٣"]
)
def test_bad_seeds_on_the_command_line(text):
    assert "--seeds" in refusal(parse_seeds, text, (1, 2))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('{kind = "both"}', {"kind": "both"}),
        ("both", "both"),
        ("null", None),
        ('"3"', "3"),
        ("a=b", "a=b"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_override_values(text, value):
    assert parse_overrides([f"a.b={text}"]) == {"a.b": value}


@pytest.mark.parametrize("texts", [["a.b"], ["=3"], ["a..b=1"], [".a=1"], ["a=1", "a=2"]])
def test_bad_overrides(texts):
    assert "--set" in refusal(parse_overrides, texts)


@given(st.text())
def test_no_text_makes_the_parsers_do_anything_but_refuse(text):
    for parse in (parse_toml, parse_json):
        with contextlib.suppress(BadInput):
            assert isinstance(parse(text, "f"), dict)


LETTERS = "abcdefghijklmnopqrstuvwxyz_"
FIELDS = sorted(Experiment.model_fields)


@st.composite
def typos(draw) -> tuple[str, str]:
    """A field's name with one letter dropped, changed, added, or two neighbours swapped; never another field's name."""
    name = draw(st.sampled_from(FIELDS))
    at = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from(LETTERS))
    typo = draw(
        st.sampled_from(
            [
                name[:at] + name[at + 1 :],
                name[:at] + letter + name[at + 1 :],
                name[:at] + letter + name[at:],
                name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
            ]
        )
    )
    return name, typo


@given(typos())
def test_every_one_letter_typo_of_a_field_is_answered_with_the_field(pair):
    name, typo = pair
    if typo in FIELDS:
        return
    with pytest.raises(BadInput) as caught:
        decode(Experiment, {**{field: 1 for field in FIELDS if field != name}, typo: 1})
    # pydantic names missing and mistyped fields too; the unknown key is what the user has to see
    assert repr(name) in str(caught.value).partition("did you mean ")[2]
