"""One small run on a text, in a store that the tests of this room only read. Its corpus is gone."""

from types import SimpleNamespace

import pytest

from palinode import BothObjective, DataConfig, EvaluationConfig, RunSpec, Speedrun, Store, modern
from palinode.data.source import prepare, resolve
from palinode.run.one import run_one

TEXT = "".join(f"The {n}th of {n * n % 97} small birds said {n % 7} words.\n" for n in range(400))
WINDOW = 32


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The run's `spec`, its `store`, and the validation `text` that it scored: 15 whole windows."""
    folder = tmp_path_factory.mktemp("used")
    corpus = folder / "birds.txt"
    corpus.write_text(TEXT)
    data = DataConfig(
        corpus=str(corpus), split="contiguous", window_tokens=WINDOW, validation_fraction=0.1, test_fraction=0.0
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PALINODE_CACHE", str(folder / "cache"))
        spec = RunSpec(
            data=resolve(data),
            model=modern(layers=2, width=16, heads=2),
            objective=BothObjective(p=0.5),
            recipe=Speedrun(steps=20, batch_windows=4, evaluate_every_steps=None),
            evaluation=EvaluationConfig(max_tokens=WINDOW * 15),
            seed=1,
        )
        store = Store(folder / "runs")
        run_one(spec, store)
        text = bytes(prepare(spec.data).tokens("validation")[: WINDOW * 15].tolist()).decode()
    corpus.unlink()
    return SimpleNamespace(spec=spec, store=store, text=text)
