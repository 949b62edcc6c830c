"""A good experiment as TOML, to be broken in one place at a time."""

import os
from pathlib import Path

TOML = """\
name = "tiny"
question = "Does it help?"
seeds = [1, 2]

[base.data]
corpus = "text.txt"
split = "contiguous"
window_tokens = 16

[base.model]
kind = "decoder"
layers = 1
width = 16
heads = 2

[base.objective]
kind = "ltr"

[base.recipe]
kind = "gpt2-adamw"
steps = 4
batch_windows = 2
[base.recipe.optimizer]
kind = "adamw"
learning_rate = 0.001
[base.recipe.schedule]
kind = "cosine"
warmup_steps = 1

[base.evaluation]
max_tokens = 400

[[arms]]
name = "ltr"

[[arms]]
name = "both"
[arms.change]
objective = { kind = "both", p = { kind = "constant", p = 0.5 } }

[decision]
baseline = "ltr"
"""


def everything_in(directory: Path) -> dict[str, bytes | None]:
    """Every path below a directory with its content (links and special files without)."""
    result: dict[str, bytes | None] = {}
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder) / name
            result[str(path)] = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    return result
