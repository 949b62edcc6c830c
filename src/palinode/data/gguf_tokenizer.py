"""The tokenizer.json of a GGUF file of an installed package, made once and kept in the cache.

A GGUF file names the rule that splits text before the merges in `tokenizer.ggml.pre`. Converters that ignore the name split other
text: SmolLM2 (`smollm`) cuts every digit off first. So an unknown name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.base.folders import GGUF, converted_folder, package_file

FIELD = "data.tokenizer"
CONTROL = 3  # the type of a token that is no text
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
SPLITS: Mapping[str, Any] = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]},
}


def tokenizer_of_package(name: str) -> Path:
    """The tokenizer.json of the model `package:NAME/FILE`, or of a tokenizer.json of a package.

    Raises:
        BadInput: there is no such file, or its tokenizer is not known.
        EnvironmentProblem: the package or `gguf` is not installed.
    """
    path = package_file(name, FIELD)
    if path.suffix != GGUF:
        return path
    made = converted_folder(path) / "tokenizer.json"
    if not made.is_file():
        fsio.write_json(made, _fields(_metadata(path), str(path)))
    return made


def _metadata(path: Path) -> dict[str, Any]:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise EnvironmentProblem("gguf is not installed", field=FIELD, hint="`pip install 'palinode[hf]'`") from None
    fields = GGUFReader(path).fields
    return {
        name.removeprefix("tokenizer.ggml."): field.contents() for name, field in fields.items() if ".ggml." in name
    }


def _fields(metadata: Mapping[str, Any], file: str) -> dict[str, Any]:
    split = SPLITS.get(str(metadata.get("pre")))
    if metadata.get("model") != "gpt2" or split is None:
        kind = f"{metadata.get('model')} with {metadata.get('pre')}"
        raise BadInput(f"has a tokenizer that is not known: {kind}", file=file, field=FIELD)
    tokens, types = metadata["tokens"], metadata["token_type"]
    special = [number for number, kind in enumerate(types) if kind == CONTROL]
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [{"id": one, "content": tokens[one], **off, "special": True} for one in special],
        "pre_tokenizer": split,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in metadata["merges"]],
        },
    }
