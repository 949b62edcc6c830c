"""Writes docs/tasks.md: every synthetic task with an example, chance, trivial levels and floor. Run: python docs/tasks.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from palinode.base import fsio
from palinode.base.config import decode
from palinode.base.seeds import generator
from palinode.data.tasks import TASKS, Memorisation, MultiQueryRecall, Reversed, SelectiveCopy, Task
from palinode.data.tasks.baselines import Sees, baselines
from palinode.data.tasks.splits import repeated_share

PAGE = Path(__file__).parent / "tasks.md"
SMALL: dict[str, dict[str, Any]] = {  # options by kind that make sequences short enough to read
    "associative-recall": {"vocabulary": 8, "length": 10},
    "induction-head": {"vocabulary": 8, "length": 9},
    "mqar": {"vocabulary": 12, "length": 14, "pairs": 3},
    "mad-recall": {"vocabulary": 6, "length": 14},
    "mad-noisy-recall": {"vocabulary": 6, "length": 14, "noise": 0.3, "noise_vocabulary": 3},
    "mad-fuzzy-recall": {"vocabulary": 9, "length": 21},
    "mad-selective-copy": {"vocabulary": 7, "length": 15, "content_tokens": 4},
    "mad-compression": {"vocabulary": 6, "length": 6},
    "mad-memorisation": {"vocabulary": 11, "pairs": 6},
    "copy": {"vocabulary": 6, "length": 5},
    "reversal": {"vocabulary": 6, "length": 5},
    "parity": {"length": 8},
    "majority": {"length": 8},
    "counting": {"alphabet": 3, "length": 8},
    "addition": {"digits": 3},
    "markov": {"states": 5, "length": 12},
    "xor": {"bits": 6},
    "product": {"digits": 2},
    "hierarchy": {"symbols": 4, "productions": 2, "levels": 3},
    "grammar": {"nonterminals": 3, "rules": 2, "terminals": 4, "length": 14},
    "reversed": {"of": {"kind": "associative-recall", "vocabulary": 8, "length": 10}},
}
MOST_SEQUENCES = 4000
FRESH = 100_000  # of draws, for repeats
MOST_ANSWERS = 60_000
HEAD = """# Synthetic tasks

`python docs/tasks.py` writes this page: no number is typed by hand. A task is chosen by its kind, or in Python by its class:
`from palinode.data.tasks import AssociativeRecall`. The class describes every option. [adding.md](adding.md#a-task) shows how
to write a task of your own.

A sequence contains its answers; `^` marks each answer in the examples below. The labels of a run say which tokens the run is
trained on, and its objective says what the model may read; neither of them changes the task. A hash of the prompt decides the
split, so train, tuning, validation and test share no prompt. Training reads newly drawn sequences, or reads a fixed number of
sequences (`train_sequences`) in epochs. New draws are independent, so a task with few prompts draws some prompts more than once
(the column `again` below). `task.with_length(2)` is the same task with sequences twice as long. `Reversed(of=task)` is the task
with the order of its tokens reversed: an ltr pass over it is an rtl pass over the original task.

A task as the data of an experiment, in which only the answers are trained and scored:

```python
from palinode import EvaluationConfig, LtrObjective, RunSettings, Speedrun, TaskData, modern
from palinode.data.tasks import AssociativeRecall

settings = RunSettings(
    data=TaskData(task=AssociativeRecall(vocabulary=10, length=20)),
    model=modern(layers=2, width=32, heads=2),
    objective=LtrObjective(),  # or MaskedObjective(): hides the answers and shows everything else
    labels="answer",  # or "all", "last": the targets that the model is trained on
    recipe=Speedrun(steps=200),
    evaluation=EvaluationConfig(directions=("ltr",), labels="answer", length_factors=(2, 4)),
)
```

Charts of an accuracy on answers show chance, the best level that needs no learning (dashed), and the best possible accuracy. They
also show the levels of the simplest guessers, unigram, bigram, copy last and most recent value, as thin lines; levels that
differ by at most 0.01 share a line. For sequences longer than those of training, only chance is known. A guesser sees what the
run's model sees: the tokens that the model's own pass reads before an answer, or the whole prompt if this pass has no
direction. A guesser is fitted on at most `train_sequences` sequences.

Labels and objectives are independent: labels change what is scored, never what is hidden or read. A masked language model
(`hide_answers=False`) scores a labelled token only if the random mask hides this token. If nothing in a batch is scored, the
step changes nothing and is counted in `empty_steps`. Palinode refuses a combination that could never score anything: for
example, the labels `answer` for a task whose only answer is read first, if no direction token comes before this answer.

Accuracies are also given by slice: by `gap`, the distance from an answer back to the place where the answer was shown before;
by `pairs`, the number of different keys in a sequence; and by other numbers that a task has.
"""
LEVELS = """## Levels

Each row shows the default config of a task. Chance is the accuracy of a uniform guess among the legal answers. The other
accuracies are measured on {sequences} sequences (on fewer if a sequence has many answers), so the third digit is noise. The
guessers: `unigram`, the most frequent answer; `bigram`, the answer that most often follows the token before it; `position`, a
copy of the token at the best fixed place; `recent`, the last token that is a legal answer; `mode`, the most frequent token that
is a legal answer; `cache n`, the token that last followed the same n tokens in the sequence. A number in brackets is the level
of a guesser that uses the very skill that the task tests (`solved_by`); a model need not beat this level. A model that is only
as good as another guesser shows no sign of this skill. `floor ltr` and `floor rtl` are the least possible mean loss over all
tokens except the token that is read first, in nats per token; `best` is the best possible accuracy of an ltr model over all
tokens except the first; `again` is the expected share of {fresh} new draws that repeat an earlier prompt (the true
share is higher if some prompts are likelier than others). A cell is empty if the number is not known.
"""
PUBLISHED = """
## Published inputs

In their published form, the inputs of `mqar`, `mad-selective-copy` and `mad-memorisation` do not contain the answers: an answer is
only a target. Here a sequence contains its answers. So an ltr or rtl pass reads earlier answers, and if a key comes twice, the
pass can copy its value from the first time.

| objective | the model reads | comparable with published numbers |
|---|---|---|
| `LtrObjective()`, `RtlObjective()` | the answers before the one it predicts | no; compare it with other runs of Palinode |
| `MaskedInputObjective(rate=0.0, hide_answers=True)` | `[MASK]` in place of every answer, left to right | yes, for a causal model |
| `MaskedObjective()` | `[MASK]` in place of every answer, from both sides | yes, for a model without a direction |

Set `labels = "answer"` in the run and in its evaluation as well: the published loss and accuracy are those of the answers alone.
Two differences remain. First, Palinode has `[MASK]` in the places where the published tasks have an insert token, a blank or
filler. Second, the causal form predicts an answer from the slot of the token before the answer, as the published `mqar` does;
the two published MAD tasks predict an answer from the slot of the hidden answer itself. With `as_published = true`,
`mad-selective-copy` draws its blanks as the published task does.

The table shows the levels of both forms, measured on {sequences} sequences (on fewer if a sequence has many answers); the
section Levels explains the columns. `best` is the best possible accuracy on answers of a model that has seen {few} training
sequences. In a row with `shown`, a model can also copy the value of a key that came earlier in the sequence, and `cache 1` is
the level of a guesser that only copies in this way.
"""
FEW = 256  # training sequences of the ceilings: the fewest of the published runs
HIDING: tuple[tuple[str, Task], ...] = (  # options as a reader would write them, and the task
    ("", MultiQueryRecall()),
    ("as_published = true", SelectiveCopy(as_published=True)),
    ("", Memorisation()),
    ("pairs = 128", Memorisation(pairs=128)),
    ("vocabulary = 8192", Memorisation(vocabulary=8192)),
)
FORMS: dict[str, Sees] = {"shown": "before", "hidden": "prompt_before"}
COLUMNS = {
    "unigram": "unigram",
    "bigram": "bigram",
    "position_only": "position",
    "most_recent_value": "recent",
    "in_context_mode": "mode",
    "cache_1": "cache 1",
    "cache_2": "cache 2",
    "cache_3": "cache 3",
}


def main() -> None:
    fsio.write_text(PAGE, page())


def page() -> str:
    """The whole page."""
    torch.set_num_threads(1)
    lines = [HEAD]
    for kind, cls in TASKS.items():
        lines += example(decode(cls, SMALL[kind]))
    lines.append(PUBLISHED.strip("\n").format(sequences=MOST_SEQUENCES, few=FEW))
    lines += [*published_inputs(), ""]
    lines.append(LEVELS.format(sequences=MOST_SEQUENCES, fresh=f"{FRESH:,}"))
    lines += levels([cls() for kind, cls in TASKS.items() if kind != Reversed.kind])
    return "\n".join(lines) + "\n"


def example(task: Task) -> Iterator[str]:
    """A heading, the first line of its class, and one sequence with its answers marked."""
    sample = task.sample(1, generator(1, "page"))
    tokens = [str(token) for token in sample.tokens[0].tolist()]
    marks = ["^" if is_answer else "" for is_answer in sample.answers[0].tolist()]
    width = max(map(len, tokens))
    yield f"## `{task.kind_name()}`"
    yield ""
    yield (inspect.getdoc(type(task)) or "").partition("\n")[0]
    yield ""
    yield "```"
    yield " ".join(token.rjust(width) for token in tokens)
    yield " ".join(mark.rjust(width) for mark in marks).rstrip()
    yield "```"
    yield ""


def levels(tasks: list[Task]) -> Iterator[str]:
    """One row for each task."""
    names = ["task", "ids", "tokens", "chance", *COLUMNS.values(), "floor ltr", "floor rtl", "best", "again"]
    yield "| " + " | ".join(names) + " |"
    yield "|---|" + "--:|" * (len(names) - 1)
    for task in tasks:
        fit, fresh = (task.sample(sequences(task), generator(seed, "page")) for seed in (2, 3))
        shares = baselines(task, fit, fresh)
        floors = [task.floor_nats_all_tokens(direction) for direction in ("ltr", "rtl")]
        accuracies = [f"({shares[name]:.3f})" if name in task.solved_by else f"{shares[name]:.3f}" for name in COLUMNS]
        optional = (*floors, task.best_accuracy_all_tokens(), repeated_share(task, FRESH))
        numbers = [
            f"{task.chance():.3f}",
            *accuracies,
            *("" if number is None else f"{number:.3f}" for number in optional),
        ]
        cells = [f"`{task.kind_name()}`", str(task.vocab_size), str(task.length_tokens), *numbers]
        yield "| " + " | ".join(cells) + " |"


def published_inputs() -> Iterator[str]:
    """Two rows for each task whose published input hides the answers: with the answers in the input, and without."""
    yield ""
    yield "| task | options | answers in the input | chance | " + " | ".join(COLUMNS.values()) + " | best |"
    yield "|---|---|---|" + "--:|" * (len(COLUMNS) + 2)
    for options, task in HIDING:
        fit, fresh = (task.sample(sequences(task), generator(seed, "page")) for seed in (2, 3))
        ceilings = {"shown": task.best_answer_accuracy(FEW), "hidden": task.best_hidden_accuracy(FEW)}
        for form, sees in FORMS.items():
            shares = baselines(task, fit, fresh, sees)
            numbers = [f"{value:.3f}" for value in (task.chance(), *(shares[name] for name in COLUMNS), ceilings[form])]
            named = f"`{options}`" if options else ""
            yield "| " + " | ".join([f"`{task.kind_name()}`", named, form, *numbers]) + " |"


def sequences(task: Task) -> int:
    """How many sequences the levels of a task are measured on."""
    answers = int(task.sample(1, generator(0, "page")).answers.sum())
    return min(MOST_SEQUENCES, MOST_ANSWERS // answers)


if __name__ == "__main__":
    main()
