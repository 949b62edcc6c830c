"""No document is in two splits, whatever its case and white space; membership depends on content alone."""

import numpy as np
import pytest
from corpora_for_tests import in_memory, sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from palinode.base.errors import BadInput
from palinode.data.config import SPLITS, DataConfig
from palinode.data.splits import DROPPED, plan, stream, survey

documents = st.lists(st.text("abAB \n\tß", max_size=12), min_size=1, max_size=40)
BY_DOCUMENT = DataConfig(validation_fraction=0.2, test_fraction=0.2)


def bare(text: str) -> str:
    return "".join(text.casefold().split())


def members(corpus, config) -> dict[str, list[str]]:
    """The documents of each split."""
    chosen = plan(survey(corpus), corpus, config)
    result = {split: [] for split in SPLITS}
    for document, index in zip(corpus.documents(), chosen.split_of, strict=True):
        if index != DROPPED:
            result[SPLITS[index]].append(document.text)
    return result


def joined(corpus, config) -> dict[str, str]:
    texts = dict.fromkeys(SPLITS, "")
    for split, piece in stream(corpus, plan(survey(corpus), corpus, config)):
        texts[split] += piece
    return texts


@given(texts=documents)
def test_no_text_is_in_two_splits_and_none_is_lost(texts):
    corpus = in_memory(texts)
    distinct = {bare(text) for text in texts} - {""}
    if len(distinct) < 3 or round(0.2 * len(distinct)) * 2 >= len(distinct):
        return
    split_of = members(corpus, BY_DOCUMENT)
    kept = [bare(text) for split in SPLITS for text in split_of[split]]
    assert sorted(kept) == sorted(distinct)
    assert all(split_of[split] for split in SPLITS)


@settings(deadline=None)
@given(order=st.permutations(range(30)))
def test_membership_does_not_depend_on_the_order_of_the_documents(order):
    texts = sentences(30)
    shuffled = members(in_memory([texts[place] for place in order]), BY_DOCUMENT)
    assert {split: set(result) for split, result in shuffled.items()} == {
        split: set(result) for split, result in members(in_memory(texts), BY_DOCUMENT).items()
    }


def test_the_fractions_are_met_by_count():
    split_of = members(in_memory(sentences(200)), BY_DOCUMENT)
    assert {split: len(texts) for split, texts in split_of.items()} == {"train": 120, "validation": 40, "test": 40}


def test_duplicates_are_dropped_and_counted():
    texts = sentences(20)
    copies = [texts[3].upper(), texts[7].replace(" ", "\n  "), texts[7], "  \n"]
    corpus = in_memory(texts + copies)
    chosen = plan(survey(corpus), corpus, BY_DOCUMENT)
    assert chosen.duplicates == 3
    assert chosen.split_of[20:].tolist() == [DROPPED] * 4
    assert members(corpus, BY_DOCUMENT) == members(in_memory(texts), BY_DOCUMENT)


def test_without_the_guard_a_copy_would_leak():
    """The control: the guard has something to do, since equal documents would else be ranked apart from their copies."""
    texts = sentences(20)
    corpus = in_memory(texts + [text.upper() for text in texts])
    everything = [bare(text) for split in SPLITS for text in members(corpus, BY_DOCUMENT)[split]]
    assert len(everything) == len(set(everything)) == 20


def test_a_document_of_many_pieces_is_the_same_document():
    texts = sentences(12)
    whole, cut = survey(in_memory(texts)), survey(in_memory(texts, piece_characters=7))
    assert whole.sha256 == cut.sha256
    assert np.array_equal(whole.keys, cut.keys)


def test_the_corpus_hash_follows_content():
    texts = sentences(5)
    original = survey(in_memory(texts)).sha256
    assert survey(in_memory(texts[:-1] + [texts[-1] + "."])).sha256 != original
    assert survey(in_memory(texts[::-1])).sha256 != original
    assert survey(in_memory(texts, separator="\n")).sha256 != original
    assert survey(in_memory(texts[:3] + [texts[3] + texts[4]])).sha256 != original


def test_given_splits_are_kept_and_an_evaluation_copy_is_dropped_from_train():
    texts = ["alpha one", "beta two", "Beta two", "gamma three", "Alpha  one", "delta four", "delta four"]
    corpus = in_memory(texts, ["train", "train", "train", "validation", "test", "test", "test"])
    split_of = members(corpus, DataConfig(split="given"))
    assert split_of["train"] == ["beta two", "Beta two"]
    assert split_of["validation"] == ["gamma three"]
    assert split_of["test"] == ["Alpha  one", "delta four", "delta four"]
    assert plan(survey(corpus), corpus, DataConfig(split="given")).duplicates == 1


@pytest.mark.parametrize(("splits", "rule"), [(["train", "test"], "documents"), (None, "given")])
def test_a_corpus_with_its_own_splits_is_read_with_them_and_no_other(splits, rule):
    corpus = in_memory(["one", "two"], splits)
    with pytest.raises(BadInput, match=r"data\.split: split = "):
        plan(survey(corpus), corpus, DataConfig(split=rule))


@pytest.mark.parametrize("texts", [["only one"], ["one", "two"], ["same", "SAME", "s ame"]])
def test_too_few_documents_are_cut_inside(texts):
    corpus = in_memory(texts)
    cut = plan(survey(corpus), corpus, BY_DOCUMENT)
    contiguous = plan(survey(corpus), corpus, BY_DOCUMENT.with_(split="contiguous"))
    assert cut.ends == contiguous.ends is not None


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\t"]])
def test_a_corpus_without_text_is_refused(texts):
    with pytest.raises(BadInput, match="in memory: data.corpus: the corpus holds no text"):
        survey(in_memory(texts))


@given(
    texts=st.lists(st.text("ab\n", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=6, unique_by=bare),
    piece=st.none() | st.integers(1, 9),
    validation=st.sampled_from([0.1, 0.25, 0.3]),
    test=st.sampled_from([0.0, 0.1]),
)
def test_a_contiguous_split_cuts_the_joined_text_at_its_fractions(texts, piece, validation, test):
    config = DataConfig(split="contiguous", validation_fraction=validation, test_fraction=test)
    parts = joined(in_memory(texts, piece_characters=piece), config)
    whole = "\n\n".join(texts)
    assert parts["train"] + parts["validation"] + parts["test"] == whole
    for split, fraction in (("validation", validation), ("test", test)):
        assert abs(len(parts[split]) - fraction * len(whole)) < 1 + 1e-9


def test_a_corpus_that_changes_between_passes_is_noticed():
    texts = sentences(10)
    corpus = in_memory(texts)
    chosen = plan(survey(corpus), corpus, BY_DOCUMENT)
    texts.pop()
    with pytest.raises(BadInput, match="changed while it was being read"):
        list(stream(corpus, chosen))


def test_half_a_surrogate_pair_is_refused_with_its_document():
    with pytest.raises(BadInput, match="document 1: holds half a surrogate pair"):
        survey(in_memory(["fine", "broken \ud800"]))
