"""Files as people have them: folders from a hub, other columns, other encodings, token files of other widths."""

import json
import logging

import numpy as np
import polars
import pytest
import tokenizers
from corpora_for_tests import sentences, texts_of
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from palinode.base.errors import BadInput, LostByte
from palinode.cli.main import entry
from palinode.data import bpe, catalogue, library
from palinode.data import store as store_module
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


SENTENCES = {
    **dict.fromkeys(("cp1251", "koi8-r"), "Привет, это русский текст.\n"),
    **dict.fromkeys(("shift_jis", "euc_jp"), "これは日本語の文章です。\n"),
    **{"gbk": "这是一个中文句子，我们在这里。\n", "big5": "這是一個中文句子，我們在這裡。\n"},
    "euc_kr": "이것은 한국어 문장입니다.\n",
}


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        *(("cp1252", "cp1252"), ("utf-16", "utf-16"), ("utf-32", "utf-32"), ("utf-16-le", "utf-16-le")),
        *(("latin-1", "cp1252"), ("mac_roman", "mac_roman"), ("cp1251", "cp1251"), ("koi8-r", "koi8-r")),
        *(("shift_jis", "shift_jis"), ("euc_jp", "euc_jp"), ("gbk", "gb18030"), ("big5", "big5"), ("euc_kr", "euc_kr")),
    ],
)
def test_an_encoding_is_guessed_and_read_when_it_is_named(tmp_path, encoding, named):
    path = tmp_path / "a.txt"
    content = SENTENCES.get(encoding, "caf\xe9 au lait\n") * 40
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
        ("a.csv", "sep=;\nid;text\n1;one, two\n2;three\n"),
    ],
)
def test_other_tables(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    documents = catalogue.local_corpus(tmp_path / name, "x").documents()
    assert [document.text for document in documents] == ["one, two", "three"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ('1,"say \\"yes\\" now"\n', "text: line 2 is not CSV: a field goes on after its closing quote"),
        ('1,one\n2,"two\n3,three\n', "text: line 3 is not CSV: a quoted field begins here and does not end"),
        ("1,one, two\n", "text: line 2 has 3 fields, the first line 2 (fields are taken to be separated by ','"),
        ("1,one\r2,two\n", "text: line 2 is not CSV: a line ends with CR alone"),
    ],
)
def test_a_table_that_is_not_sound_is_refused_in_our_words(tmp_path, rows, words):
    (tmp_path / "a.csv").write_bytes(f"id,text\n{rows}".encode())
    assert f"a.csv: {words}" in refusal(tmp_path, tmp_path / "a.csv")


@pytest.mark.parametrize("options", [{"text_field": "body"}, {"encoding": "cp1252"}, {"document_separator": "---"}])
def test_a_text_that_was_added_is_not_read_again_otherwise(tmp_path, options):
    (tmp_path / "a.txt").write_text(TEXT)
    catalogue.add(tmp_path / "a.txt", "mine", tmp_path / "cache")
    for name in ("mine", "python-docs"):
        assert "`palinode data add` has the same options" in refusal(tmp_path, name, **options)


def test_data_add_has_the_settings_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PALINODE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    for name, start in (("train", 0), ("test", 50)):
        rows = [{"title": f"Caf\xe9 {n}", "body": text} for n, text in enumerate(sentences(40, start))]
        content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.jsonl").write_bytes(content.encode("cp1252"))
    assert entry(["data", "add", str(folder), "--name", "none", "--text-field", "body"]) == 2
    assert "data.encoding = 'cp1252'" in capsys.readouterr().err
    assert not (tmp_path / "cache/corpora/none").exists()
    fields = ("--encoding", "cp1252", "--text-field", "title", "--text-field", "body")
    for name, split, rule in (("kept", (), "given"), ("pooled", ("--split", "documents"), "documents")):
        assert entry(["data", "add", str(folder), "--name", name, *fields, *split]) == 0
        config, store = resolved(tmp_path, name)
        assert config.split == rule
        assert texts_of(store)["train"].startswith("Caf\xe9 ")
    (folder / "rows.jsonl").write_text('{"text": "one"}\n{"text": "\\ud800"}\n')
    capsys.readouterr()
    assert entry(["data", "add", str(folder / "rows.jsonl"), "--name", "half"]) == 2
    assert "rows.jsonl:2: holds half a surrogate pair" in capsys.readouterr().err
    assert entry(["data", "add", str(folder), "--name", "x", "--encoding", "utf-9"]) == 2
    assert "no text encoding is named 'utf-9'" in capsys.readouterr().err


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
    if kind.startswith("unigram"):
        trainer = trainers.UnigramTrainer(special_tokens=["<unk>"], unk_token="<unk>", **options)  # noqa: S106
        step = pre_tokenizers.Metaspace()
        if kind == "unigram of words":
            step = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), step])
        return trained(models.Unigram(), trainer, pre_tokenizer=step)
    if kind in ("llama", "mistral"):
        llama = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        mistral = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        parts = {"normalizer": llama} if kind == "llama" else {"pre_tokenizer": mistral}
        trainer = trainers.BpeTrainer(special_tokens=["<s>"], initial_alphabet=list(TEXT), **options)
        model = models.BPE(byte_fallback=True)
        return trained(model, trainer, decoder=decoders.Replace("\u2581", " "), **parts)
    level = pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefix space")
    parts = {
        "nfc": {"normalizer": normalizers.NFC(), "pre_tokenizer": level},
        "digits": {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])},
        "prefix space": {"pre_tokenizer": level},
    }[kind]
    options |= {"vocab_size": 300, "special_tokens": ["<s>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    return trained(models.BPE(), trainers.BpeTrainer(**options), **parts)


# What a tokenizer makes of the text, if it does not keep it.
KINDS = {
    "wordpiece": "is read as",
    "unigram": "",
    "unigram of words": "is read as",
    "llama": "",
    "mistral": "",
    "nfc": "",
    "digits": "",
    "prefix space": "",
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_tokenizers_give_the_librarys_ids_and_the_bytes_of_the_text_or_the_reason(tmp_path, kind, caplog):
    inner = foreign(kind)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text(TEXT)
    ours = library.load(tmp_path / "tokenizer.json")
    assert ours.encode(TEXT) == inner.encode(TEXT, add_special_tokens=False).ids == ours.encode_array(TEXT).tolist()
    _, store = resolved(tmp_path, tmp_path / "a.txt", tokenizer=str(tmp_path), split="contiguous")
    counted = [int(store.bytes_per_token[store.tokens(split)].sum()) for split in SPLITS]
    assert counted == [store.manifest["splits"][split]["bytes"] for split in SPLITS]
    assert sum(counted) == (0 if KINDS[kind] else len(TEXT.encode()))
    assert ("bits per byte are missing" in caplog.text) == bool(KINDS[kind])
    assert KINDS[kind] in caplog.text


@pytest.mark.parametrize("kind", ["llama", "mistral", "prefix space", "nfc"])
def test_text_that_a_tokenizer_would_rewrite_has_no_bits_per_byte(tmp_path, kind, caplog):
    foreign(kind).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text(TEXT + "one \u2581 and cafe\u0301")
    _, store = resolved(tmp_path, tmp_path / "a.txt", tokenizer=str(tmp_path), split="contiguous")
    is_kept = kind == "prefix space"
    assert ("is read as" not in caplog.text) == is_kept == bool(store.bytes_per_token.any())


def test_a_byte_without_an_id_is_refused_with_its_place(tmp_path, monkeypatch):
    inner = foreign("digits")
    fields = json.loads(inner.to_str())
    vocab = fields["model"]["vocab"]
    vocab["no byte"] = vocab.pop("~")  # as in SmolLM2, which has no id for 21 bytes
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    ours = library.load(tmp_path / "tokenizer.json")
    assert len(inner.encode("caf\u00e9 ~ 1~").ids) == len(ours.encode("caf\u00e9  1")) + 2
    for encode in (ours.encode, ours.encode_part):
        with pytest.raises(LostByte, match=r"data.tokenizer: has no token for 0x7e at byte 6 of the text, which would"):
            encode("caf\u00e9 ~ 1~")
    monkeypatch.setattr(store_module, "CHUNK_CHARACTERS", 100)
    text = f"{TEXT}\u00e9"
    (tmp_path / "a.txt").write_text(f"{text}~{TEXT}")
    found = refusal(tmp_path, tmp_path / "a.txt", tokenizer=str(tmp_path / "tokenizer.json"), split="contiguous")
    assert f"a.txt: data.tokenizer: has no token for 0x7e at byte {len(text.encode())} of its split" in found


def test_the_place_where_text_is_rewritten_is_named(tmp_path):
    foreign("nfc").save(str(tmp_path / "tokenizer.json"))
    ours = library.load(tmp_path / "tokenizer.json")
    text = "one \u00e9 cafe\u0301"
    assert str(ours.difference(ours.encode_part(text), text)).endswith("first at byte 10")
    assert str(ours.difference(ours.encode_part(text), text, before=7)).endswith("first at byte 17")


def test_a_long_text_gets_a_space_before_it_once(tmp_path):
    foreign("llama").save(str(tmp_path / "tokenizer.json"))
    ours = library.load(tmp_path / "tokenizer.json")
    text = TEXT * (2 * bpe.PIECE_CHARACTERS // len(TEXT) + 1)
    assert ours.decode(ours.encode(text)) == "\u2581".join(["", text]).replace("\u2581", " ")
    assert ours.difference(ours.encode_part(text), text) is None


def test_text_that_spells_a_special_token_is_text(tmp_path):
    foreign("wordpiece").save(str(tmp_path / "tokenizer.json"))
    ours = library.load(tmp_path / "tokenizer.json")
    assert 1 not in ours.encode("[CLS]")


PIECES = (
    r"[a-z]+|\p{N}{1,3}| ?[^\s]+",
    r"\s*[\r\n]+|[\p{L}\p{M}]+|(?i:'s|'t)|\s+(?!\S)",
)


@pytest.mark.parametrize("pattern", [*PIECES, *bpe.KNOWN_PATTERNS])
def test_patterns_of_one_repetition_or_known_parts_are_read(pattern):
    assert library._is_linear(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "a*a*b", "(?:a|b)*c", "(a|a)+", "[a-z]+[a-z]+x", "x|(?=(a+))a*b"])
def test_patterns_that_might_run_for_ever_are_refused(pattern):
    assert not library._is_linear(pattern)


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model.v3", "tekken_240911.json", "qwen.tiktoken"])
def test_other_files_of_tokenizers_are_named_for_what_they_are(tmp_path, name):
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / name).write_bytes(b"\n\x0e")
    (tmp_path / "a.txt").write_text(TEXT)
    for path in (tmp_path / "tok" / name, tmp_path / "tok"):
        assert f"{name}: data.tokenizer: is a SentencePiece" in refusal(
            tmp_path, tmp_path / "a.txt", tokenizer=str(path)
        )


def test_a_vocabulary_and_its_merges(tmp_path):
    tokenizer = bpe.train(lambda: iter([TEXT]), 300)
    model = json.loads(tokenizer.to_json())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n")
    assert library.load(bpe.file_in(tmp_path)).encode(TEXT) == tokenizer.encode(TEXT)


def test_encode_and_encode_array_agree_without_word_splitting():
    written = json.loads(bpe.train(lambda: iter([TEXT]), 300).to_json())
    written["pre_tokenizer"]["use_regex"] = False
    tokenizer = bpe.parse(json.dumps(written), "tokenizer.json")
    text = TEXT * (2 * bpe.PIECE_CHARACTERS // len(TEXT) + 1)
    assert tokenizer.encode(text) == tokenizer.encode_array(text).tolist()


@pytest.fixture(autouse=True)
def _lines_are_heard(caplog):
    caplog.set_level(logging.WARNING, logger="palinode")
