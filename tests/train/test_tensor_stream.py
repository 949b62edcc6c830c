"""The stream of a safetensors file has the bytes that safetensors writes."""

import pytest
import torch
from safetensors.torch import save

from palinode.train.tensor_stream import FORMATS, pieces


def test_the_bytes_are_those_of_safetensors():
    tensors = {}
    for number, dtype in enumerate(FORMATS):
        values = torch.arange(3 * (number + 1)).view(3, number + 1).to(dtype)
        names = (f"b{number}", f"a{number}", f'é "{number}')
        tensors |= {name: values.t() if name.startswith("a") else values for name in names}
        tensors |= {f"number {number}": torch.tensor(1).to(dtype), f"empty {number}": torch.zeros(0, 3).to(dtype)}
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    assert b"".join(pieces(tensors)) == save(whole)
    assert b"".join(pieces({})) == save({})


def test_a_format_without_a_name_is_refused():
    with pytest.raises(KeyError):
        b"".join(pieces({"x": torch.zeros(1, dtype=torch.complex128)}))
