"""Synthetic tasks: their sequences and answers, their chance levels and baselines, and their least possible loss if it is known.

The table TASKS lists all built-in tasks by kind. A task of a user's own class is passed as an object.
"""

from collections.abc import Mapping

from palinode.data.tasks.base import Language, Reversed, Sample, Task
from palinode.data.tasks.languages import Grammar, Hierarchy, MarkovLanguage, ProductLanguage, XorLanguage
from palinode.data.tasks.mad import Compression, MadFuzzyRecall, MadNoisyRecall, MadRecall, Memorisation, SelectiveCopy
from palinode.data.tasks.recall import AssociativeRecall, InductionHead, MultiQueryRecall
from palinode.data.tasks.strings import Addition, Copy, Counting, Majority, Parity, Reversal

__all__ = ["TASKS", "Language", "Reversed", "Sample", "Task"]
__all__ += ["AssociativeRecall", "InductionHead", "MultiQueryRecall"]
__all__ += ["Compression", "MadFuzzyRecall", "MadNoisyRecall", "MadRecall", "Memorisation", "SelectiveCopy"]
__all__ += ["Addition", "Copy", "Counting", "Majority", "Parity", "Reversal"]
__all__ += ["Grammar", "Hierarchy", "MarkovLanguage", "ProductLanguage", "XorLanguage"]

TASKS: Mapping[str, type[Task]] = {
    cls.kind: cls
    for cls in (
        *(AssociativeRecall, InductionHead, MultiQueryRecall),
        *(MadRecall, MadNoisyRecall, MadFuzzyRecall, SelectiveCopy, Compression, Memorisation),
        *(Copy, Reversal, Parity, Majority, Counting, Addition),
        *(MarkovLanguage, XorLanguage, ProductLanguage, Hierarchy, Grammar),
        Reversed,
    )
}
