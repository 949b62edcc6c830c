"""Corpora with names."""

from __future__ import annotations

from pathlib import Path

from palinode.data.corpus import Corpus


def find(name: str, cache: Path | None = None) -> Corpus | None:
    return None


def names(cache: Path | None = None) -> list[str]:
    return []


def get(name: str, cache: Path | None = None) -> Corpus:
    raise NotImplementedError
