"""Writes docs/tasks.md: every synthetic task with an example, chance, trivial levels and floor. Run: python docs/tasks.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import torch

from palinode.base import fsio
from palinode.base.seeds import generator
from palinode.data.tasks import (
    TASKS,
    Addition,
    AssociativeRecall,
    Compression,
    Copy,
    Counting,
    Grammar,
    Hierarchy,
    InductionHead,
    MadFuzzyRecall,
    MadNoisyRecall,
    MadRecall,
    Majority,
    MarkovLanguage,
    Memorisation,
    MultiQueryRecall,
    Parity,
    ProductLanguage,
    Reversal,
    Reversed,
    SelectiveCopy,
    Task,
    XorLanguage,
)
from palinode.data.tasks.baselines import baselines
from palinode.data.tasks.splits import repeated_share

PAGE = Path(__file__).parent / "tasks.md"
SMALL: tuple[Task, ...] = (  # one of each kind, short enough to be read
    AssociativeRecall(vocabulary=8, length=10),
    InductionHead(vocabulary=8, length=9),
    MultiQueryRecall(vocabulary=12, length=14, pairs=3),
    MadRecall(vocabulary=6, length=14),
    MadNoisyRecall(vocabulary=6, length=14, noise=0.3, noise_vocabulary=3),
    MadFuzzyRecall(vocabulary=9, length=21),
    SelectiveCopy(vocabulary=7, length=15, content_tokens=4),
    Compression(vocabulary=6, length=6),
    Memorisation(vocabulary=11, pairs=6),
    Copy(vocabulary=6, length=5),
    Reversal(vocabulary=6, length=5),
    Parity(length=8),
    Majority(length=8),
    Counting(alphabet=3, length=8),
    Addition(digits=3),
    MarkovLanguage(states=5, length=12),
    XorLanguage(bits=6),
    ProductLanguage(digits=2),
    Hierarchy(symbols=4, productions=2, levels=3),
    Grammar(nonterminals=3, rules=2, terminals=4, length=14),
    Reversed(of=AssociativeRecall(vocabulary=8, length=10)),
)
MOST_SEQUENCES = 4000
FRESH = 100_000  # of draws, for repeats
MOST_ANSWERS = 60_000
HEAD = """# Synthetic tasks

Made by `python docs/tasks.py`: no number on this page is typed by hand. A task is chosen by its kind, `from palinode.data.tasks
import AssociativeRecall`; every field of its config is described in its class. One of your own:
[adding.md](adding.md#a-task).

Sequences include their answers; `^` marks the answers below. Which tokens are trained on is the label mask, what may be read is the
objective: a task is the same for all of them. Splits are by a hash of the prompt, so that train, tuning, validation and test share
none. Training reads fresh draws, or epochs over a fixed number of sequences (`train_sequences`). Fresh draws are independent: a
task with few prompts shows some of them again (`again` below). `with_length(2)` is the task twice as long with everything else as
it was; `Reversed(of=task)` is its mirror image: ltr on it is rtl on the original.

As the data of an experiment, here trained and scored on the answers alone:

```python
from palinode import EvaluationConfig, LtrObjective, RunSettings, Speedrun, TaskData, modern
from palinode.data.tasks import AssociativeRecall

settings = RunSettings(
    data=TaskData(task=AssociativeRecall(vocabulary=10, length=20)),
    model=modern(layers=2, width=32, heads=2),
    objective=LtrObjective(),  # or MaskedObjective(): the answers hidden, everything else seen
    labels="answer",  # or "all", "last": which targets are trained on
    recipe=Speedrun(steps=200),
    evaluation=EvaluationConfig(directions=("ltr",), labels="answer", length_factors=(2, 4)),
)
```

`Decision(metric="validation.own.accuracy", better="higher", ...)` compares accuracies. Charts of an accuracy on answers draw
chance, the best level that needs no learning (dashed), the levels of the simplest guessers, unigram, bigram, copy last and most
recent value (thin; those within 0.01 of another share its rule), and the best possible; of longer sequences chance alone is known.
A guesser sees what the run sees: the tokens that its own pass reads before an answer, or without a direction the whole prompt. It
counts no more sequences than `train_sequences`.

Labels and objectives go together freely: labels change what is scored, never what is hidden or read. A masked language model
(`hide_answers=False`) scores a labelled token where chance has hidden it; a batch in which nothing is scored takes a step that
changes nothing, counted in `empty_steps`. Pairs that could never score anything are refused, such as `answer` where the answer is
the token read first and there is no direction token to read it from.

Accuracies are also told by slice: by the `gap` to where an answer was seen, of every answer its own, by `pairs`, the number of
different keys in a sequence, and by others that a task has.
"""
LEVELS = """## Levels

The default config of each task. Chance is a uniform guess among the legal answers; the other accuracies are measured on
{sequences} sequences (fewer where there are many answers), so that the third digit is noise. `unigram`: the most frequent answer;
`bigram`: the answer most frequent after the token before; `position`: a copy from the best fixed place; `recent`: the last token
that may be an answer; `mode`: the most frequent such token; `cache n`: what last followed the same n tokens in the sequence.
Numbers in brackets are the very skill that is asked for (`solved_by`) and no level to beat; an accuracy at the level of any other
guess is no evidence of it. `floor` is the least mean loss over all tokens but the first, read ltr or rtl, in nats a token; `best`
the highest accuracy over them read ltr; `again` the expected share of {fresh} fresh draws whose prompt came before, or more where
some prompts are likelier than others; empty where not known.
"""
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
    for task in SMALL:
        lines += example(task)
    lines.append(LEVELS.format(sequences=MOST_SEQUENCES, fresh=f"{FRESH:,}"))
    lines += levels([cls() for kind, cls in TASKS.items() if kind != Reversed.kind])
    return "\n".join(lines) + "\n"


def example(task: Task) -> Iterator[str]:
    """A heading, the first line of its class, and one sequence with its answers marked."""
    sample = task.sample(1, generator(1, "page"))
    tokens = [str(token) for token in sample.tokens[0].tolist()]
    marks = ["^" if asked else "" for asked in sample.answers[0].tolist()]
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
        found = baselines(task, fit, fresh)
        floors = [task.floor_nats_all_tokens(direction) for direction in ("ltr", "rtl")]
        accuracies = [f"({found[name]:.3f})" if name in task.solved_by else f"{found[name]:.3f}" for name in COLUMNS]
        known = (*floors, task.best_accuracy_all_tokens(), repeated_share(task, FRESH))
        numbers = [
            f"{task.chance():.3f}",
            *accuracies,
            *("" if number is None else f"{number:.3f}" for number in known),
        ]
        yield (
            "| " + " | ".join([f"`{task.kind_name()}`", str(task.vocab_size), str(task.length_tokens), *numbers]) + " |"
        )


def sequences(task: Task) -> int:
    asked = int(task.sample(1, generator(0, "page")).answers.sum())
    return min(MOST_SEQUENCES, MOST_ANSWERS // asked)


if __name__ == "__main__":
    main()
