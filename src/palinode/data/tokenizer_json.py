"""Any tokenizer as the tokenizer.json that the library `tokenizers` of Hugging Face reads, with Palinode's special tokens.

The file has no `post_processor`: one that puts `[L]` before a text would make other programs score `[L]` as a target.
"""

from __future__ import annotations

import json
from typing import Any

from palinode.base.example import SPECIAL_NAMES
from palinode.data import bpe
from palinode.data.tokenizer import ByteTokenizer, CharTokenizer, IdsTokenizer, Tokenizer

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
EMPTY: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None}


def library_json(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The fields of the tokenizer.json; None for ids whose text is not known."""
    if isinstance(tokenizer, IdsTokenizer):
        return None
    fields = {**EMPTY, **_fields(tokenizer), "post_processor": None, "truncation": None, "padding": None}
    specials = [bpe.added_token(tokenizer.vocab_size + index, name) for index, name in enumerate(SPECIAL_NAMES)]
    return {**fields, "added_tokens": [*(fields.get("added_tokens") or []), *specials]}


def _fields(tokenizer: Tokenizer) -> dict[str, Any]:
    if isinstance(tokenizer, ByteTokenizer):
        vocab = {character: byte for byte, character in enumerate(bpe.byte_alphabet())}
        steps = {"pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL}
        return {**steps, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    if isinstance(tokenizer, CharTokenizer):
        vocab = {character: number for number, character in enumerate(tokenizer.characters)}
        each = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
        return {
            "pre_tokenizer": each,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": tokenizer.characters[0]},
        }
    if isinstance(tokenizer, bpe.BpeTokenizer):
        return tokenizer.library_fields()
    fields: dict[str, Any] = json.loads(tokenizer.to_json())
    return fields
