"""A retriever is trained from the weights of a run and scored, on a tiny random Llama and twelve documents."""

import json

import pytest
import torch
import transformers
from tiny_run import tiny_spec

from palinode import ChooseObjective, Constant, EvaluationConfig, HfModel, Retrieval, Store
from palinode.run.one import run_one
from palinode.train.optim import AdamW
from palinode.train.recipe import Recipe
from palinode.train.schedule import Constant as ConstantRate

pytest.importorskip("bm25s")
BIRDS = ("owl", "wren", "lark", "swan", "crow", "rook", "tern", "gull", "kite", "dove", "rail", "ibis")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("llama")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=256, **sizes, num_key_value_heads=2, bos_token_id=0, eos_token_id=None)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def write_collection(folder, queries=18):
    """Twelve documents about a bird each; every query names the bird of its document."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": bird, "text": f"The {bird} flies far."} for i, bird in enumerate(BIRDS)]
    asked = [{"_id": f"q{i}", "text": f"where {i} is the {BIRDS[i % 12]}"} for i in range(queries)]
    for name, rows in (("corpus", documents), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    grades = "".join(f"q{i}\td{i % 12}\t1\n" for i in range(queries))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{grades}")
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("birds") / "beir")


def spec_of(corpus, llama, collection, steps=2, readings=("full",), **changes):
    asked = Retrieval(
        folder=str(collection), readings=readings, depth=1, width=8, batch=4, steps=4, pool=12, learning_rate=1e-3
    )
    return tiny_spec(
        corpus,
        model=HfModel(source=str(llama), rtl_positions="text").pinned(),
        objective=ChooseObjective(p=Constant(p=0.5)),
        recipe=Recipe(steps=steps, batch_windows=2, optimizer=AdamW(learning_rate=0.01), schedule=ConstantRate()),
        evaluation=EvaluationConfig(max_tokens=100, retrieval=asked.with_(**changes)),
    )


@pytest.mark.parametrize("steps", [2, 0])
def test_a_run_scores_a_retriever_of_every_reading(corpus, llama, collection, tmp_path, steps):
    store = Store(tmp_path / "runs")
    spec = spec_of(corpus, llama, collection, steps, ("full", "ltr", "both"))
    result = run_one(spec, store)
    assert result.outcome == "done"
    assert result.counters["tokens_read"] == steps * 64
    row = store.record(spec.run_id).retrieval
    print(result.sentences)
    assert set(row.by_query) == set(spec.evaluation.retrieval.retrievers)
