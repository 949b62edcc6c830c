"""Objectives: an objective makes an Example from windows of tokens.

The table `OBJECTIVES` lists the built-in objectives; a user's own class is passed as an object.
"""

from collections.abc import Mapping

from palinode.base.objective import Objective as Objective
from palinode.base.objective import Progress as Progress
from palinode.objectives.directional import BothObjective as BothObjective
from palinode.objectives.directional import ChooseObjective as ChooseObjective
from palinode.objectives.directional import LtrObjective as LtrObjective
from palinode.objectives.directional import RtlObjective as RtlObjective
from palinode.objectives.masked_input import BottleneckObjective as BottleneckObjective
from palinode.objectives.masked_input import MaskedInputObjective as MaskedInputObjective
from palinode.objectives.masked_input import MaskedObjective as MaskedObjective

OBJECTIVES: Mapping[str, type[Objective]] = {
    cls.kind: cls
    for cls in (
        LtrObjective,
        RtlObjective,
        BothObjective,
        ChooseObjective,
        MaskedObjective,
        MaskedInputObjective,
        BottleneckObjective,
    )
}
