"""A tiny Llama with random weights in a folder, as transformers saves it: the open model of several rooms."""

from pathlib import Path

import torch
import transformers


def save_tiny_llama(folder: Path, *, noise: float = 0.0, **sizes: int | bool | None) -> Path:
    """Two blocks of width 32 over 256 ids, or what `sizes` says; the same weights each time.

    Args:
        noise: what is added to the weights, in standard deviations of 1, so that every path matters.
    """
    config = {
        "vocab_size": 256,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": None,
        **sizes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = transformers.LlamaConfig(**config, intermediate_size=2 * config["hidden_size"])
        model = transformers.AutoModelForCausalLM.from_config(made)
        with torch.no_grad():
            for parameter in model.parameters() if noise else ():
                parameter.add_(noise * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder
