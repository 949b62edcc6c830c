"""The audit before a run takes a small model of the class of the open model; it is built from the config of a large one."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from palinode.audit.palinode_models import flow_config
from palinode.base.errors import BadInput
from palinode.base.visibility import Ltr
from palinode.models.hugging_face import HfModel, SmallHfModel

WIDTH = 64  # of a head
# SmolLM2-135M has (9, 3), Qwen2.5-0.5B (14, 2), Llama 2 (32, 32), and models of one key (8, 1).
HEADS = [(9, 3), (14, 2), (15, 5), (8, 1), (32, 32), (4, 4)]
# One type with head_dim, one with a list of layers that it computes, one with infinite limits in its config, one with latent keys.
KINDS = ["falcon", "gemma3_text", "qwen3_next", "granitemoehybrid", "deepseek_v3", "gpt2", "phi3", "starcoder2"]


@pytest.fixture
def small(monkeypatch):
    """A config of transformers -> the small model that an audit reads in place of a model with this config."""

    def build(config):
        monkeypatch.setattr(HfModel, "transformers_config", lambda self: config)
        made = flow_config(HfModel(source="a folder"))
        assert isinstance(made, SmallHfModel)
        return made.build(64, 128, 0)

    return build


def config_of(model_type, **fields):
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type](**fields)


@torch.no_grad()
def is_read(model):
    ids = torch.arange(18).view(2, 9)
    return model.logits(model.hidden(ids, Ltr())).isfinite().all()


@pytest.mark.parametrize(("heads", "keys"), HEADS)
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "olmo2"])
def test_heads_that_share_keys_share_them_in_the_small_model(small, model_type, heads, keys):
    large = config_of(
        model_type, hidden_size=heads * WIDTH, num_attention_heads=heads, num_key_value_heads=keys, head_dim=WIDTH
    )
    model = small(large)
    made = model.lm.config
    assert is_read(model)
    assert made.num_attention_heads % made.num_key_value_heads == 0
    assert (made.num_key_value_heads == made.num_attention_heads) == (heads == keys)
    assert sum(one.numel() for one in model.parameters()) < 100_000


@pytest.mark.parametrize("model_type", KINDS)
def test_what_a_config_computes_is_computed_again(small, model_type):
    model = small(config_of(model_type))
    assert is_read(model)
    assert sum(one.numel() for one in model.parameters()) < 300_000


def test_the_refusal_of_a_model_without_sdpa_says_so(small):
    with pytest.raises(BadInput, match="bloom has no `sdpa` attention in transformers"):
        small(config_of("bloom"))
    with pytest.raises(BadInput, match="t5 continues no text"):
        small(config_of("t5"))


# Encoders that could be decoders, parts of models for images and sound, and types whose config or size has a rule of its own.
WITHOUT = """
bert bert-generation camembert ctrl data2vec-text dory electra ernie gemma3n gemma4_assistant gemma4_unified_assistant
inkling2_loop_text inkling2_text inkling_text llama4 llama4_text mllama modernbert-decoder musicgen musicgen_melody roberta
roberta-prelayernorm roc_bert xlm-roberta xlm-roberta-xl xmod zamba
"""
ERRORS = (
    KeyError,
    RuntimeError,
    TypeError,
    AttributeError,
    ValueError,
    AssertionError,
    ImportError,
    StrictDataclassError,
)


@pytest.mark.nightly
def test_135_of_196_causal_types_have_a_small_model(small):
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    outcomes = {}
    for model_type in CAUSAL:
        try:
            outcomes[model_type] = "read" if is_read(small(config_of(model_type))) else "nan"
        except BadInput:
            outcomes[model_type] = "refused"
        except ERRORS as failure:
            outcomes[model_type] = type(failure).__name__
    failed = {model_type for model_type, outcome in outcomes.items() if outcome not in ("read", "refused")}
    assert failed == set(WITHOUT.split())
    counts = [list(outcomes.values()).count(outcome) for outcome in ("read", "refused")]
    assert counts == [135, 34], outcomes
