"""The merges of a text with long words are those that the trainer of `tokenizers` finds."""

import json

import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from palinode.data import bpe
from palinode.data.merging import train_merges


def by_tokenizers(words: list[str], vocab_size: int) -> tuple[dict, list]:
    """The oracle: the trainer whose time grows with the squares of the lengths of the words."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = sorted("abcd")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, limit_alphabet=4, show_progress=False
    )
    inner.train_from_iterator([" ".join(words)], trainer=trainer)
    model = json.loads(inner.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def by_us(words: list[str], vocab_size: int) -> tuple[dict, list]:
    counts: dict[bytes, int] = {}
    for word in words:
        numbers = bytes("abcd".index(letter) for letter in word)
        counts[numbers] = counts.get(numbers, 0) + 1
    return train_merges(counts, "abcd", vocab_size, 2)


WORDS = st.lists(
    st.text("abcd", min_size=1, max_size=120) | st.text("ab", min_size=1, max_size=300), min_size=1, max_size=4
)


@given(words=WORDS, repeated=st.integers(1, 3), vocab_size=st.sampled_from([4, 5, 12, 40, 400]))
def test_the_merges_are_the_same(words, repeated, vocab_size):
    """Short alphabets: one token is made by two merges, and pairs overlap, more often than in any real text."""
    words = words * repeated
    assert by_us(words, vocab_size) == by_tokenizers(words, vocab_size)


def test_no_word_and_words_of_one_letter_give_the_alphabet():
    assert by_us([], 9)[1] == by_us(["a", "b"], 9)[1] == []


@given(text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("acgt \n\u6f22"), max_size=400))
def test_a_text_gets_the_same_tokenizer_whichever_way_it_is_trained(text):
    """Bit for bit: the hash of the file is a part of the identity of runs."""
    texts = [bpe._trained(lambda: iter([text, text]), 300, long_words=each).to_json() for each in (False, True)]
    assert texts[0] == texts[1]


def test_a_text_of_long_words_is_known_by_the_mean_length():
    sentence = "many short words and a number, 123456. " * 500
    assert not bpe._has_long_words(iter([sentence * 20, "a" * 1000]))
    for long in ("acgt" * 3000, "\u6f22\u5b57" * 3000, "=" * 9000, " " * 9000, "7" * 9000):
        assert bpe._has_long_words(iter([sentence, long]))
        assert not bpe._has_long_words(iter([sentence, long[:900]]))
