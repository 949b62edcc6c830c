"""DataConfig refuses what cannot work before any text is read."""

import pytest

from palinode.base.config import decode, encode
from palinode.base.errors import BadInput
from palinode.data.config import DataConfig


def test_it_survives_encoding():
    config = DataConfig(corpus="a.txt", tokenizer="bpe:512", split="contiguous", corpus_sha256="0" * 64)
    assert decode(DataConfig, encode(config)) == config


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tokenizer": "bpe:many"}, ["tokenizer", "bpe:<vocabulary size>", "'many'"]),
        ({"tokenizer": "bpe:255"}, ["tokenizer", "from 256"]),
        ({"tokenizer": "bpe:"}, ["tokenizer"]),
        ({"tokenizer": "bpe"}, ["tokenizer", "bpe:<vocabulary size> needs a size", "'bpe'"]),
        ({"tokenizer": "ids"}, ["tokenizer", "ids:<vocabulary size> needs a size", "'ids'"]),
        ({"tokenizer": "bpe:99999999999999999999999"}, ["tokenizer", "16777216"]),
        ({"tokenizer": "ids:1"}, ["tokenizer", "from 2"]),
        ({"tokenizer": "ids:-3"}, ["tokenizer"]),
        ({"tokenizer": ""}, ["tokenizer"]),
        ({"corpus": ""}, ["corpus"]),
        ({"corpus": 3}, ["corpus"]),
        ({"window_tokens": 0}, ["window_tokens"]),
        ({"window_tokens": True}, ["window_tokens"]),
        ({"window_tokens": 2.5}, ["window_tokens"]),
        ({"max_train_tokens": 0}, ["max_train_tokens"]),
        ({"split": "random"}, ["split"]),
        ({"validation_fraction": 1.0}, ["validation_fraction"]),
        ({"validation_fraction": -0.1}, ["validation_fraction"]),
        ({"validation_fraction": float("nan")}, ["validation_fraction"]),
        ({"validation_fraction": 0.6, "test_fraction": 0.5}, ["leave nothing to train on"]),
        ({"corpus_sha256": "abc"}, ["corpus_sha256"]),
        ({"tokeniser": "byte"}, ["tokeniser", "did you mean 'tokenizer'?"]),
    ],
)
def test_bad_fields_are_named(fields, words):
    with pytest.raises(BadInput) as caught:
        decode(DataConfig, fields, file="spec.toml")
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in ["spec.toml", *words]), line


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, {"validation", "test"}),
        ({"validation_fraction": 0.0}, {"test"}),
        ({"test_fraction": 0.0, "tuning_fraction": 0.1}, {"validation", "tuning"}),
        ({"validation_fraction": 0.0, "test_fraction": 0.0, "split": "given"}, {"validation", "test"}),
    ],
)
def test_which_splits_are_kept_back(fields, kept):
    config = DataConfig(**fields)
    assert {split for split in ("validation", "test", "tuning") if config.keeps(split)} == kept
