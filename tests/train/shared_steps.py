"""Takes steps of one training on several processes: `python shared_steps.py CASES.json`, where each case names its processes.

The processes of a case are forked from this one, so that torch is imported once. Process 0 of each case writes what it measured.
"""

import json
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tiny_training import WINDOW_TOKENS, make_training

from palinode.base.example import SpecialTokens
from palinode.evaluate.losses import Scoring, evaluate
from palinode.models import MODELS, HfModel
from palinode.models.encoder_decoder import EncoderDecoderConfig
from palinode.models.latent import LatentConfig
from palinode.objectives import OBJECTIVES, LtrObjective, RtlObjective
from palinode.run.shared_scoring import scored_by
from palinode.train import processes
from palinode.train.checkpoint import Saved, load_newest, save_checkpoint
from palinode.train.cut import whole
from palinode.train.loop import Counters, DivergedError, batch_examples, take_step
from palinode.train.optim import build_optimizers


@dataclass(frozen=True)
class Case:
    """What one training does.

    Attributes:
        processes: 0 for the product's own loop in one process.
        wrong: a fault that is planted in the shared step; empty for none.
        load, save: a directory of checkpoints to go on from, and to write to at the end.
        evaluate: the number of batches to score after the last step, by all processes and by this one alone; 0: none.
        source, train: the folder of an open model, for the model `hf`, and what of it is trained.
    """

    processes: int = 0
    parallel: str = "ddp"
    steps: int = 4
    dtype: str = "float64"
    recipe: str = "speedrun"
    objective: str = ""
    model: str = ""
    wrong: str = ""
    load: str = ""
    save: str = ""
    labels: str = "all"
    dropout: bool = True
    changes: tuple = ()
    evaluate: int = 0
    source: str = ""
    train: str = "all"


class Varying(LtrObjective):
    """Scores a third of the tokens, so that the number of scored tokens differs from micro-batch to micro-batch."""

    kind = ""

    def example(self, windows, draw, specials):
        example = super().example(windows, draw, specials)
        return replace(example, loss_weight=example.loss_weight * (example.targets % 3 == 0))


def training_of(case):
    training = make_training(case.recipe, **{"micro_batches": 4, "batch_windows": 8, **dict(case.changes)})
    if case.objective == "varying":
        training.objective, training.objective_state = Varying(), {}
    elif case.objective:
        training.objective = OBJECTIVES[case.objective]()
        training.objective_state = training.objective.state()
    if case.model:
        sizes = {
            "encoder_decoder": EncoderDecoderConfig(width=16, heads=2),
            "latent": LatentConfig(layers=2, width=64),
            "hf": HfModel(source=case.source, train=case.train, lora_rank=2),
        }
        config = sizes.get(case.model) or MODELS[case.model](layers=2, width=16, heads=2)
        training.model = config.build(SpecialTokens(32).vocab_size, WINDOW_TOKENS, 3)
    training.labels = case.labels
    training.model.to(getattr(torch, case.dtype))
    recipe = training.recipe
    training.optimizers = build_optimizers(recipe.optimizer, training.model, training.model.parameter_groups())
    if case.load:
        saved, problems = load_newest(Path(case.load), "0" * 16, training.model, training.optimizers)
        assert saved is not None, problems
        training.counters = Counters(**saved.counters)
        training.objective_state, training.recipe_state = dict(saved.objective_state), dict(saved.recipe_state)
    training.model.train()
    return training


def forget_the_factor(shared):
    """Plant the fault: gradients are divided by W."""
    shared._scale = lambda: 1.0
    if shared.parallel == "fsdp2":
        for part in shared.module.modules():
            if isinstance(part, processes.FSDPModule):
                part.set_gradient_divide_factor(float(shared.group.count))


def steps_of(case, group=None):
    torch.set_num_threads(1)
    training = training_of(case)
    shared = processes.SharedTraining.of(training, group, case.parallel) if group is not None else None
    if shared is not None and case.wrong == "factor":
        forget_the_factor(shared)
    rows = []
    for _ in range(case.steps):
        if shared is None:
            report = take_step(training)
        else:
            if case.wrong == "denominator":
                own = batch_examples(training, group.own(training.reads().parts))
                ours = sum(example.denominator for example in own) or 1.0
                shared.group = _OwnDenominator(group, ours)
            report = shared.take_step()
        total = sum(report.nats_by_group[name] for name in sorted(report.nats_by_group))
        rows.append({"loss": total, "norm": report.gradient_norm, "auxiliary": report.auxiliary})
    scores = _scores(case, shared) if shared is not None and case.evaluate else []
    weights = [whole(parameter.detach()).double().flatten() for parameter in training.model.parameters()]
    counters = {**vars(training.counters)}
    if case.save:
        tensors = Saved(
            run_id="0" * 16,
            step=training.step,
            counters=counters,
            objective_state=training.objective_state,
            recipe_state=training.recipe_state,
        )
        leads = group is None or group.leads
        place = Path(case.save) if leads else Path(tempfile.mkdtemp())
        save_checkpoint(place, tensors, training.model, training.optimizers, 2)
    return {"rows": rows, "weights": torch.cat(weights).tolist(), "counters": counters, "scores": scores}


def _scores(case, shared):
    """The scores of the batches by all processes, and by this process alone with a copy of the whole weights."""
    alone = training_of(case).model
    shared.fill(alone)
    passes = {"ltr": LtrObjective(), "rtl": RtlObjective()}
    scoring = Scoring(shared.training.specials, np.ones(32, dtype=np.int64), 5)
    found = []
    for model, score in ((shared.training.model, scored_by(shared)), (alone, None)):
        windows = (shared.training.windows.read(3 * number, 3) for number in range(case.evaluate))
        evaluation = evaluate(model, windows, passes, scoring, score=score)
        found.append({"rows": evaluation.as_rows(), "windows": evaluation.window_nats})
    return found


class _OwnDenominator:
    """A group that adds up the denominators of this process alone, times W: the fault `own denominator`."""

    def __init__(self, group, ours):
        self._group, self._ours, self._calls = group, ours, 0
        self.rank, self.count, self.leads = group.rank, group.count, group.leads
        self.own, self.tick = group.own, group.tick

    def in_order(self, own):
        found = self._group.in_order(own)
        self._calls += 1
        if self._calls > 1:  # the first call of a step adds up the denominators
            return found
        rows = sum(each for _, each in found)
        return [(self._ours * self.count, rows)]


def in_process(case, rank, place, output):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(case.processes))
    dist.init_process_group("gloo", store=dist.FileStore(place, case.processes), rank=rank, world_size=case.processes)
    try:
        found = steps_of(case, processes.Group())
    except DivergedError as error:
        found = {"diverged": str(error)}
    dist.barrier()
    Path(f"{output}.{rank}").write_text(json.dumps(found))


def measured(case):
    """What each process of the case measured."""
    if not case.processes:
        return [steps_of(case)]
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(case.processes):
            if (child := os.fork()) == 0:
                try:
                    in_process(case, rank, f"{folder}/store", f"{folder}/out")
                    os._exit(0)
                except BaseException:  # noqa: BLE001 - a forked process must not go on with the work of its parent
                    traceback.print_exc()
                finally:
                    os._exit(1)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            return [{"failed": codes}]
        return [json.loads(Path(f"{folder}/out.{rank}").read_text()) for rank in range(case.processes)]


def main():
    cases = {name: Case(**case) for name, case in json.loads(Path(sys.argv[1]).read_text()).items()}
    found = {name: measured(case) for name, case in cases.items() if case.processes}
    found |= {name: measured(case) for name, case in cases.items() if not case.processes}  # forks come first
    print(json.dumps(found))


if __name__ == "__main__":
    main()
