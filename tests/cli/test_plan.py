"""`palinode plan`: the numbers are those the runs will show."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_experiment import TOML

from palinode.plan import makespan


def planned(palinode, *options: str) -> dict:
    told = palinode("plan", "x.toml", "--json", *options)
    assert told.code == 0, told.err
    return json.loads(told.out)


def test_counters_follow_from_the_spec(palinode):
    Path("x.toml").write_text(TOML)
    data = planned(palinode, "--no-measure")
    ltr, both = data["cells"]
    windows = 4 * 2
    assert ltr["window_tokens"] == both["window_tokens"] == windows * 16
    assert ltr["tokens_read"] == windows * 16
    assert both["tokens_read"] == pytest.approx(windows * 16 * 1.5)
    assert ltr["tokens_scored_ltr"] == both["tokens_scored_ltr"] == windows * 16
    assert both["train_flops"] == pytest.approx(1.5 * ltr["train_flops"])
    assert (data["runs"], data["runs_left"], data["predicted_seconds"]) == (4, 4, None)
    assert data["disk_bytes"] > 4 * 12 * ltr["parameters"]
    first, second = data["warnings"]
    assert first.startswith("both at base: tokens_read +50.0%")
    assert "train_flops +50%" in second


def test_equal_arms_give_no_warning(palinode):
    text = TOML.replace('kind = "both"', 'kind = "choose"').replace("[decision]", '[decision]\nequal = "tokens_read"')
    Path("x.toml").write_text(text)
    data = planned(palinode, "--no-measure")
    (warning,) = data["warnings"]
    assert warning == "both at base also differs from ltr in tokens_scored_ltr -50%"


def test_parameters_are_those_of_the_model(palinode):
    from palinode.models.decoder import DecoderConfig

    Path("x.toml").write_text(TOML)
    model = DecoderConfig(layers=1, width=16, heads=2).build(256 + 11, 16, seed=1)
    assert planned(palinode, "--no-measure")["cells"][0]["parameters"] == sum(p.numel() for p in model.parameters())


def test_seconds_are_measured_and_shared_between_workers(palinode):
    Path("x.toml").write_text(TOML)
    data = planned(palinode, "--workers", "4")
    each = [cell["seconds"] for cell in data["cells"]]
    assert all(seconds > 0 for seconds in each)
    assert data["predicted_seconds"] == pytest.approx(max(each))
    text = palinode("plan", "x.toml", "--no-measure").out
    assert "4 of 4 runs are left to do" in text
    assert "warning: both" in text


@given(st.lists(st.floats(0, 1e4), max_size=20), st.integers(1, 8))
def test_makespan_is_between_its_bounds(seconds, workers):
    wall = makespan(seconds, workers)
    assert wall >= max([0.0, *seconds, sum(seconds) / workers - 1e-6])
    assert wall <= sum(seconds) / workers + max([0.0, *seconds]) + 1e-6
    assert makespan(seconds, 1) == pytest.approx(sum(seconds))
