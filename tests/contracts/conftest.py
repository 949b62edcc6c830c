"""The open model that every suite of models measures: a tiny random Llama in a folder of its own."""

import pytest
import torch
import transformers

from palinode import HfModel


@pytest.fixture(scope="session")
def open_model(tmp_path_factory) -> HfModel:
    """Two blocks of width 32 with weights wide enough that every path matters, saved as transformers saves them."""
    folder = tmp_path_factory.mktemp("llama")
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 512}
    config = transformers.LlamaConfig(
        vocab_size=256, bos_token_id=3, eos_token_id=4, tie_word_embeddings=True, **shape, **heads
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return HfModel(source=str(folder))
