"""The question of each family of checks in plain words: the text of docs/checks.md, and the folded text in a report."""

from __future__ import annotations

from dataclasses import dataclass

from palinode.checks.laws import LAWS

DOCS_PAGE = "docs/checks.md"
OPENING = """# The checks

An audit asks whether a result may be believed. A check has a code: the family (C1 to C9) and, after a dot, one question of it, such
as `C2.canary`. Its outcome is one of three:

- **pass**: the law holds, and a planted fault would have been seen.
- **fail**: the law is broken. The message says where: a pair of positions, a step, a file.
- **could not tell**: the check could not measure. This is no pass: the verdict lists it.

Most checks carry a positive control: a fault that the check plants itself and has to find. Where it does not find its own fault,
the outcome is "could not tell". `palinode audit FILE` prints every finding. The report of an experiment prints them under "Audit",
with the numbers and the words "To see it again" that say which seed, length and pass give the same finding.

The times are of a model of 100,000 to 1,000,000 parameters on one CPU core.
"""


@dataclass(frozen=True)
class Explanation:
    """One family of checks.

    Attributes:
        asks: the question of the family.
        how: the method that answers the question.
        blind: the faults that the family cannot see.
        time: how long the checks take.
        failure: how to read a failure.
    """

    code: str
    title: str
    asks: str
    how: str
    blind: str
    time: str
    failure: str

    @property
    def laws(self) -> dict[str, str]:
        """Check -> the law that must hold, for every check of the family."""
        return {check: law for check, law in LAWS.items() if code_of(check) == self.code}

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """The rows (heading, text), in the order of printing."""
        return (
            ("What it asks", self.asks),
            ("How", self.how),
            ("What it cannot see", self.blind),
            ("How long it takes", self.time),
            ("How to read a failure", self.failure),
        )


EXPLANATIONS = (
    Explanation(
        "C1",
        "Information flow",
        "Which tokens of a window move the prediction of which other tokens? A prediction may not depend on the token it "
        "predicts, nor on any token that the objective forbids (`may_inform`).",
        "One token of a window is replaced, everything is built again with the same random decisions, and the logits are "
        "compared. This is done on a copy of the real model in float64, with weights that leave every path open, at many "
        "lengths and for every pass that the objective makes.",
        "A leak that needs trained weights (so the check runs again after training), content that random ids never hold, state "
        "that is kept from one window to the next, and a `may_inform` that is itself wrong.",
        "1 to 30 seconds an arm; the longest windows take most of it.",
        "The message names the pass, the source and the target: `target 3 sees itself` means that the model reads the answer at "
        "position 3. Look at the mask, the shift between inputs and targets, and the padding. A failure of `two-sided` is no "
        "leak: the model does not use a token that it may use.",
    ),
    Explanation(
        "C2",
        "Canary training",
        "Can a small copy of the model, trained with the real objective, predict what nobody can predict?",
        "The copy is trained on random tokens whose true probabilities are known. Before each step it bets on the next batch. "
        "A model that sees only what it may cannot win such bets, except by luck. The alarm is set where luck has a "
        "probability of at most one in 1,000,000,000 (ln E = 20.7). A second language, a Markov chain, shows whether the model "
        "uses what it is allowed to see.",
        "Leaks that a small model does not learn to use within the steps of the canary, such as one wrong position at a great "
        "distance. C1 sees those.",
        "5 to 40 seconds an arm; more for models without a fast pass over a whole row.",
        "A failure of `canary`, `markov`, `frozen` or `neighbours` means that the model won: something gives it the answer. The "
        "message tells the pass and at which update the alarm came. The earlier, the wider the leak. A failure of "
        "`markov-excess` is no leak: the model stays above what it could reach, so a mask may be too strict or a shift wrong.",
    ),
    Explanation(
        "C3",
        "Evaluation is repeatable and leaves no trace",
        "Does an evaluation give the same numbers twice, and does it leave model, optimizer and random generators as they were?",
        "The same weights are evaluated twice, in batches of several sizes and in another order. Two short trainings, one with "
        "an evaluation after every step and one without, have to end with the same bits.",
        "What differs between machines, and kernels that are not used at the small size of the check.",
        "A few seconds an arm.",
        "The message names the first value or state that differs. Common causes: dropout in evaluation, a random generator "
        "that training and evaluation share, a mean over batches instead of a sum over tokens.",
    ),
    Explanation(
        "C4",
        "Held-out text is not in the train text",
        "Is anything of the validation or test split also in the train split?",
        "Every window of the held-out splits is searched in the train text at every position, by a hash. Shared n-grams are "
        "counted and compared with what two parts of the train text share: that is natural for the text.",
        "A paraphrase, a translation, and anything the tokenizer's own training text held.",
        "Linear in the size of the text: about a second for a million tokens. Done once for all arms with the same data.",
        "The message gives the places of the longest match. Documents that occur twice are the usual cause: remove the copies "
        "or split by document.",
    ),
    Explanation(
        "C5",
        "Equal budget",
        "Did every arm get the budget that its settings say, and are the arms equal where the experiment says so?",
        "The counters of the finished runs are compared with what their settings imply, and with each other: tokens, steps, "
        "FLOPs, parameters, tuning trials, evaluations.",
        "Costs that no counter counts, such as time spent by a person, or trials outside the experiment.",
        "Well below a second: it only reads what the runs recorded.",
        "A failure of `declared_axis` means that the comparison is not the one that was declared; the verdict repeats it. A "
        "failure of `runs` means that runs are missing. `differences` never fails: it lists what else differs.",
    ),
    Explanation(
        "C6",
        "Step by step and in one pass",
        "Does a model say the same while it writes, token by token, as it says of the finished text in one pass?",
        "Prompts of different lengths are continued token by token, each alone. Then all of them are read in one pass, and the "
        "logits are compared. Models that keep a state between steps are also fed in chunks.",
        "Faults that appear only beyond the lengths that are tried.",
        "1 to 10 seconds an arm.",
        "The two ways differ, so one of them reads something the other does not: a look into the future, a wrong cache, or "
        "positions and padding that depend on the length.",
    ),
    Explanation(
        "C7",
        "Auxiliary terms that vanish",
        "Did an auxiliary term get small because two states came to agree, or because both states vanished?",
        "The term is measured with its true pairs and with pairs shuffled across rows. Before training, the term is trained on "
        "two unrelated random states, which cannot come to agree. After training, the values that the run logged are read.",
        "A term that collapses between two logged steps and comes back.",
        "A few seconds an arm that has such a term; no time for the others.",
        "The term fell together with the shuffled pairs or with the gains of its norms: its value does not mean what its name "
        "says. The losses of the run are honest. Remove the trainable gain, or stop the gradient on one side.",
    ),
    Explanation(
        "C8",
        "Losses that are too good",
        "Is a loss lower than an honest model can reach?",
        "After training, the losses of a run on text are compared with two others: the ltr loss on the same text, because reading "
        "a text from its end is never easier, and the loss that counting n-grams reaches. Runs on tasks are not compared.",
        "A leak that helps only a little: the limits are wide.",
        "About a second for the n-grams of a million tokens, once; then nothing.",
        "`directions`: rtl is far below ltr, so rtl reads its answers. `text_floor`: the model is far better than "
        "counting, at a size where that does not happen. A message that starts with `warning:` passes, and is worth a look.",
    ),
    Explanation(
        "C9",
        "Labels, shifts and sums",
        "Is each target the token that its slot has to predict, and are losses added up correctly?",
        "Losses are computed again by hand from the logits, in numpy with float64, and compared with what the trainer and the "
        "evaluator report. Targets are compared with the inputs at their own slots.",
        "A shift that is declared wrongly and applied just as wrongly; C2 sees that as a model above its floor.",
        "1 to 3 seconds an arm.",
        "`copies` means that targets are not shifted against the inputs. `sum_over_sum` means that a mean of means is "
        "taken where batches differ in their number of scored tokens. `initial_loss` means that an untrained model already "
        "knows something, or that its head is not what it is declared to be.",
    ),
)


def code_of(check: str) -> str:
    """The family of a check: `C1` of `C1.perturbation`."""
    return check.partition(".")[0]


def explanation(code: str) -> Explanation | None:
    """The explanation of a family of checks; None for a code that is not in the table, such as the code of a user's own check."""
    return next((one for one in EXPLANATIONS if one.code == code), None)


def as_markdown() -> str:
    """The text of the page docs/checks.md, made from the table."""
    pieces = [OPENING]
    for one in EXPLANATIONS:
        rows = "\n\n".join(f"**{heading}.** {text}" for heading, text in one.rows)
        parts = "\n".join(f"| `{check}` | {law} |" for check, law in one.laws.items())
        pieces.append(f"## {one.code}: {one.title}\n\n{rows}\n\n| check | what has to hold |\n|---|---|\n{parts}\n")
    return "\n".join(pieces)
