"""Tokenizers are lossless, and their byte tables add up to the bytes of the text."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import palinode
from palinode.base.errors import BadInput
from palinode.data import bpe
from palinode.data.pieces import cut
from palinode.data.tokenizer import ByteTokenizer, CharTokenizer, IdsTokenizer, from_json

text = st.text(st.characters(exclude_categories=["Cs"]))
SAMPLE = "It's not the 1st time — «déjà vu», 漢字 and 😀.\r\n\tTwo  spaces, don't they?\n" * 40


@pytest.fixture(scope="module")
def trained():
    return bpe.train(lambda: iter([SAMPLE]), 400)


def assert_lossless(tokenizer, content):
    ids = tokenizer.encode(content)
    array = tokenizer.encode_array(content)
    assert ids == array.tolist()
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert tokenizer.decode(ids) == content
    assert tokenizer.bytes_per_token().shape == (tokenizer.vocab_size,)
    assert int(tokenizer.bytes_per_token()[array].sum()) == len(content.encode())


@given(content=text)
def test_bytes_are_lossless(content):
    assert_lossless(ByteTokenizer(), content)


@given(content=text.filter(bool))
def test_characters_are_lossless(content):
    tokenizer = CharTokenizer(content)
    assert_lossless(tokenizer, content)
    assert tokenizer.characters == "".join(sorted(set(content)))


@settings(deadline=None)
@given(content=text)
def test_bpe_is_lossless_on_text_it_was_not_trained_on(trained, content):
    assert_lossless(trained, content)


def test_bpe_merges_what_is_frequent_and_stops_when_nothing_is(trained):
    assert 256 < trained.vocab_size < 400  # 3 kB of text have no more pairs that occur twice
    assert len(trained.encode(SAMPLE)) < 0.4 * len(SAMPLE.encode())


def test_an_unknown_character_is_named():
    with pytest.raises(BadInput, match=r"data\.tokenizer: the character 'z' is not among the 3"):
        CharTokenizer("abc").encode("abzc")


def test_ids_have_no_text():
    tokenizer = IdsTokenizer(300)
    assert tokenizer.bytes_per_token().tolist() == [0] * 300
    with pytest.raises(BadInput, match="written as numbers"):
        tokenizer.encode("a")


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer("hé\n"), IdsTokenizer(7)])
def test_json_round_trip(tokenizer):
    again = from_json(tokenizer.to_json(), "tokenizer.json")
    assert type(again) is type(tokenizer)
    assert again.vocab_size == tokenizer.vocab_size
    assert np.array_equal(again.bytes_per_token(), tokenizer.bytes_per_token())


def test_bpe_json_round_trip(trained):
    again = from_json(trained.to_json(), "tokenizer.json")
    assert again.encode(SAMPLE) == trained.encode(SAMPLE)
    assert again.to_json() == trained.to_json()


def test_training_gives_the_same_tokenizer_in_another_process_with_other_hashes_and_threads(trained):
    program = (
        "import sys; from palinode.data import bpe; text = sys.stdin.read()\n"
        "print(bpe.train(lambda: iter([text]), 400).to_json())"
    )
    for hash_seed, threads in (("1", "1"), ("2", "4")):
        environment = {"PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads, "PYTHONUTF8": "1"}
        environment["PYTHONPATH"] = str(Path(palinode.__file__).parents[1])
        done = subprocess.run(
            [sys.executable, "-c", program], input=SAMPLE, capture_output=True, text=True, env=environment, check=True
        )
        assert json.loads(done.stdout) == json.loads(trained.to_json())


@settings(deadline=None)
@given(content=st.text("ab1 .,'\n\té_", max_size=300), most=st.integers(1, 40))
def test_cutting_does_not_change_the_ids_where_it_says_so(trained, content, most):
    """Parts join to the text; where every cut is before a space that follows a word, the ids are those of the whole."""
    parts = list(cut(content, most))
    assert "".join(parts) == content
    assert all(0 < len(part) <= most for part in parts)
    starts = np.cumsum([len(part) for part in parts])[:-1]
    if all(content[at] == " " and (content[at - 1].isalnum() or content[at - 1] == "_") for at in starts):
        assert [token for part in parts for token in trained.encode(part)] == trained.encode(content)


def test_long_text_is_cut_at_words():
    words = "lorem ipsum dolor " * 2000
    parts = list(cut(words, 1000))
    assert len(parts) == -(-len(words) // 1000) or len(parts) == -(-len(words) // 994)
    assert all(part.startswith((" ", "lorem")) for part in parts)


@pytest.mark.parametrize("pattern", bpe.KNOWN_PATTERNS)
@settings(deadline=None, max_examples=40)
@given(content=text)
def test_the_known_splitting_patterns_are_lossless(trained, pattern, content):
    written = json.loads(trained.to_json())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    written["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    assert_lossless(bpe.parse(json.dumps(written), "tokenizer.json"), content)


def test_a_special_token_has_no_bytes_and_is_never_read_from_text(trained):
    written = json.loads(trained.to_json())
    written["added_tokens"] = [{"id": trained.vocab_size, "content": "<|end|>", "special": True}]
    tokenizer = bpe.parse(json.dumps(written), "tokenizer.json")
    assert tokenizer.vocab_size == trained.vocab_size + 1
    assert tokenizer.bytes_per_token()[-1] == 0
    assert tokenizer.decode([trained.vocab_size]) == "<|end|>"
    assert_lossless(tokenizer, "text that spells <|end|> is text")
    assert trained.vocab_size not in tokenizer.encode("<|end|>")
