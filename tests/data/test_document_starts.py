"""Documents start at the right token, whatever the tokenizer, the pieces and the chunks."""

import numpy as np
import pytest
from corpora_for_tests import in_memory, sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from palinode.base.errors import Damaged
from palinode.data import store as store_module
from palinode.data.config import SPLITS, DataConfig
from palinode.data.document_starts import BLOCK_TOKENS, DocumentStarts, Units, units_of
from palinode.data.splits import plan, survey
from palinode.data.store import TokenStore, build, prepare


def built(directory, texts, characters=1 << 20, monkeypatch=None, piece=None, **config):
    if monkeypatch:
        monkeypatch.setattr(store_module, "CHUNK_CHARACTERS", characters)
    corpus = in_memory(texts, piece_characters=piece)
    chosen = DataConfig(**{"validation_fraction": 0.3, "test_fraction": 0.0, **config})
    build(corpus, chosen, directory)
    return TokenStore(directory), plan(survey(corpus), corpus, chosen)


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe:300"])
@pytest.mark.parametrize(("characters", "piece"), [(1 << 20, None), (50, 13)])
def test_a_document_starts_with_its_first_token(tmp_path, monkeypatch, tokenizer, characters, piece):
    texts = [f"é{text}" for text in sentences(40)]
    store, chosen = built(tmp_path, texts, characters, monkeypatch, piece, tokenizer=tokenizer)
    for split in ("train", "validation"):
        own = [text for text, index in zip(texts, chosen.split_of, strict=True) if SPLITS[index] == split]
        units, ids = store.units(split), store.tokens(split)
        assert (units.kind, len(units.starts)) == ("documents", len(own) + 1)
        assert (units.starts[0], units.starts[-1]) == (0, len(ids))
        for number, text in enumerate(own):
            first, last = units.starts[number : number + 2]
            joined = text if number + 1 == len(own) else f"{text}\n\n"
            assert store.tokenizer.decode(ids[first:last].tolist()) == joined
        at = np.array([0, units.starts[1] - 1, units.starts[1], len(ids) - 1])
        assert units.of_tokens(at).tolist() == [0, 0, 1, len(own) - 1]


@settings(derandomize=True, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    documents=st.lists(st.integers(0, 60), max_size=10),
    chunk=st.integers(1, 9),
)
def test_the_first_token_begins_at_the_document_or_after_it(sizes, documents, chunk):
    total = sum(sizes)
    places = sorted(place for place in documents if place <= total)
    starts = DocumentStarts()
    for place in places:
        starts.at_byte(place)
    for first in range(0, len(sizes), chunk):
        starts.place(np.array(sizes[first : first + chunk]), first, sum(sizes[:first]))
    begins = [sum(sizes[:token]) for token in range(len(sizes))]
    wanted = {next((token for token, begin in enumerate(begins) if begin >= place), len(sizes)) for place in places}
    whole = starts.whole(len(sizes), are_known=True).tolist()
    assert whole == [0, *sorted(wanted - {0, len(sizes)}), len(sizes)]


def test_a_contiguous_split_keeps_the_documents_that_it_cuts(tmp_path):
    texts = sentences(20)
    store, _ = built(tmp_path, texts, split="contiguous")
    joined = "\n\n".join(texts)
    cut = len(store.tokens("train"))
    wanted = [joined.index(text) for text in texts]
    assert store.units("train").starts.tolist() == [*(place for place in wanted if place < cut), cut]
    inside = [place - cut for place in wanted if place > cut]
    assert store.units("validation").starts.tolist() == [0, *inside, len(joined) - cut]


def test_the_tuning_split_has_the_documents_at_the_end_of_train(tmp_path):
    built(tmp_path, sentences(40))
    store = TokenStore(tmp_path, tuning_fraction=0.25)
    whole = TokenStore(tmp_path).units("train").starts
    tuning, train = store.units("tuning").starts, store.units("train").starts
    cut = train[-1]
    assert tuning[-1] == len(store.tokens("tuning"))
    assert sorted({*train.tolist(), *(tuning + cut).tolist()}) == sorted({*whole.tolist(), int(cut)})


def test_one_document_becomes_blocks_of_enough_tokens(tmp_path):
    assert units_of(np.array([0, 100])).starts.tolist() == [0, 100]
    blocks = units_of(np.array([0, 10 * BLOCK_TOKENS + 5]))
    assert (blocks.kind, len(blocks.starts)) == ("blocks", 11)
    assert np.diff(blocks.starts).min() >= BLOCK_TOKENS
    store, _ = built(tmp_path, ["".join(sentences(400))], split="contiguous")
    assert store.units("train").kind == "blocks"
    assert isinstance(store.units("validation"), Units)


def test_token_files_have_documents_too(tmp_path):
    for number in range(6):
        np.save(tmp_path / f"{number}.npy", np.arange(10 + number) + number)
    config = DataConfig(
        corpus=str(tmp_path), tokenizer="ids:100", window_tokens=4, validation_fraction=0.2, test_fraction=0.0
    )
    lengths = np.diff(prepare(config, tmp_path / "cache").units("train").starts)
    assert len(lengths) == 5
    assert set(lengths.tolist()) <= set(range(10, 16))


def test_damaged_starts_are_noticed(tmp_path):
    store, _ = built(tmp_path, sentences(40))
    path = store.directory / "validation.documents.bin"
    content = bytearray(path.read_bytes())
    content[8] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(Damaged, match=r"validation\.documents\.bin"):
        TokenStore(tmp_path)
    path.unlink()
    with pytest.raises(Damaged, match="documents"):
        TokenStore(tmp_path)
