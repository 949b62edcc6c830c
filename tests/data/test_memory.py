"""Tokenising takes the memory of a chunk, not of the corpus. Each measurement is a process of its own."""

import os
import subprocess
import sys

import pytest
from corpora_for_tests import sentences

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
DATA = os.environ.get("PALINODE_DATA")
# VmHWM and not ru_maxrss: the latter starts at the size of the process that forked this one.
MEASURE = r"""
import re, sys, time
from pathlib import Path
from palinode.data.config import DataConfig
from palinode.data.store import prepare
started = time.perf_counter()
store = prepare(DataConfig(corpus=sys.argv[1], tokenizer=sys.argv[2], split=sys.argv[3]), Path(sys.argv[4]))
size = sum(facts["bytes"] for facts in store.manifest["splits"].values())
peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
print(size, peak, time.perf_counter() - started)
"""


def measured(corpus, tokenizer: str, split: str, cache) -> tuple[float, float, float]:
    """Megabytes of text, MiB resident at the peak, seconds."""
    command = [sys.executable, "-c", MEASURE, str(corpus), tokenizer, split, str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, peak, seconds = map(float, done.stdout.split())
    return size / 1e6, peak, seconds


@pytest.mark.parametrize("tokenizer", ["byte", pytest.param("char", marks=pytest.mark.nightly)])
def test_a_corpus_of_ten_times_the_size_takes_hardly_more_memory(tmp_path, tokenizer):
    """One document of 2 MB against one of 20 MB: less than 10 MiB more, so the 18 MB are held nowhere."""
    paragraph = "\n".join(sentences(400)) + "\n"
    peaks = []
    for name, megabytes in (("small", 2), ("large", 20)):
        path = tmp_path / f"{name}.txt"
        path.write_text(paragraph * (megabytes * 10**6 // len(paragraph)))
        size, peak, _ = measured(path, tokenizer, "contiguous", tmp_path / f"{name}-cache")
        assert abs(size - megabytes) < 0.2
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 10, peaks


@pytest.mark.nightly
@pytest.mark.skipif(not DATA, reason="PALINODE_DATA is not set")
@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe:8192", "gpt2"])
def test_64_megabytes_of_novels_stay_under_a_gibibyte(tmp_path, tokenizer):
    size, peak, seconds = measured("data:eltec_eng/txt", tokenizer, "documents", tmp_path)
    print(f"{tokenizer}: {size:.1f} MB, {size / seconds:.1f} MB/s, peak {peak:.0f} MiB resident")
    assert size > 60
    assert peak < 1024
