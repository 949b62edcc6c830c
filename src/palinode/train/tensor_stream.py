"""The bytes of a safetensors file, one tensor at a time, so that memory holds one whole tensor and not all of them.

The bytes are those of `safetensors.torch.save`: the header, then the tensors, those of wider numbers first, and else by name.
A tensor that is cut over processes is put together when its turn comes, so every process has to go through the stream.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from palinode.train.cut import whole

# The formats of numbers in the order in which safetensors writes them, with their names in the header.
FORMATS = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT_BYTES = 8  # the header ends with spaces up to a multiple of it


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The header, then the bytes of each tensor. Where tensors are cut over processes, every process makes this call.

    Raises:
        KeyError: a tensor has a format of numbers that is not in FORMATS.
    """
    order = {dtype: number for number, dtype in enumerate(FORMATS)}
    names = sorted(tensors, key=lambda name: (order[tensors[name].dtype], name))
    header, end = {}, 0
    for name in names:
        tensor, start = tensors[name], end
        end += math.prod(tensor.shape) * tensor.element_size()
        header[name] = {"dtype": FORMATS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        content = whole(tensors[name].detach()).cpu().contiguous()
        yield content.reshape(-1).view(torch.uint8).numpy().data
