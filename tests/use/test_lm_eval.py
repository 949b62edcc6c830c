"""lm-eval reads an exported folder and finds the numbers of `palinode.load`. It is no dependency: `pip install lm-eval==0.4.13`."""

import importlib.util
import json

import numpy as np
import pytest

import palinode
from palinode import DataConfig, LtrObjective, Store, gpt2
from palinode.data.pairs import Pair
from palinode.data.source import resolve
from palinode.run.one import run_one

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore:run .* AUDIT COULD NOT TELL")]
TEXTS = ("The 3th of 9 small", "birds said", "words.\nThe 4th of 16")
PAIRS = [
    ("The 3th of 9 birds", "ehT 3th fo 9 dribs"),
    ("said 4 words.", "sdia 4 rwods."),
    ("lamls dribs", "small birds"),
]
TASK = """
task: pairs
dataset_path: json
dataset_kwargs: {data_files: {test: PATH}}
test_split: test
output_type: multiple_choice
doc_to_text: ""
target_delimiter: ""
doc_to_target: 0
doc_to_choice: "{{[sentence_good, sentence_bad]}}"
metric_list: [{metric: acc}]
"""


@pytest.fixture(params=["GPT2LMHeadModel", "PalinodeForCausalLM"])
def exported(request, run, tmp_path_factory, monkeypatch):
    """A loaded model, and a function that reads its exported folder with lm-eval."""
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("needs lm-eval, which is no dependency")
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("exported")
    spec, store = run.spec, run.store
    if request.param == "GPT2LMHeadModel":
        (folder / "text.txt").write_text(run.text * 20)
        monkeypatch.setenv("PALINODE_CACHE", str(folder / "cache"))
        data = resolve(DataConfig(corpus=str(folder / "text.txt"), split="contiguous", window_tokens=32))
        spec = spec.with_(data=data, model=gpt2(layers=2, width=16, heads=2), objective=LtrObjective())
        store = Store(folder / "runs")
        run_one(spec, store)
    model = palinode.load(spec.run_id, store)
    out = model.to_hf(folder / "out")
    assert json.loads((out / "config.json").read_text())["architectures"] == [request.param]
    options = {"pretrained": str(out), "device": "cpu", "dtype": "float32", "batch_size": 1, "backend": "causal"}
    return model, lambda **more: HFLM(**options, trust_remote_code=request.param[:3] != "GPT", **more)


def likelihoods(theirs, kind, *arguments):
    from lm_eval.api.instance import Instance

    requests = [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]
    found = getattr(theirs, kind)(requests, disable_tqdm=True)
    return np.array([one[0] if isinstance(one, tuple) else one for one in found])


def test_texts_within_a_window_have_our_nats(exported):
    model, read = exported
    theirs, ours = read(), np.array([model.nats(text).nats_sum for text in TEXTS])
    assert likelihoods(theirs, "loglikelihood_rolling", *((text,) for text in TEXTS)) == pytest.approx(-ours, abs=1e-4)
    assert likelihoods(theirs, "loglikelihood", *(("", text) for text in TEXTS)) == pytest.approx(-ours, abs=1e-4)


def test_a_text_after_a_context_has_our_score(exported):
    model, read = exported
    pairs = [("The 3th of", " 9 small"), ("birds said 4", " words.")]
    found = likelihoods(read(add_bos_token=True), "loglikelihood", *pairs)
    assert found == pytest.approx(-model.score(pairs), abs=1e-4)


def test_a_task_of_pairs_has_our_accuracy(exported, tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    model, read = exported
    lines = [json.dumps({"sentence_good": good, "sentence_bad": bad}) for good, bad in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    (tmp_path / "pairs.yaml").write_text(TASK.replace("PATH", str(tmp_path / "pairs.jsonl")))
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(read(), tasks=["pairs"], task_manager=tasks, bootstrap_iters=0, log_samples=False)
    won = model.won([Pair("", "", good, bad) for good, bad in PAIRS])
    assert 0 < won.mean() < 1
    assert found["results"]["pairs"]["acc,none"] == pytest.approx(won.mean())
