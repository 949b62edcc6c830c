"""The recall experiment asks what it says it asks: pairs of arms that differ in one thing, the same trials for each."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from palinode.base.config import diff
from palinode.base.seeds import generator
from palinode.data.source import prepare
from palinode.models.direction import logits_for
from palinode.objectives import MaskedObjective, Progress
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


def test_laptop_asks_all_that_was_to_be_asked(laptop):
    cells = {parts(arm.name) for arm in laptop.arms}
    mixers = {mixer for mixer, _, _ in cells}
    assert len(mixers) >= 6
    assert cells == {(m, v, labels) for m in mixers for v in ("causal", "full") for labels in ("all", "answer")}
    vocabularies = {laptop.settings(laptop.arms[0].name, scale).data.task.vocabulary for scale in laptop.scales}
    assert vocabularies == {10, 30}
    assert len(laptop.seeds) == 5
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
            other = of_arm[mixer, visibility, "answer" if labels == "all" else "all"]
            allowed = {"labels"} if visibility == "causal" else {"labels", "objective.rate"}
            assert {path for path, _, _ in diff(settings, other)} <= allowed
            across = of_arm[mixer, "full" if visibility == "causal" else "causal", labels]
            paths = {path for path, _, _ in diff(settings, across)}
            assert all(path.startswith(("objective", "model.mixer")) for path in paths), paths


def test_what_an_arm_trains_on_is_what_its_labels_say(laptop):
    """The answer alone, all tokens, or without a direction the answer and 15 % of all tokens."""
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
    hidden = round(MaskedObjective(rate=0.15).rate * tokens)
    assert scored["causal", "all"] == {8 * tokens}
    assert scored["causal", "answer"] == scored["full", "answer"] == {8}
    [both] = scored["full", "all"]
    assert 8 * hidden <= both <= 8 * (hidden + 1), "the answer may be among the others"


def test_the_mixers_on_text_are_those_of_the_causal_arms(laptop):
    text = load(EXPERIMENTS / "recall_text.py").experiment.resolve("laptop")
    for arm in text.arms:
        ours = laptop.settings(f"{arm.name}-causal-all", laptop.scales[0]).model
        assert text.settings(arm.name, text.scales[0]).model == ours
