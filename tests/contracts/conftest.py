"""The open model that every suite of models measures: a tiny random Llama in a folder of its own."""

import pytest

from palinode import HfModel
from tiny_llama import save_tiny_llama


@pytest.fixture(scope="session")
def open_model(tmp_path_factory) -> HfModel:
    """Two blocks of width 32 with weights wide enough that every path matters."""
    ids = {"bos_token_id": 3, "eos_token_id": 4, "tie_word_embeddings": True}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    folder = tmp_path_factory.mktemp("llama")
    return HfModel(source=str(save_tiny_llama(folder, noise=0.2, max_position_embeddings=512, **ids, **heads)))
