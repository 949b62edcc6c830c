"""Files as people have them: folders from a hub, other columns, other encodings, token files of other widths."""

import json
import logging

import numpy as np
import polars
import pytest
import tokenizers
from corpora_for_tests import sentences, texts_of
from tokenizers import models, normalizers, pre_tokenizers, trainers

from palinode.base.errors import BadInput
from palinode.data import bpe, catalogue, library
from palinode.data.config import SPLITS, DataConfig
from palinode.data.store import prepare, resolve

TEXT = "\n".join(sentences(60))


def resolved(tmp_path, corpus, **fields):
    config = resolve(DataConfig(corpus=str(corpus), window_tokens=4, **fields), tmp_path / "cache")
    return config, prepare(config, tmp_path / "cache")


def refusal(tmp_path, corpus, **fields) -> str:
    with pytest.raises(BadInput) as caught:
        resolved(tmp_path, corpus, **fields)
    return str(caught.value)


@pytest.mark.parametrize("word", ["val", "valid", "validation", "dev"])
def test_file_names_are_the_splits(tmp_path, word, caplog):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("train", word, "test"):
        (folder / f"corpus_{name}_0.TXT").write_text(f"{name} text. " * 20)
    config, store = resolved(tmp_path, folder)
    assert config.split == "given"
    assert "file names say the splits" in caplog.text
    assert {split: text.split()[0] for split, text in texts_of(store).items()} == {
        "train": "train",
        "validation": word,
        "test": "test",
    }


def test_a_hub_folder_gives_no_card_and_takes_its_validation_from_train(tmp_path, caplog):
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("card text " * 30)
    for name, start in (("train", 0), ("test", 500)):
        polars.DataFrame({"text": sentences(100, start)}).write_parquet(folder / f"data/{name}-00000-of-00001.parquet")
    config, store = resolved(tmp_path, folder)
    assert "1 card or licence file(s) left out: README.md" in caplog.text
    assert [store.manifest["splits"][split]["documents"] for split in SPLITS] == [95, 5, 100]
    assert "card" not in "".join(texts_of(store).values())
    assert config.files == "documents"


def test_a_spec_that_was_resolved_before_is_read_as_it_was(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("README.md", "a.txt", "b.txt"):
        (folder / name).write_text(f"{name} text. " * 20)
    old, new = catalogue.local_corpus, DataConfig(corpus=str(folder), window_tokens=4, split="contiguous")
    before = prepare(new.with_(corpus_sha256=None), tmp_path / "cache")
    from palinode.data.readers import Reading
    from palinode.data.splits import survey

    everything = survey(old(folder, "x", Reading(own_splits=False, documents_only=False))).sha256
    stored = prepare(new.with_(corpus_sha256=everything), tmp_path / "cache")
    assert "README.md" in "".join(texts_of(stored).values())
    assert "README.md" not in "".join(texts_of(before).values())


def test_a_split_that_the_user_set_stays(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("train", "val"):
        (folder / f"{name}.txt").write_text(f"{name} text. " * 20)
    config, _ = resolved(tmp_path, folder, split="contiguous")
    assert config.split == "contiguous"


def test_empty_files_nulls_strays_and_categories(tmp_path, caplog):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"text {number} " * 20)
    (folder / "empty.txt").touch()
    np.save(folder / "ids.npy", np.arange(9))
    table = polars.DataFrame({"text": ["one row", None, "another row"]}, schema={"text": polars.Categorical})
    table.write_parquet(folder / "rows.parquet")
    _, store = resolved(tmp_path, folder)
    for line in ("1 empty file(s) left out", "1 token file(s) among text left out: ids.npy", "1 document(s) are empty"):
        assert line in caplog.text
    assert store.manifest["documents"] == 5


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_text_fields_are_joined(tmp_path, ending):
    rows = [{"title": f"Title {n}", "body": text} for n, text in enumerate(sentences(30))]
    path = tmp_path / f"rows.{ending}"
    table = polars.DataFrame(rows)
    {"jsonl": table.write_ndjson, "csv": table.write_csv, "parquet": table.write_parquet}[ending](path)
    assert "columns: title, body; name one, or several, in data.text_field" in refusal(tmp_path, path)
    documents = catalogue.local_corpus(path, "x", catalogue.Reading(("title", "body"))).documents()
    assert [document.text for document in documents] == [f"{row['title']}\n\n{row['body']}" for row in rows]
    _, store = resolved(tmp_path, path, text_field="body", split="contiguous")
    assert "Title" not in "".join(texts_of(store).values())


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("cp1252", "cp1252"), ("utf-16", "utf-16"), ("utf-32", "utf-32"), ("utf-16-le", "utf-16-le")],
)
def test_an_encoding_is_guessed_and_read_when_it_is_named(tmp_path, encoding, named):
    path = tmp_path / "a.txt"
    content = "caf\xe9 au lait\n" * 40
    path.write_bytes(content.encode(encoding))
    assert f"data.encoding = '{named}'" in refusal(tmp_path, path)
    _, store = resolved(tmp_path, path, encoding=encoding, split="contiguous")
    assert "".join(texts_of(store).values()) == content


def test_an_unknown_encoding_is_refused():
    with pytest.raises(ValueError, match="no text encoding is named 'utf-9'"):
        DataConfig(encoding="utf-9")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id;text\n1;one, two\n2;three\n"),
        ("a.tsv", "id\ttext\n1\tone, two\n2\tthree\n"),
        ("a.csv", 'id,text\r1,"one, two"\r2,three\r'),
    ],
)
def test_other_tables(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    documents = catalogue.local_corpus(tmp_path / name, "x").documents()
    assert [document.text for document in documents] == ["one, two", "three"]


def test_a_marker_is_named_and_cuts_documents(tmp_path, caplog):
    path = tmp_path / "a.txt"
    path.write_text("<|endoftext|>".join(sentences(30)))
    resolved(tmp_path, path)
    assert "marker <|endoftext|>" in caplog.text
    _, store = resolved(tmp_path, path, document_separator="<|endoftext|>")
    assert store.manifest["documents"] == 30
    assert "endoftext" not in "".join(texts_of(store).values())


def test_a_short_validation_split_is_warned_about(tmp_path, caplog):
    folder = tmp_path / "set"
    folder.mkdir()
    for name, text in (("train", TEXT), ("val", "a")):
        (folder / f"{name}.txt").write_text(text)
    resolved(tmp_path, folder)
    assert "the validation split has only 1 token(s) to score" in caplog.text


def test_half_a_surrogate_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": "\\ud800"}\n')
    with pytest.raises(BadInput, match="rows.jsonl:2: holds half a surrogate pair"):
        catalogue.add(tmp_path / "rows.jsonl", "mine", tmp_path / "cache")
    assert not (tmp_path / "cache/corpora/mine").exists()


IDS = np.random.default_rng(0).integers(0, 100_000, 4000)


def test_the_header_of_llama_3s_files_is_read(tmp_path):
    header = np.zeros(256, "<i4")
    header[:3] = 20240801, 7, len(IDS)
    (tmp_path / "a.bin").write_bytes(header.tobytes() + IDS.astype("<u4").tobytes())
    _, store = resolved(tmp_path, tmp_path / "a.bin", tokenizer="ids:128256", split="contiguous")
    assert np.concatenate([store.tokens(split) for split in SPLITS]).tolist() == IDS.tolist()


@pytest.mark.parametrize(
    ("kind", "size", "words"),
    [
        ("<i4", 65_536, "looks like 4-byte little-endian ids"),
        (">u4", 65_536, "looks like 4-byte big-endian ids"),
        ("<u2", 128_256, "read as 2-byte ids, which cannot hold a vocabulary of 128256"),
        (">u2", 50_257, "it looks like a big-endian file"),
    ],
)
def test_a_token_file_of_another_width_or_order_is_refused(tmp_path, kind, size, words):
    (tmp_path / "a.bin").write_bytes((IDS % 50_257 if "2" in kind else IDS).astype(kind).tobytes())
    assert words in refusal(tmp_path, tmp_path / "a.bin", tokenizer=f"ids:{size}", split="contiguous")


def trained(model, trainer, **parts) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def foreign(kind: str) -> tokenizers.Tokenizer:
    options = {"vocab_size": 120, "show_progress": False}
    if kind == "wordpiece":
        trainer = trainers.WordPieceTrainer(special_tokens=["[UNK]", "[CLS]"], **options)
        parts = {"normalizer": normalizers.Lowercase(), "pre_tokenizer": pre_tokenizers.BertPreTokenizer()}
        return trained(models.WordPiece(unk_token="[UNK]"), trainer, **parts)  # noqa: S106
    if kind == "unigram":
        trainer = trainers.UnigramTrainer(special_tokens=["<unk>"], unk_token="<unk>", **options)  # noqa: S106
        return trained(models.Unigram(), trainer, pre_tokenizer=pre_tokenizers.Metaspace())
    parts = {"normalizer": normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])}
    return trained(models.BPE(byte_fallback=True), trainers.BpeTrainer(**options), **parts)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "sentencepiece bpe"])
def test_other_tokenizers_give_the_librarys_ids_and_no_bits_per_byte(tmp_path, kind, caplog):
    inner = foreign(kind)
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text(TEXT)
    ours = library.load(tmp_path / "tokenizer.json")
    assert ours.encode(TEXT) == inner.encode(TEXT, add_special_tokens=False).ids == ours.encode_array(TEXT).tolist()
    _, store = resolved(tmp_path, tmp_path / "a.txt", tokenizer=str(tmp_path), split="contiguous")
    assert "bits per byte are missing" in caplog.text
    assert not store.bytes_per_token.any()


def test_a_vocabulary_and_its_merges(tmp_path):
    tokenizer = bpe.train(lambda: iter([TEXT]), 300)
    model = json.loads(tokenizer.to_json())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n")
    assert library.load(bpe.file_in(tmp_path)).encode(TEXT) == tokenizer.encode(TEXT)


def test_a_model_file_is_named_for_what_it_is(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e")
    (tmp_path / "a.txt").write_text(TEXT)
    assert "SentencePiece" in refusal(tmp_path, tmp_path / "a.txt", tokenizer=str(tmp_path / "spiece.model"))


def test_encode_and_encode_array_agree_without_word_splitting():
    written = json.loads(bpe.train(lambda: iter([TEXT]), 300).to_json())
    written["pre_tokenizer"]["use_regex"] = False
    tokenizer = bpe.parse(json.dumps(written), "tokenizer.json")
    text = TEXT * (2 * bpe.PIECE_CHARACTERS // len(TEXT) + 1)
    assert tokenizer.encode(text) == tokenizer.encode_array(text).tolist()


@pytest.fixture(autouse=True)
def _lines_are_heard(caplog):
    caplog.set_level(logging.WARNING, logger="palinode")
