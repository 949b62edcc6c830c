"""The laws of a late-interaction retriever, on a tiny random Llama."""

import pytest
import torch

from palinode import HfModel
from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.measures import READINGS
from palinode.base.seeds import generator
from palinode.models.decoder import modern
from palinode.models.retriever import Retriever, check_reads_full, max_similarities, mean_similarities
from palinode.train.contrastive import Batch, contrastive_loss, train_retriever
from tiny_llama import save_tiny_llama

SPECIALS = SpecialTokens(40)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    path = save_tiny_llama(tmp_path_factory.mktemp("llama"), **sizes)
    return HfModel(source=str(path), rtl_positions="text").build(SPECIALS.vocab_size, 64, 1).eval()


def retriever(model, reading="full", depth=2):
    return Retriever(model.first_blocks(depth), reading, 8, SPECIALS, generator(0, "map"))


def texts(*lengths):
    rng = generator(0, "texts")
    return [torch.randint(40, (length,), generator=rng).tolist() for length in lengths]


@torch.no_grad()
@pytest.mark.parametrize("reading", READINGS)
def test_the_last_token_moves_earlier_states_under_full_and_both_alone(model, reading):
    [text] = texts(9)
    made = retriever(model, reading)
    one, other = (made.states(torch.tensor([[*text[:-1], last]]))[0, :-1] for last in (3, 4))
    assert bool((one != other).any()) == (reading != "ltr")
    assert made.states(torch.tensor([text])).shape == (1, 9, 32 if reading == "both" else 16)


@torch.no_grad()
@pytest.mark.parametrize("reading", READINGS)
def test_padding_moves_nothing(model, reading):
    """A text's vectors do not depend on longer texts beside it, nor its score on the padding of MaxSim."""
    made = retriever(model, reading)
    short, query, long = texts(5, 4, 30)
    alone = made([short])[0]
    assert float((made([short, long, query])[0] - alone).abs().max()) == 0.0
    queries = made([query])
    padded = max_similarities(queries, made([short, long]))[0, 0]
    assert float((padded - max_similarities(queries, [alone])[0, 0]).abs()) < 1e-6  # another product of another size
    by_hand = (queries[0] @ alone.T).amax(1).sum()
    assert float((padded - by_hand).abs()) < 1e-6


def test_max_similarity_equals_three_loops():
    rng = generator(0, "vectors")
    queries, documents = ([torch.randn(n, 4, generator=rng).double() for n in sizes] for sizes in ((3, 1), (5, 2, 7)))
    found = max_similarities(queries, documents)
    for row, query in enumerate(queries):
        for column, document in enumerate(documents):
            total = sum(max(float(token @ other) for other in document) for token in query)
            assert float(found[row, column]) == pytest.approx(total, abs=1e-12)


def test_similarities_do_not_see_the_padding_even_where_all_products_are_negative():
    query, short, long = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]), torch.tensor([[-1.0, 0.0]] * 3)
    assert max_similarities([query], [short, long]).tolist() == [[-1.0, -1.0]]
    assert mean_similarities([query], [short, long]).tolist() == [[-1.0, -1.0]]


def test_the_copy_has_its_own_first_blocks_and_the_model_keeps_all(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    made = retriever(model, depth=2)
    assert len(made.model.blocks) == made.model.lm.config.num_hidden_layers == 2
    assert len(model.blocks) == model.lm.config.num_hidden_layers == 3
    documents = texts(12, 9, 11, 8)
    batch = Batch([document[:5] for document in documents], documents, torch.zeros(4, 4, dtype=torch.bool))
    losses = train_retriever(made, lambda step: batch, 12, 0.01, 0.01, 0.05, "float32")
    assert losses[-1] < losses[0] / 10
    after = model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    with pytest.raises(BadInput, match="4 blocks are more than the 3 of the model"):
        model.first_blocks(4)


def test_planted_documents_reach_the_first_place(model):
    """After training on texts that are parts of their documents, each query finds its own."""
    made = retriever(model)
    documents = texts(12, 9, 11, 8, 14, 10)
    queries = [document[2:7] for document in documents]
    batch = Batch(queries, documents, torch.zeros(6, 6, dtype=torch.bool))
    train_retriever(made, lambda step: batch, 40, 0.01, 0.01, 0.05, "float32")
    with torch.no_grad():
        assert max_similarities(made(queries), made(documents)).argmax(1).tolist() == list(range(6))


def test_a_document_that_is_also_relevant_costs_nothing(model):
    made = retriever(model)
    documents = texts(12, 9, 11)
    queries = [document[:4] for document in documents]
    also = torch.zeros(3, 3, dtype=torch.bool)
    whole = contrastive_loss(made, Batch(queries, documents, also), 0.05)
    also[0, 1] = True
    scores = max_similarities(made(queries), made(documents)) / (4 * 0.05)
    kept = scores[0, [0, 2]].log_softmax(0)[0]
    expected = -(kept + scores[1].log_softmax(0)[1] + scores[2].log_softmax(0)[2]) / 3
    found = contrastive_loss(made, Batch(queries, documents, also), 0.05)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert float(found.detach()) < float(whole.detach())


def test_a_model_that_reads_only_causally_is_refused(model, monkeypatch):
    check_reads_full(model, SPECIALS)
    causal = type(model)._mask
    monkeypatch.setattr(type(model), "_mask", lambda self, tokens, sees: None)
    with pytest.raises(BadInput, match=r"evaluation.retrieval.readings: .* does not read without a mask"):
        check_reads_full(model, SPECIALS)
    assert causal is not type(model)._mask


def test_a_model_without_a_copy_of_its_first_blocks_is_refused():
    small = modern(layers=1, width=16, heads=2).build(51, 16, 1)
    with pytest.raises(BadInput, match="gives no copy of its first blocks"):
        small.first_blocks(1)
