"""`palinode cut`: what was recorded, or measured now from the weights; deeper than the model is one line and exit 2."""

import json
from pathlib import Path

import pytest

from palinode import DataConfig, EvaluationConfig, Gpt2AdamW, LtrObjective, RunSpec, Store, gpt2
from palinode.run.one import run_one
from palinode.train.schedule import Cosine


def trained(evaluation) -> str:
    spec = RunSpec(
        data=DataConfig(corpus=str(Path("text.txt").absolute()), split="contiguous", window_tokens=16),
        model=gpt2(layers=2, width=16, heads=2),
        objective=LtrObjective(),
        recipe=Gpt2AdamW(steps=6, batch_windows=2, evaluate_every_steps=None, schedule=Cosine(warmup_steps=1)),
        evaluation=evaluation,
        seed=1,
    )
    run_one(spec, Store("runs"))
    return spec.run_id


def test_recorded_and_measured_agree(palinode):
    recorded = trained(EvaluationConfig(max_tokens=300, layer_cut=True, layer_cut_refit_steps=2))
    run = trained(EvaluationConfig(max_tokens=300))
    first = json.loads(palinode("cut", recorded, "--json").out)["validation"]
    second = json.loads(palinode("cut", run, "--json").out)["validation"]
    assert first["scores"] == second["scores"]
    assert [row["blocks"] for row in first["scores"]["ltr"]] == [1, 2]
    assert (set(first["refitted"]), second["refitted"]) == ({"ltr", "rtl"}, {})
    output = palinode("cut", recorded)
    assert output.code == 0
    assert sum("refitted" in line for line in output.out.splitlines()) == 4
    assert f"{first['scores']['rtl'][0]['nats_per_token']:.4f}" in output.out
    for blocks in ("3", "0", "1000000"):
        output = palinode("cut", recorded, "--blocks", blocks)
        assert (output.code, output.out) == (2, "")
        assert output.err.splitlines() == [f"blocks: the model has 2 blocks, so it cannot keep {blocks} (1 to 2)"]
    assert len(json.loads(palinode("cut", recorded, "--blocks", "1", "--json").out)["validation"]["scores"]["ltr"]) == 1


@pytest.mark.parametrize("arguments", [("cut",), ("cut", "zz"), ("cut", "zz", "--blocks", "x")])
def test_refusals_are_one_line(palinode, arguments):
    Store("runs").create()
    output = palinode(*arguments)
    assert (output.code, output.out, len(output.err.splitlines())) == (2, "", 1)
