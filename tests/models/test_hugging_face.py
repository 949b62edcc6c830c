"""Open models: the states are those of the module, stepping is reading, and only what is asked for is trained."""

import pytest
import torch
import transformers

from palinode import BothObjective, Constant, HfModel, LtrObjective, MaskedInputObjective, RtlObjective
from palinode.audit.palinode_models import subject_of_config, subject_of_model
from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.base.example import SPECIAL_NAMES, Draw, SpecialTokens, joined
from palinode.base.visibility import Full, Ltr, Prefix
from palinode.checks.flow import check_flow, check_trained_flow
from palinode.checks.stepwise import check_stepwise
from palinode.models.base import begin, extend
from palinode.models.described import described
from palinode.models.direction import read
from palinode.models.hugging_face import merged
from palinode.train.optim import AdamW, build_optimizers, trainable

V = 60
SPECIALS = SpecialTokens(V)
SLOTS = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny random models of three classes, saved as transformers saves them."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    common = {"vocab_size": 64, "bos_token_id": 3, "eos_token_id": 4, "pad_token_id": None}
    llama = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    configs = {
        "llama": transformers.LlamaConfig(**common, **llama, num_key_value_heads=2, tie_word_embeddings=True),
        "untied": transformers.LlamaConfig(**common, **llama, tie_word_embeddings=False),
        "gpt2": transformers.GPT2Config(**common, n_embd=32, n_layer=3, n_head=4, n_positions=32),
    }
    for name, config in configs.items():
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(root / name)
    return root


def built(folders, name="llama", **options):
    return HfModel(source=str(folders / name), **options).build(SPECIALS.vocab_size, SLOTS, 1).eval()


@pytest.fixture
def tokens():
    return torch.randint(0, V, (2, SLOTS), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["llama", "untied", "gpt2"])
@torch.no_grad()
def test_the_logits_are_those_of_the_module_and_stepping_is_reading(folders, name, tokens):
    model = built(folders, name)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders / name).eval()
    whole = model.hidden(tokens, Ltr())
    assert torch.equal(model.logits(whole)[..., :V], theirs(tokens).logits[..., :V])
    state = begin(model, 2, SLOTS)
    pieces = []
    for part in torch.split(tokens, [5, 1, 10], dim=1):
        states, state = extend(model, part, state)
        pieces.append(states)
    assert (torch.cat(pieces, dim=1) - whole).abs().max() < 1e-5
    with pytest.raises(ValueError, match="has room for 16 slots"):
        extend(model, tokens[:, :1], state)


@torch.no_grad()
def test_other_visibilities_are_masks(folders, tokens):
    model = built(folders)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % V

    def moved(sees):
        return (model.hidden(tokens, sees) - model.hidden(changed, sees))[:, :-1].abs().amax(dim=(0, 2)) > 1e-6

    assert not moved(Ltr()).any()
    assert moved(Full()).all()
    assert not moved(Prefix(length_slots=4)).any()
    causal = model.inner(input_ids=tokens, attention_mask=model._mask(tokens, Prefix(length_slots=0)))
    assert (causal.last_hidden_state - model.hidden(tokens, Ltr())).abs().max() < 1e-5


@torch.no_grad()
def test_rtl_with_the_positions_of_the_text_is_an_upper_triangular_mask(folders, tokens):
    model = built(folders, rtl_positions="text")
    turned = model.from_end()
    states = turned.hidden(tokens.flip(1), Ltr()).flip(1)
    mask = torch.full((1, 1, SLOTS, SLOTS), torch.finfo(torch.float32).min).tril(-1)
    theirs = model.inner(input_ids=tokens, attention_mask=mask, position_ids=torch.arange(SLOTS)[None])
    assert (states - theirs.last_hidden_state).abs().max() < 1e-5
    assert (states - model.hidden(tokens.flip(1), Ltr()).flip(1)).abs().max() > 1e-2, "flipped positions are others"
    assert torch.equal(model.hidden(tokens, Ltr()), built(folders).hidden(tokens, Ltr()))
    assert {id(one) for one in turned.parameters()} == {id(one) for one in model.parameters()}
    state, pieces = begin(turned, 2, SLOTS), []
    for part in torch.split(tokens.flip(1), [5, 1, 10], dim=1):
        found, state = extend(turned, part, state)
        pieces.append(found)
    assert (torch.cat(pieces, dim=1).flip(1) - states).abs().max() < 1e-5


@pytest.mark.parametrize("positions", ["flipped", "text"])
@torch.no_grad()
def test_an_example_is_read_pass_by_pass(folders, tokens, positions):
    model = built(folders, rtl_positions=positions)
    ltr, rtl = (objective.example(tokens, Draw(), SPECIALS) for objective in (LtrObjective(), RtlObjective()))
    turned = model.from_end().hidden(rtl.inputs.flip(1), Ltr()).flip(1)
    expected = torch.cat([turned, model.hidden(ltr.inputs, Ltr())])
    assert (read(model, joined([rtl, ltr])) - expected).abs().max() < 1e-5


@torch.no_grad()
def test_special_tokens_are_rows_after_those_of_the_tokenizer(folders):
    model = built(folders, "untied")
    for table in (model.lm.get_input_embeddings().weight, model.lm.get_output_embeddings().weight):
        assert len(table) == V + len(SPECIAL_NAMES)
        assert torch.equal(table[V], table[3])
        assert torch.equal(table[V + 1], table[:V].mean(dim=0))


@pytest.mark.parametrize("name", ["llama", "untied", "gpt2"])
def test_roles(folders, name):
    roles = {role: len(named) for role, named in built(folders, name).parameter_groups().items()}
    assert roles["embedding"] == 1
    assert roles["head"] == (name == "untied")
    assert roles["position"] == (name == "gpt2")
    assert roles["matrix"] == 3 * (4 if name == "gpt2" else 7)


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("all", lambda name: True),
        ("lora", lambda name: ".adapter." in name),
        ("head", lambda name: name.startswith("lm.lm_head")),
        ("last:2", lambda name: name.startswith(("lm.model.layers.1", "lm.model.layers.2", "lm.model.norm"))),
    ],
)
def test_what_is_trained(folders, train, expected, tokens):
    model = built(folders, "untied", train=train, lora_rank=1)
    assert {name for name, one in model.named_parameters() if one.requires_grad} == {
        name for name, _ in model.named_parameters() if expected(name)
    }
    optimizers = build_optimizers(AdamW(learning_rate=0.01), model, model.parameter_groups())
    before = model.logits(model.hidden(tokens, Ltr()))
    before.logsumexp(-1).sum().backward()
    optimizers[0].step()
    assert not torch.equal(model.logits(model.hidden(tokens, Ltr())), before)
    costs = {mode: built(folders, "untied", train=mode, lora_rank=1).cost(SLOTS, Ltr()) for mode in ("all", train)}
    assert costs[train].forward_flops(1) >= costs["all"].forward_flops(1)
    if train != "all":
        assert costs[train].train_flops(1) < costs["all"].train_flops(1)


def test_lora_starts_as_the_model_counts_as_peft_does_and_merges(folders, tokens):
    plain, model = built(folders), built(folders, train="lora", lora_rank=2)
    with torch.no_grad():
        assert torch.equal(model.hidden(tokens, Ltr()), plain.hidden(tokens, Ltr()))
    widths = [(one.in_features, one.out_features) for one in plain.blocks.modules() if isinstance(one, torch.nn.Linear)]
    named = trainable(model.parameter_groups())
    assert {role for role, some in named.items() if some} == {"adapter"}
    assert sum(one.numel() for _, one in named["adapter"]) == sum(2 * (inner + outer) for inner, outer in widths)
    with torch.no_grad():
        for _, one in named["adapter"]:
            one.add_(0.1)
        plain.lm.load_state_dict(merged(model))
        assert (model.hidden(tokens, Ltr()) - plain.hidden(tokens, Ltr())).abs().max() < 1e-4


@torch.no_grad()
def test_kept_blocks_are_those_of_the_model_and_step(folders, tokens):
    model, whole = built(folders, keep_layers=(0, 2)), built(folders)
    assert torch.equal(model.blocks[1].mlp.up_proj.weight, whole.blocks[2].mlp.up_proj.weight)
    states, _ = extend(model, tokens, begin(model, 2, SLOTS))
    assert (states - model.hidden(tokens, Ltr())).abs().max() < 1e-5


def test_a_plan_reads_no_weights(folders):
    config = HfModel(source=str(folders / "llama"), train="lora")
    assert described(config, SPECIALS.vocab_size, SLOTS).total_parameters == sum(
        one.numel() for one in built(folders, train="lora").parameters()
    )


BOTH, MASKED = BothObjective(p=Constant(p=0.5)), MaskedInputObjective()


def failed_of(findings, codes):
    """The messages of the failed findings, after a check that the findings are those of these checks."""
    assert {one.check.partition(".")[0] for one in findings} == codes
    return [one.message for one in findings if one.outcome == "fail"]


@pytest.mark.parametrize("positions", [pytest.param("flipped", marks=pytest.mark.nightly), "text"])
def test_the_weights_pass_their_audit(folders, positions):
    own = subject_of_model(built(folders, rtl_positions=positions), BOTH, SPECIALS, SLOTS, name="own", seed=1)
    assert failed_of([*check_trained_flow(own), *check_stepwise(own)], {"C1", "C6"}) == []


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("objective", "codes", "positions"),
    [(BOTH, {"C1", "C6"}, "flipped"), (BOTH, {"C1", "C6"}, "text"), (MASKED, {"C1"}, "flipped")],
    ids=["both", "text positions", "masked"],
)
def test_the_class_passes_its_audit(folders, objective, codes, positions):
    config = HfModel(source=str(folders / "llama"), rtl_positions=positions)
    small = subject_of_config(config, objective, tokenizer_vocab=V, window_tokens=SLOTS)
    assert failed_of([*check_flow(small), *check_stepwise(small)], codes) == []


def test_the_hash_is_pinned_and_other_weights_are_refused(folders):
    config = HfModel(source=str(folders / "llama")).pinned()
    assert config.pinned() == config
    with pytest.raises(BadInput, match="the spec was resolved with"):
        config.with_(source=str(folders / "untied")).build(SPECIALS.vocab_size, SLOTS, 1)


def test_bad_input(folders, tmp_path):
    def refused(message, field="source", kind=BadInput, vocab=SPECIALS.vocab_size, slots=SLOTS, **options):
        with pytest.raises(kind, match=message) as caught:
            HfModel(**options).build(vocab, slots, 1)
        assert caught.value.field == field

    refused("no weights there", source=str(tmp_path))
    refused("a run must not fetch", source="HuggingFaceTB/SmolLM2-135M")
    refused("absent_package is not installed", kind=EnvironmentProblem, source="package:absent_package/x.gguf")
    refused("package torch has no file", source="package:torch/x.gguf")
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused("needs code of its own", source=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    refused("is no model of transformers", source=str(tmp_path))
    (tmp_path / "config.json").write_text((folders / "llama" / "config.json").read_text())
    refused("cannot be read", source=str(tmp_path))
    llama = str(folders / "llama")
    refused("50257 ids, the model has 64", "data.tokenizer", vocab=SpecialTokens(50257).vocab_size, source=llama)
    refused("block 3 is not there", "keep_layers", source=llama, keep_layers=(0, 3))
    gpt2 = str(folders / "gpt2")
    refused("33 slots are more than the 32", "data.window_tokens", slots=33, source=gpt2)
    refused("which GPT2LMHeadModel has not", "rtl_positions", source=gpt2, rtl_positions="text")
