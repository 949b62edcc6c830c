"""Export: transformers computes what the run's model computes, and nothing leaves that failed its audit."""

import json

import pytest
import torch
import transformers

from palinode import DataConfig, LtrObjective, RunSpec, Speedrun, Store, gpt2, modern
from palinode.base.config import encode
from palinode.base.errors import AuditFailed, BadInput
from palinode.base.example import SpecialTokens
from palinode.base.finding import AuditReport, Finding
from palinode.base.seeds import generator
from palinode.base.visibility import Ltr
from palinode.data.bpe import train
from palinode.data.tokenizer import ByteTokenizer, CharTokenizer, IdsTokenizer
from palinode.data.tokenizer_json import library_json
from palinode.models import DecoderConfig, LatentConfig
from palinode.results.record import Result
from palinode.spec.code import keep_code, run_file
from palinode.train.checkpoint import Saved, save_checkpoint, weights_sha256
from palinode.use.export import export

BOUND = 1e-5  # of logits in float32
SLOTS = 24
LLAMA = DecoderConfig(
    layers=2, width=32, heads=4, position="rotary", norm="rms", mlp="swiglu", rotary_base=5000.0, tied_head=False
)
MODELS = {
    "tied": (gpt2(layers=2, width=32, heads=4, bias=True), "GPT2LMHeadModel"),
    "scaled": (gpt2(layers=2, width=32, heads=4).with_(attention_scale=1.3, tied_head=False), "GPT2LMHeadModel"),
    "no gain": (gpt2(layers=1, width=32, heads=4).with_(norm_gain=False, mlp_mult=2), "GPT2LMHeadModel"),
    "llama": (LLAMA, "LlamaForCausalLM"),
    "llama, tied": (LLAMA.with_(tied_head=True, bias=True, attention_scale=0.7), "LlamaForCausalLM"),
    "biased head": (LLAMA.with_(bias=True), "PalinodeForCausalLM"),
    "S": (modern(layers=2, width=32, heads=4), "PalinodeForCausalLM"),
    "N": (modern(layers=2, width=32, heads=4, preset="N"), "PalinodeForCausalLM"),
    "latent": (LatentConfig(layers=2, width=32), "PalinodeForCausalLM"),
}


def finished_run(store, model_config, tmp_path, **changes):
    """A run whose weights are far from their start, as if it had been trained."""
    text = tmp_path / "text.txt"
    text.write_text("The birds said seven words and flew.\n" * 200)
    spec = RunSpec(
        data=DataConfig(corpus=str(text), split="contiguous", window_tokens=SLOTS),
        model=model_config,
        objective=LtrObjective(),
        recipe=Speedrun(steps=3),
        seed=1,
    ).with_(**changes)
    model = spec.model.build(SpecialTokens(256).vocab_size, SLOTS, 1)
    rng = generator(1, "spread")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng))
    directory = store.write_spec(spec.run_id, encode(spec))
    save_checkpoint(directory / "ckpt", Saved(run_id=spec.run_id, step=3), model, [], 1)
    store.write_result(Result(run_id=spec.run_id, outcome="done", weights_sha256=weights_sha256(model)))
    return spec, model.eval()


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("PALINODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return Store(tmp_path / "runs").create()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_transformers_computes_the_same_logits(name, store, tmp_path):
    config, architecture = MODELS[name]
    spec, model = finished_run(store, config, tmp_path)
    folder = tmp_path / "out"
    kept = export(spec.run_id, store, folder)
    assert kept.architecture == architecture
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=kept.needs_palinode).eval()
    ids = torch.randint(0, 256, (2, SLOTS), generator=generator(0, "ids"))
    ours = model.logits(model.hidden(ids, Ltr()))
    assert ours.std() > 0.1
    assert (theirs(ids).logits - ours).abs().max() <= BOUND
    theirs.save_pretrained(tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=kept.needs_palinode)
    assert (again.eval()(ids).logits - ours).abs().max() <= BOUND


def test_the_folder_has_a_tokenizer_and_a_card(store, tmp_path):
    spec, _ = finished_run(store, MODELS["llama"][0], tmp_path)
    export(spec.run_id, store, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "Äß 漢 \n\n 7's\x00"
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert tokenizer.bos_token_id == json.loads((tmp_path / "out" / "config.json").read_text())["bos_token_id"] == 256
    card = (tmp_path / "out" / "README.md").read_text()
    assert spec.run_id in card
    assert "not audited" in card
    assert "LEAK" not in card


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_every_tokenizer_gives_the_same_ids_in_the_library(kind):
    from tokenizers import Tokenizer

    text = "It's 3.14  \n\n\tÄß 漢字 don't <|x|> it's 3.14"
    tokenizer = {
        "byte": ByteTokenizer(),
        "char": CharTokenizer(text),
        "bpe": train(lambda: iter([text]), 300),
    }[kind]
    theirs = Tokenizer.from_str(json.dumps(library_json(tokenizer)))
    ids = tokenizer.encode(text)
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids) == text
    assert theirs.token_to_id("[L]") == tokenizer.vocab_size
    assert theirs.get_vocab_size() == SpecialTokens(tokenizer.vocab_size).vocab_size


def test_ids_without_text_have_no_tokenizer():
    assert library_json(IdsTokenizer(10)) is None


def test_a_run_that_failed_its_audit_is_written_only_on_demand_and_says_so(store, tmp_path):
    spec, _ = finished_run(store, MODELS["tied"][0], tmp_path)
    finding = Finding(check="C1.gradient", law="x", outcome="fail", message="slot 3 sees slot 4")
    store.write_run_audit(spec.run_id, AuditReport(subject=spec.run_id, findings=(finding,)))
    with pytest.raises(AuditFailed, match="slot 3 sees slot 4.*--even-if-leaking"):
        export(spec.run_id, store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(spec.run_id, store, tmp_path / "out", even_if_leaking=True)
    assert (tmp_path / "out" / "README.md").read_text().startswith("# LEAK")


def test_bad_input_is_one_line_and_writes_nothing(store, tmp_path):
    spec, _ = finished_run(store, MODELS["tied"][0], tmp_path)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("x")
    with pytest.raises(BadInput, match="full: is not empty"):
        export(spec.run_id, store, full)
    assert [one.name for one in full.iterdir()] == ["mine"]
    with pytest.raises(BadInput, match="is a file"):
        export(spec.run_id, store, full / "mine")
    store.write_result(Result(run_id=spec.run_id, outcome="diverged", reason="x"))
    with pytest.raises(BadInput, match="is diverged"):
        export(spec.run_id, store, tmp_path / "out")


MINE = """
from palinode import ModelConfig, gpt2


class Mine(ModelConfig):
    def build(self, vocab_size, max_length, seed):
        model = gpt2(layers=1, width=16, heads=2).build(vocab_size, max_length, seed)
        model.blocks[0].mlp.kind = "relu2"
        return model
"""


def test_a_class_of_the_user_needs_leave_and_takes_its_file_along(store, tmp_path):
    path = tmp_path / "idea.py"
    path.write_text(MINE)
    code = run_file(path)
    spec, model = finished_run(store, code.user_parts["user:Mine"](), tmp_path)
    keep_code(store.run_directory(spec.run_id), code)
    with pytest.raises(BadInput, match="--allow-code"):
        export(spec.run_id, store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    kept = export(spec.run_id, store, tmp_path / "out", allow_code=True)
    assert kept.architecture == "PalinodeForCausalLM"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    ids = torch.arange(SLOTS)[None]
    with torch.no_grad():
        assert (theirs.eval()(ids).logits - model.logits(model.hidden(ids, Ltr()))).abs().max() <= BOUND
