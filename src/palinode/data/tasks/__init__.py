"""Synthetic tasks: their sequences and answers, their chance and trivial levels, and their floor where it is known.

The table at the end lists all built-in tasks; a user's own class is passed as an object.
"""

from collections.abc import Mapping

from palinode.data.tasks.base import Language as Language
from palinode.data.tasks.base import Reversed as Reversed
from palinode.data.tasks.base import Sample as Sample
from palinode.data.tasks.base import Task as Task
from palinode.data.tasks.languages import Grammar as Grammar
from palinode.data.tasks.languages import Hierarchy as Hierarchy
from palinode.data.tasks.languages import MarkovLanguage as MarkovLanguage
from palinode.data.tasks.languages import ProductLanguage as ProductLanguage
from palinode.data.tasks.languages import XorLanguage as XorLanguage
from palinode.data.tasks.mad import Compression as Compression
from palinode.data.tasks.mad import MadFuzzyRecall as MadFuzzyRecall
from palinode.data.tasks.mad import MadNoisyRecall as MadNoisyRecall
from palinode.data.tasks.mad import MadRecall as MadRecall
from palinode.data.tasks.mad import Memorisation as Memorisation
from palinode.data.tasks.mad import SelectiveCopy as SelectiveCopy
from palinode.data.tasks.recall import AssociativeRecall as AssociativeRecall
from palinode.data.tasks.recall import InductionHead as InductionHead
from palinode.data.tasks.recall import MultiQueryRecall as MultiQueryRecall
from palinode.data.tasks.strings import Addition as Addition
from palinode.data.tasks.strings import Copy as Copy
from palinode.data.tasks.strings import Counting as Counting
from palinode.data.tasks.strings import Majority as Majority
from palinode.data.tasks.strings import Parity as Parity
from palinode.data.tasks.strings import Reversal as Reversal

TASKS: Mapping[str, type[Task]] = {
    cls.kind: cls
    for cls in (
        AssociativeRecall,
        InductionHead,
        MultiQueryRecall,
        MadRecall,
        MadNoisyRecall,
        MadFuzzyRecall,
        SelectiveCopy,
        Compression,
        Memorisation,
        Copy,
        Reversal,
        Parity,
        Majority,
        Counting,
        Addition,
        MarkovLanguage,
        XorLanguage,
        ProductLanguage,
        Hierarchy,
        Grammar,
        Reversed,
    )
}
