"""`[store] keep = "weights"`: a run that is done keeps its last weights, and the rest of its checkpoints goes."""

import pytest
from tiny_run import tiny_spec

from palinode.base.errors import BadInput
from palinode.base.user_settings import kept_of_done_runs
from palinode.data.source import prepare
from palinode.results.store import Store
from palinode.results.verify import verify
from palinode.run.one import new_training, run_one
from palinode.train.checkpoint import load_newest, load_weights, weights_sha256


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "palinode" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def test_a_run_that_is_done_keeps_its_last_weights_alone(corpus, settings, tmp_path):
    settings.write_text('[store]\nkeep = "weights"\n')
    spec, store = tiny_spec(corpus, 20, None), Store(tmp_path / "runs")
    result = run_one(spec, store)
    root = store.run_directory(spec.run_id) / "ckpt"
    assert sorted(path.name for path in root.rglob("*.*")) == ["manifest.json", "model.safetensors"]
    training = new_training(spec, prepare(spec.data))
    load_weights(root / "step-20", training.model)
    assert weights_sha256(training.model) == result.weights_sha256
    assert not verify(store).damaged
    saved, problems = load_newest(root, spec.run_id, training.model, training.optimizers)
    assert saved is None
    assert "keeps the weights alone" in problems[0]


def test_such_a_run_whose_metrics_are_damaged_is_trained_again_from_the_start(corpus, settings, tmp_path):
    settings.write_text('[store]\nkeep = "weights"\n')
    spec, store = tiny_spec(corpus, 20, None), Store(tmp_path / "runs")
    first = run_one(spec, store)
    (store.run_directory(spec.run_id) / "metrics-1.jsonl").write_text("")
    assert store.ended(spec.run_id) is None
    again = run_one(spec, store)
    assert (again.weights_sha256, again.scores) == (first.weights_sha256, first.scores)
    assert store.ended(spec.run_id) is not None


def test_without_a_setting_everything_is_kept(settings):
    assert kept_of_done_runs() == "all"
    settings.write_text("[executor.lab]\nkind = 'slurm'\n")
    assert kept_of_done_runs() == "all"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[store]\nkeep = 'weigths'", "did you mean 'weights'"),
        ("[store]\nkep = 'all'", "unknown key 'kep'"),
        ("[store]\nkeep = 3", "3 is not known"),
        ("store = 1", "is not a table"),
        ("[store", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(settings, text, says):
    settings.write_text(text)
    with pytest.raises(BadInput) as caught:
        kept_of_done_runs()
    assert says in str(caught.value)
    assert str(settings) in str(caught.value)
