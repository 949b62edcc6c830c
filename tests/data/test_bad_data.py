"""Malformed data is one line that names the file and the field or line; nothing is written."""

import json
from pathlib import Path

import numpy as np
import polars
import pytest
from corpora_for_tests import sentences, written_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palinode.base.errors import BadInput, EnvironmentProblem, PalinodeError
from palinode.data import bpe
from palinode.data.config import DataConfig
from palinode.data.store import prepare


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(tmp_path, corpus, error=BadInput, **fields) -> str:
    """The one line that preparing this data ends with."""
    cache = tmp_path / "cache"
    with pytest.raises(error) as caught:
        prepare(DataConfig(corpus=str(corpus), **({"window_tokens": 4} | fields)), cache)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 600
    assert written_files(tmp_path / "cache") == [] if cache.exists() else True
    return line


def assert_names(line: str, *words: str) -> None:
    assert all(word in line for word in words), line


FILES = {
    "empty.txt": (b"", ["is empty"]),
    "blank.txt": (b" \n\n\t", ["holds no text"]),
    "utf16.txt": ("text".encode("utf-16"), ["is not UTF-8 text", "byte 0"]),
    "latin.txt": ("caf\xe9 au lait".encode("latin-1"), ["is not UTF-8 text", "byte 3"]),
    "cut.txt": ("caf\xe9".encode()[:-1], ["is not UTF-8 text"]),
    "binary.md": (b"text\0more", ["NUL near byte 4"]),
    "empty.jsonl": (b"", ["is empty"]),
    "broken.jsonl": (b'{"text": "one"}\n\n{"text": \n', ["line 3 is not JSON"]),
    "nofield.jsonl": (b'{"text": "one"}\n{"body": "two"}\n', ["text: line 2 has no 'text'"]),
    "notatable.jsonl": (b'["one"]\n', ["text: line 1 has no 'text'"]),
    "nottext.jsonl": (b'{"text": "one"}\n{"text": 5}\n', ["text: line 2: must be text, got int"]),
    "null.jsonl": (b'{"text": null}\n', ["holds no text"]),
    "bytes.jsonl": (b'{"text": "one"}\n{"text": "\xff"}\n', ["line 2 is not UTF-8"]),
    "deep.jsonl": (b'{"text": ' + b"[" * 100_000 + b"\n", ["line 1 is not JSON"]),
    "half.jsonl": (b'{"text": "one"}\n{"text": "\\ud800"}\n', ["half.jsonl:2: holds half a surrogate pair"]),
    "empty.csv": (b"\n", ["text: has no column 'text'"]),
    "nocolumn.csv": (b"id,body\n1,two\n", ["text: has no column 'text'", "columns: id, body"]),
    "short.csv": (b"id,text\n1,one\n2\n", ["text: line 3 has 1 fields, the first line 2"]),
    "long.csv": (b"id,text\n1,one,more\n", ["text: line 2 has 3 fields"]),
    "quote.csv": (b'id,text\n1,"one\n', ["line 2 is not CSV"]),
    "text.parquet": (b"this is not parquet", ["is not a parquet file"]),
    "cut.parquet": (b"PAR1", ["is not a parquet file"]),
    "text.pickle": (b"\x80\x04", ["data.corpus: unknown kind of file '.pickle'", "valid: .txt"]),
    "weights.pt": (b"PK", ["data.corpus: unknown kind of file '.pt'"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_text_file_is_named(tmp_path, name):
    content, words = FILES[name]
    assert_names(refusal(tmp_path, put(tmp_path / name, content), split="contiguous"), name, *words)


def ids_file(tmp_path, name, values, kind):
    return put(tmp_path / name, np.array(values, dtype=kind).tobytes())


def npy_file(tmp_path, name, array):
    np.save(tmp_path / name, array, allow_pickle=True)
    return tmp_path / name


TOKEN_FILES = {
    "odd.bin": (lambda p: put(p / "odd.bin", b"\0" * 7), ["has 7 bytes", "2-byte token ids"]),
    "odd.u32.bin": (lambda p: put(p / "odd.u32.bin", b"\0" * 6), ["has 6 bytes", "4-byte token ids"]),
    "empty.bin": (lambda p: put(p / "empty.bin", b""), ["is empty"]),
    "big.bin": (lambda p: ids_file(p, "big.bin", [1] * 60 + [300], "<u2"), ["id 300", "0 to 255"]),
    "header.bin": (
        lambda p: put(p / "header.bin", np.array([20240520, 1, 9] + [0] * 253, "<i4").tobytes() + b"\0" * 4),
        ["its header announces 9 tokens, it holds 2"],
    ),
    "negative.npy": (lambda p: npy_file(p, "negative.npy", np.array([3, -1] * 9)), ["id -1", "token 1"]),
    "object.npy": (lambda p: npy_file(p, "object.npy", np.array([{}, []], dtype=object)), ["is not a .npy file"]),
    "float.npy": (lambda p: npy_file(p, "float.npy", np.zeros(9)), ["1-D integer array"]),
    "square.npy": (lambda p: npy_file(p, "square.npy", np.zeros((3, 3), int)), ["1-D integer array"]),
    "none.npy": (lambda p: npy_file(p, "none.npy", np.zeros(0, int)), ["holds no token"]),
    "cut.npy": (lambda p: put(p / "cut.npy", b"\x93NUMPY\x01"), ["is not a .npy file"]),
}


@pytest.mark.parametrize("name", TOKEN_FILES)
def test_a_malformed_token_file_is_named(tmp_path, name):
    make, words = TOKEN_FILES[name]
    line = refusal(tmp_path, make(tmp_path), split="contiguous", tokenizer="ids:256")
    assert_names(line, name, *words)


def test_a_token_file_needs_a_tokenizer_that_covers_it(tmp_path):
    path = ids_file(tmp_path, "gpt.bin", [50256] * 60, "<u2")
    assert_names(refusal(tmp_path, path, split="contiguous"), "gpt.bin", "id 50256", "0 to 255")


def test_text_cannot_be_read_as_ids(tmp_path):
    path = put(tmp_path / "a.txt", "text " * 50)
    line = refusal(tmp_path, path, tokenizer="ids:256", split="contiguous")
    assert_names(line, "a.txt", "'ids:256'", "for token files only")


@pytest.mark.parametrize("name", ["missing.txt", "missing/", "./missing"])
def test_a_missing_path_is_named(tmp_path, name):
    assert_names(refusal(tmp_path, f"{tmp_path}/{name}"), "missing", "data.corpus", "no such file or folder")


def test_an_unknown_name_gets_the_nearest(tmp_path):
    assert_names(refusal(tmp_path, "python-doc"), "data.corpus", "did you mean 'python-docs'?")


def test_a_hub_set_that_is_not_here_says_how_to_get_it(tmp_path):
    line = refusal(tmp_path, "wikitext-2", error=EnvironmentProblem)
    assert_names(line, "data.corpus", "wikitext-2 is not on this machine", "palinode data get wikitext-2")


def test_data_below_a_variable_needs_the_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("PALINODE_DATA", raising=False)
    line = refusal(tmp_path, "data:some/file.txt", error=EnvironmentProblem)
    assert_names(line, "data.corpus", "PALINODE_DATA", "(set it to the folder that holds some)")


def test_a_folder_without_readable_files(tmp_path):
    put(tmp_path / "texts" / "picture.png", b"\x89PNG")
    put(tmp_path / "texts" / ".hidden.txt", "hidden")
    assert_names(refusal(tmp_path, tmp_path / "texts"), "texts", "data.corpus", "holds no .txt")


def test_a_folder_that_mixes_text_and_ids(tmp_path):
    put(tmp_path / "mixed" / "a.txt", "text")
    put(tmp_path / "mixed" / "b.bin", b"\0\0")
    assert_names(refusal(tmp_path, tmp_path / "mixed"), "mixed", "b.bin", "a.txt")


@pytest.mark.parametrize("name", ["wiki.train.tokens", "train.bin"])
def test_a_train_file_without_a_validation_file(tmp_path, name):
    put(tmp_path / "set" / name, "text")
    assert_names(refusal(tmp_path, tmp_path / "set", split="given"), "set", "no ", "val")


def test_a_parquet_column_of_numbers_and_a_null(tmp_path):
    polars.DataFrame({"text": [1, 2]}).write_parquet(tmp_path / "numbers.parquet")
    assert_names(refusal(tmp_path, tmp_path / "numbers.parquet"), "numbers.parquet", "text: column holds Int64")
    polars.DataFrame({"body": ["a"]}).write_parquet(tmp_path / "body.parquet")
    assert_names(refusal(tmp_path, tmp_path / "body.parquet"), "has no column 'text'", "columns: body")


def test_a_token_file_shorter_than_a_window(tmp_path):
    path = ids_file(tmp_path, "short.bin", [1] * 3, "<u2")
    line = refusal_after_building(tmp_path, path, tokenizer="ids:256", window_tokens=4)
    assert_names(line, "short.bin", "data.window_tokens", "4 tokens", "only 2")


@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_ids_cannot_train_a_tokenizer(tmp_path, tokenizer):
    path = ids_file(tmp_path, "a.bin", [1] * 60, "<u2")
    line = refusal(tmp_path, path, split="contiguous", tokenizer=tokenizer)
    assert_names(line, "a.bin", "data.tokenizer", tokenizer, "it holds token ids")


def test_a_window_longer_than_the_data(tmp_path):
    path = put(tmp_path / "a.txt", "short text")
    line = refusal_after_building(tmp_path, path, window_tokens=128)
    assert_names(line, "a.txt", "data.window_tokens", "128 tokens", "only 9")


def refusal_after_building(tmp_path, corpus, **fields) -> str:
    with pytest.raises(PalinodeError) as caught:
        prepare(DataConfig(corpus=str(corpus), split="contiguous", **fields), tmp_path / "cache")
    return str(caught.value)


def sound_tokenizer() -> dict:
    return json.loads(bpe.train(lambda: iter(sentences(20)), 300).to_json())


def broken(*path, value):
    """A sound tokenizer.json with one value replaced."""
    written = sound_tokenizer()
    *steps, last = path
    place = written
    for step in steps:
        place = place[step]
    place[last] = value
    return json.dumps(written)


TOKENIZERS = {
    "not json": (lambda: "{", ["is not JSON (line 1)"]),
    "a list": (lambda: "[]", ["is not a tokenizer.json"]),
    "nothing": (lambda: "{}", ["model: is missing"]),
    "bytes": (lambda: b"\xff\xfe", ["is not UTF-8"]),
    "deep": (lambda: "[" * 100_000, ["is not JSON"]),
    "no vocabulary": (lambda: broken("model", "vocab", value=None), ["vocab: is missing"]),
    "gap in ids": (lambda: broken("model", "vocab", "ab", value=9999), ["model.vocab", "are not 0 to"]),
    "text ids": (lambda: broken("model", "vocab", "!", value="0"), ["model.vocab", "whole numbers"]),
    "merge not in the vocabulary": (
        lambda: broken("model", "vocab", value={"a": 0, "b": 1}),
        ["model", "out of vocabulary"],
    ),
    "no merges": (lambda: broken("model", "merges", value="x"), ["model.merges: is missing"]),
    "merge of three": (lambda: broken("model", "merges", 4, value=["a", "b", "c"]), ["model.merges.4", "pair"]),
    "merge of strangers": (lambda: broken("model", "merges", 2, value=["zzz", "a"]), ["model.merges.2", "vocabulary"]),
    "hostile pattern": (
        lambda: broken(
            "pre_tokenizer",
            value={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"},
                    {"type": "ByteLevel", "use_regex": False},
                ],
            },
        ),
        ["pre_tokenizer", "unknown pattern '(a+)+$'"],
    ),
    "added no list": (lambda: broken("added_tokens", value=True), ["added_tokens: is no list"]),
    "dropout": (lambda: broken("model", "dropout", value=0.1), ["model.dropout: is not read"]),
    "suffix": (lambda: broken("model", "end_of_word_suffix", value="</w>"), ["model.end_of_word_suffix"]),
    "prefix": (lambda: broken("model", "continuing_subword_prefix", value="x"), ["model.continuing_subword_prefix"]),
    "added nothing": (lambda: broken("added_tokens", value=[3]), ["added_tokens.0", "needs an id"]),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_malformed_tokenizer_is_named(tmp_path, case):
    make, words = TOKENIZERS[case]
    file = put(tmp_path / "tok" / "tokenizer.json", make())
    corpus = put(tmp_path / "a.txt", "text " * 50)
    for name in (file, file.parent):
        line = refusal(tmp_path, corpus, split="contiguous", tokenizer=str(name))
        assert_names(line, "tokenizer.json", *words)


def test_a_sound_tokenizer_passes(tmp_path):
    """The control for the table above."""
    file = put(tmp_path / "tokenizer.json", json.dumps(sound_tokenizer()))
    corpus = put(tmp_path / "a.txt", "text " * 50)
    config = DataConfig(corpus=str(corpus), split="contiguous", tokenizer=str(file), window_tokens=4)
    assert prepare(config, tmp_path / "cache").tokenizer.kind == "bpe"


def places(value, path=()):
    """Every place of a JSON value, lists and tables cut to their first few."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items)[:4]:
        yield from places(item, (*path, key))


PLACES = [path for path in places(sound_tokenizer()) if path]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=150)
@given(path=st.sampled_from(PLACES), value=JSON_VALUES)
def test_any_value_anywhere_in_a_tokenizer_is_refused_or_lossless(path, value):
    try:
        tokenizer = bpe.parse(broken(*path, value=value), "tokenizer.json")
    except BadInput as error:
        line = str(error)
    else:
        ids = tokenizer.encode_array("some birds, 42 of them")
        assert tokenizer.bytes_per_token()[ids].sum() == 22
        return
    assert line.startswith("tokenizer.json: ")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), ending=st.sampled_from([".txt", ".jsonl", ".csv", ".parquet", ".bin", ".npy"]))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, content, ending):
    path = put(tmp_path / f"a{ending}", content)
    tokenizer = "ids:65536" if ending in (".bin", ".npy") else "byte"
    config = DataConfig(corpus=str(path), tokenizer=tokenizer, split="contiguous", window_tokens=4)
    try:
        prepare(config, tmp_path / "cache")
    except BadInput as error:
        line = str(error)
    else:
        return
    assert f"a{ending}: " in line


def test_an_unknown_tokenizer_gets_the_nearest(tmp_path):
    corpus = put(tmp_path / "a.txt", "text " * 50)
    line = refusal(tmp_path, corpus, split="contiguous", tokenizer="bytes")
    assert_names(line, "data.tokenizer", "did you mean 'byte'?")
    line = refusal(tmp_path, corpus, split="contiguous", tokenizer=f"{tmp_path}/none.json")
    assert_names(line, "none.json", "data.tokenizer", "no such tokenizer file")


def test_gpt2_without_its_files_says_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.delenv("PALINODE_DATA", raising=False)
    monkeypatch.setenv("PALINODE_CACHE", str(tmp_path / "nothing"))
    corpus = put(tmp_path / "a.txt", "text " * 50)
    line = refusal(tmp_path, corpus, error=EnvironmentProblem, split="contiguous", tokenizer="gpt2")
    assert_names(line, "data.tokenizer", "not on this machine", "gpt2-bpe")


def test_a_fifo_is_not_a_corpus(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.txt")
    assert_names(refusal(tmp_path, tmp_path / "pipe.txt"), "pipe.txt", "not a regular file")


def test_a_loop_of_links_is_not_followed(tmp_path):
    folder = tmp_path / "loop"
    put(folder / "a.txt", "text " * 30)
    (folder / "again").symlink_to(folder)
    (folder / "self.txt").symlink_to("self.txt")
    assert_names(refusal(tmp_path, folder), "self.txt", "not a regular file")
