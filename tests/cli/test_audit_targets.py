"""Models named on the command line, and `assert_causal` for other people's test suites."""

import pytest
import torch
from torch import nn

from palinode.audit import any_model
from palinode.audit.targets import small_config, vocabulary_of
from palinode.base.errors import BadInput
from palinode.cli.model_names import is_target, target_of
from palinode.testing import assert_causal

MODELS = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, ahead=False):
        super().__init__()
        self.tokens, self.layer, self.head = nn.Embedding(48, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 48)
        self.ahead = ahead

    def forward(self, ids):
        x = self.tokens(ids)
        hidden, _ = self.layer(x)
        return self.head(hidden + x.mean(1, keepdim=True) if self.ahead else hidden)

class Leaky(Tiny):
    def __init__(self):
        super().__init__(ahead=True)

class Needs(Tiny):
    def __init__(self, width):
        super().__init__()

class Masked(Tiny):
    def forward(self, ids, mask):
        return super().forward(ids)

class Broken(Tiny):
    def forward(self, ids):
        raise KeyError("cache")

made = Tiny()
number = 3
"""


@pytest.fixture
def models(here):
    """The name of a module in the working directory; another one for each test, because Python keeps imported modules."""
    name = f"models_{here.parent.name}"
    (here / f"{name}.py").write_text(MODELS)
    return name


def test_a_class_is_audited_by_name(palinode, models):
    sound = palinode("audit", f"{models}:Tiny", "--quick")
    assert (sound.code, f"{models}:Tiny: pass" in sound.out) == (0, True)
    leaky = palinode("audit", f"{models}:Leaky", "--quick")
    assert leaky.code == 3
    assert "C1.perturbation" in leaky.out
    assert leaky.err.splitlines()[-1].startswith(f"{models}:Leaky: failed its audit: C1.")


def test_a_module_that_exists_is_taken_as_it_is(models):
    model, vocab_size = target_of(f"{models}:made")
    assert (vocab_size, model.training) == (48, False)
    assert target_of(f"{models}:made", vocab_size=40)[1] == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}:Tniy", "did you mean 'Tiny'?"),
        ("{}:number", "gives a int, not a torch module"),
        ("{}:Needs", "cannot be made: TypeError"),
        ("nowhere_at_all:X", "no module named 'nowhere_at_all'"),
        ("hf:gtp2", "did you mean 'gpt2'?"),
        ("hf:/no/such/folder", "is neither a folder nor a model type"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(palinode, models, text, message):
    output = palinode("audit", text.format(models))
    assert (output.code, output.out) == (2, "")
    assert len(output.err.splitlines()) == 1
    assert message in output.err


@pytest.mark.parametrize(
    ("name", "message"),
    [("Masked", "raises TypeError: Masked.forward() missing 1 required"), ("Broken", "raises KeyError: 'cache'")],
)
def test_an_error_inside_a_models_forward_names_the_model(palinode, models, name, message):
    output = palinode("audit", f"{models}:{name}", "--quick")
    assert output.code == 2
    last = output.err.splitlines()[-1]
    assert last.startswith(f"{models}:{name}: forward: its forward {message}")
    assert "CheckOptions(forward=...)" in last


def test_an_error_of_the_audit_itself_is_not_the_models(palinode, models, monkeypatch):
    def broken(*args, **options):
        raise KeyError("ours")

    monkeypatch.setattr(any_model, "check", broken)
    assert palinode("audit", f"{models}:Tiny", "--quick").code == 70


def test_what_names_a_file_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [is_target(text) for text in ("idea.py", "idea.toml", "runs/x/spec.json", "a:b.py")] == [False] * 4
    assert [is_target(text) for text in ("hf:llama", "package.module:Class")] == [True] * 2


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "mixtral", "mamba"])
def test_a_type_of_transformers_is_small(model_type):
    config = small_config(model_type)
    assert (config.vocab_size, config.num_hidden_layers, config.hidden_size) == (64, 2, 32)


def test_a_saved_folder_is_read_with_its_weights(tmp_path):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(small_config("gpt2"))
    model.save_pretrained(tmp_path / "saved")
    loaded, vocab_size = target_of(f"hf:{tmp_path / 'saved'}")
    assert vocab_size == 64
    assert torch.equal(loaded.transformer.wte.weight, model.transformer.wte.weight)
    assert_causal(loaded, window_tokens=16)


class Bag(nn.Module):
    """No embedding table."""

    def forward(self, ids):
        return nn.functional.one_hot(ids, 8).double().cumsum(1)


def test_without_an_embedding_the_vocabulary_must_be_given():
    with pytest.raises(BadInput, match="has no torch.nn.Embedding"):
        vocabulary_of(Bag(), "Bag")
    with pytest.raises(BadInput, match="Bag"):
        assert_causal(Bag())
