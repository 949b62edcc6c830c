"""Types of transformers made small, and the census: its probe by other code, and its page."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from palinode.audit.targets import MOST_LAYERS, OWN, SMALL_VOCABULARY, WIDTH, small_config, small_fields

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def census():
    spec = importlib.util.spec_from_file_location("census", ROOT / "tools" / "census.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kinds(config):
    """The kinds of layers that a config names."""
    names = ("layer_types", "mlp_layer_types", "layers_block_type")
    return {name: set(value) for name in names if (value := vars(config).get(name))}


@pytest.mark.parametrize(
    "model_type", ["gemma3_text", "deepseek_v3", "qwen3_next", "nemotron_h", "kimi_linear", "gpt2"]
)
def test_a_small_config_keeps_one_layer_of_each_kind(model_type):
    from transformers import CONFIG_MAPPING

    standard, small = CONFIG_MAPPING[model_type](), small_config(model_type)
    assert (small.vocab_size, small.hidden_size) == (SMALL_VOCABULARY, WIDTH)
    assert 2 <= small.num_hidden_layers <= MOST_LAYERS
    assert kinds(small) == kinds(standard)


@pytest.mark.parametrize("model_type", ["deepseek_v3", "gemma3_text", "mamba2", "dbrx"])
def test_a_small_config_is_built_and_run(model_type):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(small_config(model_type)).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) < 200_000
    with torch.no_grad():
        assert model(torch.zeros(3, 9, dtype=torch.long)).logits.shape == (3, 9, SMALL_VOCABULARY)


def test_a_sliding_window_is_cut_within_the_rows_of_an_audit():
    assert small_config("gemma3_text").sliding_window == 8  # another layer sees the whole row
    assert small_config("starcoder2").sliding_window in (None, 40)
    assert small_config("mistral").sliding_window == 40  # no other layer does


def test_what_is_absent_in_the_standard_config_stays_absent():
    from transformers import CONFIG_MAPPING

    standard = CONFIG_MAPPING["llama"]()
    assert standard.pad_token_id is None
    assert "pad_token_id" not in small_fields(standard)
    assert small_config("llama").num_key_value_heads == small_config("llama").num_attention_heads
    assert small_config("mistral").num_key_value_heads < small_config("mistral").num_attention_heads


@pytest.mark.nightly
def test_every_type_has_a_small_config(census):
    for model_type in sorted(
        {*census.all_types()} - {"gemma4_assistant"}
    ):  # cannot be made without a config of another model
        text = small_config(model_type).get_text_config(decoder=True)
        assert text.vocab_size <= SMALL_VOCABULARY, model_type
        assert getattr(text, "hidden_size", WIDTH) <= 2 * WIDTH, model_type
    assert set(OWN) <= set(census.all_types())


@dataclass
class Output:
    logits: torch.Tensor


class Bag(nn.Module):
    """A mean over the ids so far; `leak` names what else changes the logits."""

    def __init__(self, leak=None):
        super().__init__()
        self.tokens, self.leak, self.calls = nn.Embedding(16, 8), leak, 0

    def forward(self, ids):
        x = self.tokens(ids)
        self.calls += 1
        hidden = x.cumsum(1)
        hidden = (
            hidden
            + {
                None: 0,
                "suffix": x.mean(1, keepdim=True),
                "length": ids.shape[1],
                "companions": x.sum(0, keepdim=True),
                "again": self.calls,
            }[self.leak]
        )
        return Output(hidden @ self.tokens.weight.T)


@pytest.mark.parametrize("leak", [None, "suffix", "length", "companions", "again"])
def test_the_probe_names_what_changes_a_prefix(census, leak):
    found = census.probe(Bag(leak), 16)
    over = {name for name in ("suffix", "length", "companions", "again") if found[name] > census.PROBE_BOUND}
    assert (leak in over) if leak else not over
    assert found["precision"] == "float64"
    assert torch.get_default_dtype() == torch.float32


def row(outcome, *, failed=(), probe=None, reason=None):
    part = {
        "outcome": outcome,
        "findings": 1,
        "failed": list(failed),
        "notes": dict.fromkeys(failed, "a|b"),
        "cpu_seconds": 1.0,
    }
    made = {"class": "Some", "parameters": 1000, "checks": {"C1": part}, "cpu_seconds": 3600.0}
    return {**made, **({"probe": probe} if probe else {}), **({"reason": reason} if reason else {})}


def test_the_page_counts_alarms_that_no_probe_shows(census):
    probed = {"length": 0.0, "companions": 0.0, "again": 0.0, "precision": "float64", "seeds": 5}
    rows = {
        "good": row("pass"),
        "leaks": row("fail", failed=["C1.prefix"], probe={**probed, "suffix": 0.5}),
        "accused": row("fail", failed=["C1.prefix"], probe={**probed, "suffix": 0.0}),
        "unbuilt": {"reason": "ValueError: <no>", "cpu_seconds": 1.0},
    }
    page = census.page({"versions": {"transformers": "5"}, "types": rows})
    assert "| fail, and no probe confirms it (false alarms) | 1 |" in page
    assert "| audited | 3 (100.0%; target 95%) |" in page
    assert "| leaks | C1.prefix | a\\|b | 5.0e-01 | 0.0e+00 | 0.0e+00 | 0.0e+00 | confirms (float64, 5 seeds) |" in page
    assert "| unbuilt | ValueError: &lt;no> |" in page


def test_the_page_is_made_from_the_results(census):
    results = json.loads(census.RESULTS.read_text(encoding="utf-8"))
    assert census.PAGE.read_text(encoding="utf-8") == census.page(results), "run: python tools/census.py --page"
