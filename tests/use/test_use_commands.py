"""The commands that use a trained model: score, infill, pairs; their bad input is one line."""

import json
from types import SimpleNamespace

import polars
import pytest

import palinode
from palinode.base.errors import LostByte
from palinode.cli.main import entry
from palinode.data.tokenizer import ByteTokenizer

WINDOW = 32
pytestmark = pytest.mark.filterwarnings("ignore:run .* AUDIT COULD NOT TELL")  # as of any run of 20 steps


@pytest.fixture
def command(run, capsys, tmp_path, monkeypatch):
    """Runs a command line on the store of the run, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments):
        capsys.readouterr()
        code = entry([name, *map(str, arguments), "--store", str(run.store.root)])
        output = capsys.readouterr()
        return SimpleNamespace(code=code, out=output.out, err=output.err)

    return call


@pytest.fixture(scope="module")
def model(run):
    return palinode.load(run.spec.run_id, run.store)


@pytest.fixture
def run_id(run):
    return run.spec.run_id[:8]


def test_score_equals_the_scores_of_the_run(command, run, run_id, tmp_path):
    (tmp_path / "held out.txt").write_text(run.text)
    for direction in ("ltr", "rtl"):
        recorded = run.store.record(run.spec.run_id).result.scores["validation"][direction]
        output = command("score", run_id, "held out.txt", "--stride", WINDOW, "--direction", direction, "--json")
        scored = json.loads(output.out)
        assert scored["all"]["nats_per_token"] == pytest.approx(recorded["nats_per_token"], abs=1e-9)
        assert scored["all"]["bits_per_byte"] == pytest.approx(recorded["bits_per_byte"], abs=1e-9)
        assert scored["direction"] == direction
        assert {**scored["all"], "text": "held out.txt"} == scored["texts"][0]


def test_score_reads_what_a_corpus_may_be_and_divides_sums(command, model, run_id, tmp_path):
    (tmp_path / "a.txt").write_text("The 3th bird.\n\nsaid 4 words.\n")
    (tmp_path / "b.jsonl").write_text('{"body": "one"}\n{"body": ""}\n{"body": "two birds"}\n')
    (tmp_path / "ids.bin").write_bytes(b"T\0h\0e\0")
    output = command("score", run_id, "a.txt", "--by", "line", "--tokens", "nats.parquet", "--json")
    scored = json.loads(output.out)
    assert [row["text"] for row in scored["texts"]] == ["a.txt:1", "a.txt:3"]
    tokens = polars.read_parquet("nats.parquet")
    assert tokens["piece"].str.join("").to_list() == ["The 3th bird.said 4 words."]
    assert tokens["nats"].sum() / len(tokens) == pytest.approx(scored["all"]["nats_per_token"], abs=1e-9)
    assert scored["texts"][0]["nats_per_token"] == pytest.approx(model.nats("The 3th bird.").nats_per_token, abs=1e-5)
    scored = json.loads(command("score", run_id, "b.jsonl", "ids.bin", "--text-field", "body", "--json").out)
    assert [(row["text"], row["tokens"]) for row in scored["texts"]] == [
        ("b.jsonl:1", 3),
        ("b.jsonl:3", 9),
        ("ids.bin", 3),
    ]
    table = command("score", run_id, "a.txt").out.splitlines()
    assert table[0].split() == ["text", "tokens", "nats/token", "bits/byte"]
    assert table[-1].split()[0] == "all"


def test_a_text_that_the_tokens_do_not_spell_is_named_with_the_place(command, run_id, tmp_path, monkeypatch):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("The birds.")
    monkeypatch.setattr(ByteTokenizer, "difference", lambda *given: "'x' is read as 'y', first at byte 3")
    output = command("score", run_id, "a.txt", "b.txt")
    assert "note: bits per byte are missing: a.txt: 'x' is read as 'y', first at byte 3" in output.err
    assert output.out.splitlines()[-1].split()[-1] == "–"

    def lost(self, text):
        raise LostByte(3, 4)

    monkeypatch.setattr(ByteTokenizer, "encode_array", lost)
    output = command("score", run_id, "b.txt")
    assert output.code == 2
    assert "b.txt: data.tokenizer: has no token for 0x04 at byte 3 of the text" in output.err


def test_an_audit_that_is_no_pass_is_one_line_of_warning(command, run_id, tmp_path):
    (tmp_path / "a.txt").write_text("The birds.")
    output = command("score", run_id, "a.txt")
    assert output.code == 0
    assert [line.partition(":")[0] for line in output.err.splitlines()] == ["warning"]
    assert "AUDIT COULD NOT TELL" in output.err


def test_infill_shows_the_most_probable_middles(command, run_id):
    arguments = ("infill", run_id, "--before", "The 3th of ", "--after", " birds", "--tokens", "3", "--rows", "2")
    first, again = (command(*arguments, "--candidates", "20", "--json").out for _ in range(2))
    assert first == again
    filled = json.loads(first)
    assert filled["by"] == "resample"
    assert len(filled["middles"]) == len(filled["drawn"]) == 2
    assert filled["middles"][0]["nats_per_byte"] <= filled["middles"][1]["nats_per_byte"]
    assert len(command(*arguments).out.splitlines()) == 3


def test_pairs_are_counted_by_field_and_paradigm(command, model, run_id, tmp_path):
    rows = [
        ("The 3th of 9 small", "eTh t3h fo 9 lamls", "words"),
        ("same", "same", "ties"),
        ("said 4 words.", "sdia 4 rwods.", "words"),
    ]
    lines = [{"sentence_good": good, "sentence_bad": bad, "UID": name} for good, bad, name in rows]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for direction in ("ltr", "rtl"):
        expected = [model.nats(good, direction).nats_sum < model.nats(bad, direction).nats_sum for good, bad, _ in rows]
        counted = json.loads(command("pairs", run_id, "p.jsonl", "--direction", direction, "--json").out)
        assert counted["all"]["won"] == sum(expected) + 0.5
        assert {part["paradigm"]: part["won"] for part in counted["parts"]} == {
            "ties": 0.5,
            "words": expected[0] + expected[2],
        }
    assert command("pairs", run_id, "p.jsonl").out.splitlines()[1].split()[0] == "all"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("score", "zz", "a.txt"), "RUN: no run 'zz' in"),
        (("score", "RUN", "none.txt"), "none.txt: no such file or folder"),
        (("score", "RUN", "blank.txt"), "blank.txt: no text"),
        (("score", "RUN", "empty.txt"), "empty.txt: is empty"),
        (("score", "RUN", "a.txt", "--direction", "up"), "--direction: 'up' is neither ltr nor rtl"),
        (("score", "RUN", "a.txt", "--stride", "33"), "--stride: must be from 1 to 32"),
        (("score", "RUN", "a.txt", "--tokens", "a.csv"), "a.csv: --tokens: must end in .parquet"),
        (("score", "RUN", "b.jsonl"), "b.jsonl: text: line 1 has no 'text'"),
        (("infill", "RUN", "--tokens", "32"), "--tokens: must be from 1 to 31"),
        (("infill", "RUN", "--by", "order"), "--by: this model was trained on 'both'; it has resample"),
        (("pairs", "RUN", "b.jsonl"), "b.jsonl: line 1 has no sentence_good and sentence_bad"),
        (("pairs", "RUN", "none.zip"), "none.zip: no such file or folder"),
        (("pairs", "RUN", "."), ".: no .jsonl with sentence_good and sentence_bad"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(command, run_id, tmp_path, arguments, line):
    (tmp_path / "a.txt").write_text("The birds.")
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "b.jsonl").write_text('{"body": "one"}\n')
    if arguments[-1] == ".":
        (tmp_path / "b.jsonl").unlink()
    before = sorted(tmp_path.iterdir())
    output = command(*(run_id if one == "RUN" else one for one in arguments))
    assert (output.code, output.out) == (2, "")
    [said] = [one for one in output.err.splitlines() if not one.startswith("warning: ")]
    assert said.startswith(line)
    assert sorted(tmp_path.iterdir()) == before
