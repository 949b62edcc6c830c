"""The recall experiment asks what it says it asks: pairs of arms that differ in one thing, the same trials for each."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from palinode.base.config import diff
from palinode.base.seeds import generator
from palinode.data.source import prepare
from palinode.models.direction import logits_for
from palinode.objectives import Progress
from palinode.objectives.label_mask import masked
from palinode.run.one import build_model
from palinode.spec.load import load
from palinode.spec.tuning import trials

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
START = Progress()


@pytest.fixture(scope="module")
def experiment():
    return load(EXPERIMENTS / "recall.py").experiment


@pytest.fixture(scope="module")
def laptop(experiment):
    return experiment.resolve("laptop")


def parts(arm):
    mixer, visibility, labels = arm.rsplit("-", 2)
    return mixer, visibility, labels


def test_laptop_asks_all_that_was_to_be_asked(experiment, laptop):
    cells = {parts(arm.name) for arm in laptop.arms}
    ways = {("causal", "all"), ("causal", "answer"), ("full", "answer")}
    every_way = {mixer for mixer, _, _ in cells if {(v, labels) for m, v, labels in cells if m == mixer} == ways}
    assert len(every_way) == 8
    assert {(v, labels) for mixer, v, labels in cells if mixer not in every_way} == {("causal", "all")}
    [r3] = [claim for claim in experiment.claims if claim.name == "R3"]
    assert {mixer for mixer, v, labels in cells if (v, labels) == ("causal", "all")} == set(r3.groups)
    assert len(r3.groups) == 12
    vocabularies = {laptop.settings(laptop.arms[0].name, scale).data.task.vocabulary for scale in laptop.scales}
    assert vocabularies == {10}
    assert len(laptop.seeds) == 6  # of 5, no p value of one kind of model could be below .05 / 8
    tried = Counter((run.spec.data.task.vocabulary, run.arm.partition(" at ")[0]) for run in trials(laptop).runs)
    assert len(tried) == len(laptop.arms) * len(laptop.scales)
    assert len(set(tried.values())) == 1, "as many trials for every arm"


@pytest.mark.parametrize("size", ["smoke", "laptop", "gpu", "paper"])
def test_arms_of_one_mixer_differ_in_what_their_names_say(experiment, size):
    resolved = experiment.resolve(size)
    for scale in resolved.scales:
        of_arm = {parts(arm.name): resolved.settings(arm.name, scale) for arm in resolved.arms}
        for (mixer, visibility, labels), settings in of_arm.items():
            assert settings.labels == labels
            assert settings.evaluation.labels == "answer"
            assert settings.objective.reads_in_a_direction == (visibility == "causal")
            other = of_arm.get((mixer, visibility, "answer" if labels == "all" else "all"), settings)
            allowed = {"labels"} if visibility == "causal" else {"labels", "objective.rate"}
            assert {path for path, _, _ in diff(settings, other)} <= allowed
            across = of_arm.get((mixer, "full" if visibility == "causal" else "causal", labels), settings)
            paths = {path for path, _, _ in diff(settings, across)}
            assert all(path.startswith(("objective", "model.mixer")) for path in paths), paths


def test_what_an_arm_trains_on_is_what_its_labels_say(laptop):
    """The answer alone, or all tokens."""
    scored = {}
    for arm in laptop.arms:
        settings = laptop.settings(arm.name, laptop.scales[0])
        data = prepare(settings.data)
        model, specials = build_model(settings, data, 1)
        windows = data.training(settings.data.window_tokens, 1).read(0, 8)
        draw = settings.objective.draw(8, settings.data.window_tokens, generator(1, "objective"), START)
        example = settings.objective.example(windows.tokens, windows.decisions(draw), specials)
        example = masked(example, windows, settings.labels)
        with torch.no_grad():
            assert torch.isfinite(logits_for(model, example)).all(), arm.name
        scored.setdefault(parts(arm.name)[1:], set()).add(int(example.loss_weight.count_nonzero()))
    tokens = laptop.settings(laptop.arms[0].name, laptop.scales[0]).data.window_tokens
    assert scored == {("causal", "all"): {8 * tokens}, ("causal", "answer"): {8}, ("full", "answer"): {8}}


def test_the_mixers_on_text_are_those_of_the_causal_arms(laptop):
    text = load(EXPERIMENTS / "recall_text.py").experiment.resolve("laptop")
    for arm in text.arms:
        ours = laptop.settings(f"{arm.name}-causal-all", laptop.scales[0]).model
        assert text.settings(arm.name, text.scales[0]).model == ours
