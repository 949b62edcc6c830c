"""What each kind of file is read as."""

import json
import os
from pathlib import Path

import numpy as np
import polars
import pytest
from corpora_for_tests import sentences, texts_of

from palinode.data import readers
from palinode.data.catalogue import find_corpus
from palinode.data.config import SPLITS, DataConfig
from palinode.data.store import prepare

TEXTS = ['First, with "quotes".\nTwo lines.', "Zweiter: äöü 漢字 😀", "  third \u2028 keeps its spaces  "]
DATA = os.environ.get("PALINODE_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="PALINODE_DATA is not set")


def read(path) -> list[str]:
    return [document.text for document in find_corpus(str(path)).documents()]


def write_jsonl(path):
    path.write_text("\n".join(json.dumps({"id": 1, "text": text}) for text in TEXTS), encoding="utf-8")


def write_csv(path):
    polars.DataFrame({"id": [1, 2, 3], "text": TEXTS}).write_csv(path)


def write_parquet(path):
    polars.DataFrame({"text": TEXTS, "id": [1, 2, 3]}).write_parquet(path)


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])
def test_a_table_gives_a_document_per_row(tmp_path, write):
    path = tmp_path / f"table.{write.__name__.removeprefix('write_')}"
    write(path)
    assert read(path) == TEXTS


def test_many_parquet_rows_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "PARQUET_ROWS", 7)
    polars.DataFrame({"text": sentences(50)}).write_parquet(tmp_path / "a.parquet", row_group_size=9)
    assert read(tmp_path / "a.parquet") == sentences(50)


def test_a_csv_field_may_be_longer_than_the_csv_modules_limit(tmp_path):
    polars.DataFrame({"text": ["word " * 50_000]}).write_csv(tmp_path / "a.csv")
    assert read(tmp_path / "a.csv") == ["word " * 50_000]


@pytest.mark.parametrize("ending", [".txt", ".md"])
def test_a_text_file_is_one_document_to_the_byte(tmp_path, ending):
    content = "Windows\r\nline ends, a form feed\f and 漢字\n" * 3
    (tmp_path / f"a{ending}").write_bytes(content.encode())
    assert read(tmp_path / f"a{ending}") == [content]


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfText")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "Text"}\r\n')
    (tmp_path / "c.csv").write_bytes(b"\xef\xbb\xbftext\r\nText\r\n")
    assert [read(tmp_path / name) for name in ("a.txt", "b.jsonl", "c.csv")] == [["Text"]] * 3


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_characters_across_the_border_of_two_reads(tmp_path, monkeypatch, size):
    monkeypatch.setattr(readers, "READ_BYTES", size)
    (tmp_path / "a.txt").write_text("aé漢😀\n" * 9, encoding="utf-8")
    assert read(tmp_path / "a.txt") == ["aé漢😀\n" * 9]


def test_a_folder_is_its_files_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "b").mkdir()
    for name, text in (("z.txt", "last"), ("b/a.md", "second"), ("a.txt", "first"), ("notes.pdf", "not read")):
        (tmp_path / name).write_text(text)
    assert read(tmp_path) == ["first", "second", "last"]


def test_data_below_the_variable(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("found")
    monkeypatch.setenv("PALINODE_DATA", str(tmp_path))
    assert read("data:sub/a.txt") == ["found"]


IDS = np.arange(400) % 300


def ids_config(path, **fields):
    return DataConfig(corpus=str(path), tokenizer="ids:300", window_tokens=8, split="contiguous", **fields)


def write_u16(path: Path) -> None:
    path.write_bytes(IDS.astype("<u2").tobytes())


def write_u32(path: Path) -> None:
    path.write_bytes(IDS.astype("<u4").tobytes())


def write_header(path: Path) -> None:
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(IDS)
    path.write_bytes(header.tobytes() + IDS.astype("<u2").tobytes())


def write_npy(path: Path) -> None:
    np.save(path, IDS)


@pytest.mark.parametrize(
    ("name", "write"), [("a.bin", write_u16), ("a.u32.bin", write_u32), ("h.bin", write_header), ("a.npy", write_npy)]
)
def test_token_files_give_back_their_ids(tmp_path, name, write):
    write(tmp_path / name)
    store = prepare(ids_config(tmp_path / name, validation_fraction=0.25, test_fraction=0.125), tmp_path / "cache")
    parts = [store.tokens(split) for split in SPLITS]
    assert [len(part) for part in parts] == [250, 100, 50]
    assert np.concatenate(parts).tolist() == IDS.tolist()
    assert store.vocab_size == 300
    assert store.bytes_per_token.sum() == 0


def test_nanogpts_layout_brings_its_splits(tmp_path):
    for name, ids in (("train.bin", IDS), ("val.bin", IDS[:60])):
        (tmp_path / name).write_bytes(ids.astype("<u2").tobytes())
    config = DataConfig(corpus=str(tmp_path), tokenizer="ids:300", window_tokens=8, split="given")
    store = prepare(config, tmp_path / "cache")
    assert [len(store.tokens(split)) for split in SPLITS] == [400, 60, 0]


ARTICLE = " \n = {title} = \n \n Text of {title} . \n \n = = Section = = \n \n More of {title} . \n = W = \n Wins \n"


def test_wikitext_is_cut_into_articles_that_join_to_the_file(tmp_path):
    for word, titles in (("train", "ABC"), ("valid", "D"), ("test", "EF")):
        content = "".join(ARTICLE.format(title=title) for title in titles)
        (tmp_path / f"wiki.{word}.tokens").write_text(content, encoding="utf-8")
    (tmp_path / "wiki.test.raw").write_text("not read")
    store = prepare(DataConfig(corpus=str(tmp_path), window_tokens=8, split="given"), tmp_path / "cache")
    texts = texts_of(store)
    for split, word in zip(SPLITS, ("train", "valid", "test"), strict=True):
        assert texts[split] == (tmp_path / f"wiki.{word}.tokens").read_text(encoding="utf-8")
    assert [store.manifest["splits"][split]["documents"] for split in SPLITS] == [3, 1, 2]


@needs_data
def test_nanogpts_split_of_tinyshakespeare(tmp_path):
    """1,003,854 and 111,540 characters of 65 kinds, as nanoGPT's shakespeare_char prints."""
    config = DataConfig(
        corpus="data:tinyshakespeare/input.txt",
        tokenizer="char",
        split="contiguous",
        validation_fraction=0.1,
        test_fraction=0.0,
    )
    store = prepare(config, tmp_path)
    assert [len(store.tokens(split)) for split in SPLITS] == [1_003_854, 111_540, 0]
    assert store.vocab_size == 65
    assert "".join(texts_of(store).values()) == Path(DATA, "tinyshakespeare/input.txt").read_text()


@needs_data
def test_wikitext_2_has_its_published_number_of_words(tmp_path):
    """Words and line ends: 2,088,628 / 217,646 / 245,569; the stored bytes are the files' bytes."""
    store = prepare(DataConfig(corpus="data:wikitext-2", split="given"), tmp_path)
    texts = texts_of(store)
    counts = [len(texts[split].split()) + texts[split].count("\n") for split in SPLITS]
    assert counts == [2_088_628, 217_646, 245_569]
    for split, word in zip(SPLITS, ("train", "valid", "test"), strict=True):
        size = Path(DATA, f"wikitext-2/wiki.{word}.tokens").stat().st_size
        assert store.manifest["splits"][split]["bytes"] == size


@needs_data
@pytest.mark.nightly
def test_gpt2s_tokens_are_those_of_the_library_that_reads_the_same_file():
    """Our reading of the file against Hugging Face's own, on a novel of 1.1 MB."""
    import tokenizers

    from palinode.data import bpe

    text = Path(DATA, "eltec_eng/txt/ENG18400_Trollope.txt").read_text(encoding="utf-8")
    file = Path(DATA, "gpt2-bpe/tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(file)).encode(text).ids
    assert bpe.load(file).encode_array(text).tolist() == theirs


@needs_data
def test_gpt2s_files_give_gpt2s_tokens():
    """The known count of the raw test set joined by blank lines, from tokenizer.json and from encoder.json + vocab.bpe."""
    from palinode.data import bpe

    lines = Path(DATA, "wikitext-2/wiki.test.raw").read_text(encoding="utf-8").split("\n")[:-1]
    text = "\n\n".join(line + "\n" if line.strip() else "" for line in lines)
    for file in ("tokenizer.json", "encoder.json"):
        tokenizer = bpe.load(Path(DATA, "gpt2-bpe", file))
        assert tokenizer.vocab_size == 50257
        assert len(tokenizer.encode_array(text)) == 287_644
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.bytes_per_token()[50256] == 0
    assert tokenizer.decode([15496, 50256]) == "Hello<|endoftext|>"
    assert 50256 not in tokenizer.encode("a<|endoftext|>b")
