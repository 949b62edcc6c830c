"""Resume from checkpoints of a finished run, in this new process, and print the final hash of each continuation.

Usage: resume_worker.py RECIPE CHECKPOINT_ROOT EVERY (every how many steps, from step 1)
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from tiny_training import make_training

from palinode.train.checkpoint import load_newest, newest_first, weights_sha256
from palinode.train.loop import Counters, train

recipe, root, every = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
for checkpoint in newest_first(root)[::-1][::every]:
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(checkpoint, Path(scratch) / checkpoint.name)
        training = make_training(recipe)
        saved, problems = load_newest(Path(scratch), "run", training.model, training.optimizers)
        assert saved is not None
        assert not problems
        training.counters = Counters(**saved.counters)
        training.objective_state, training.recipe_state = saved.objective_state, saved.recipe_state
        train(training, after_step=lambda report: None)
        print(saved.step, weights_sha256(training.model), training.counters.passes, training.objective_state["p"])
