"""The settings of text data: the text of a run, its tokenizer and its splits."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from palinode.base.bounds import LONGEST_WINDOW_TOKENS
from palinode.base.config import LATER, Config

Split = Literal["train", "validation", "test", "tuning"]
TRAIN: Split = "train"
VALIDATION: Split = "validation"
TEST: Split = "test"
TUNING: Split = "tuning"  # the end of the train text, if a share of the text is reserved for the choice of settings
SPLITS: tuple[Split, ...] = (TRAIN, VALIDATION, TEST)  # the splits that a token store has, in this order

WindowChoice = Literal["first", "spread"]  # the windows that an evaluation of a part of a split scores

BYTE_VALUES = 256
MOST_TOKEN_IDS = 2**24  # far above any vocabulary in use; this limit refuses a typing error such as bpe:1000000000
HEX_SHA256 = "^[0-9a-f]{64}$"
Fraction = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(Config):
    """The text data of a run.

    Attributes:
        corpus: the name of the corpus: `python-docs` (embedded), a path to a file or folder, `data:<path>` below $PALINODE_DATA, a
            name given by `palinode data add`, or a Hugging Face set: wikitext-2, wikitext-103, tinystories, fineweb-edu.
        tokenizer: the name of the tokenizer: `byte`, `char`, `bpe:<vocabulary size>` (trained on the train split), `gpt2`, the path
            of a tokenizer.json or of a folder that holds one, or `ids:<vocabulary size>` for token ids whose tokenizer is unknown.
        window_tokens: the number of tokens of a window.
        split: the rule of the splits: `documents` (each document is whole in one split, which depends on the hash of the
            document's content), `contiguous` (train is the first part of the text, then validation, then test, as in nanoGPT),
            or `given` (the corpus has splits).
        validation_fraction, test_fraction: the share of the documents that each of these splits gets; with the rule
            `contiguous`, the share of the text.
        corpus_sha256, tokenizer_sha256: the hashes that the resolution of a spec fills in; a run with these hashes refuses other
            data under the same name.
        max_train_tokens: the number of train tokens that runs may use, from the first train token on; None for all train
            tokens.
        text_field: the name of the column or key that holds a document; the texts of several names are joined with an empty line.
        encoding: the encoding of text files, by its Python name (`cp1252`, `utf-16`).
        document_separator: the marker between the documents of one text file, such as <|endoftext|>; empty for no marker.
        files: the rule for the files of a folder: `documents` leaves dataset cards and licences out, and reads names such as
            A.TXT too; `all` is the rule of older versions, for the specs that they resolved. A config without `corpus_sha256`
            always uses the rule `documents`.
        tuning_fraction: the share of the train tokens that is kept apart, at the end of the train split: no run trains on these
            tokens, and settings are chosen by the loss on them.
    """

    corpus: Annotated[str, Field(min_length=1)] = "python-docs"
    tokenizer: Annotated[str, Field(min_length=1)] = "byte"
    window_tokens: Annotated[int, Field(ge=1, le=LONGEST_WINDOW_TOKENS)] = 128
    split: Literal["documents", "contiguous", "given"] = "documents"
    validation_fraction: Fraction = 0.05
    test_fraction: Fraction = 0.05
    corpus_sha256: Annotated[str, Field(pattern=HEX_SHA256)] | None = None
    tokenizer_sha256: Annotated[str, Field(pattern=HEX_SHA256)] | None = None
    max_train_tokens: Annotated[int, Field(ge=1)] | None = None
    tuning_fraction: Annotated[Fraction, LATER] = 0.0
    text_field: Annotated[str | tuple[str, ...], LATER] = "text"
    encoding: Annotated[str, LATER] = "utf-8"
    document_separator: Annotated[str, LATER] = ""
    files: Annotated[Literal["all", "documents"], LATER] = "all"

    def keeps(self, split: Split) -> bool:
        """Whether a scored split has text; a corpus with its own splits is assumed to have every split."""
        if split == TUNING:
            return self.tuning_fraction > 0
        return self.split == "given" or (self.test_fraction if split == TEST else self.validation_fraction) > 0

    @field_validator("tokenizer")
    @classmethod
    def _size_is_a_number(cls, value: str) -> str:
        """Check that a vocabulary size follows `bpe:` or `ids:`; a bad size is refused before any text is read."""
        kind, _, size = value.partition(":")
        least = {"bpe": BYTE_VALUES, "ids": 2}.get(kind)
        if least is not None and not (size.isascii() and size.isdigit() and least <= int(size[:18]) <= MOST_TOKEN_IDS):
            raise ValueError(
                f"{kind}:<vocabulary size> needs a size from {least} to {MOST_TOKEN_IDS}, got {(size or value)[:40]!r}"
            )
        return value

    @field_validator("text_field")
    @classmethod
    def _names_a_field(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or "" in value if isinstance(value, tuple) else not value:
            raise ValueError("must name at least one column")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str) -> str:
        try:
            is_text = codecs.lookup(value)._is_text_encoding
        except (LookupError, ValueError):
            is_text = False
        if not is_text:
            raise ValueError(f"no text encoding is named {value[:40]!r}; for example utf-8, cp1252, utf-16")
        return value

    @model_validator(mode="after")
    def _train_gets_something(self) -> DataConfig:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction and test_fraction leave nothing to train on")
        return self
