"""Experiments as data: the experiment that a researcher writes, and the runs that the experiment resolves to."""

from palinode.base.decision import Decision as Decision
from palinode.spec.experiment import Arm as Arm
from palinode.spec.experiment import Experiment as Experiment
from palinode.spec.experiment import ResolvedExperiment as ResolvedExperiment
from palinode.spec.experiment import Scale as Scale
from palinode.spec.experiment import Size as Size
from palinode.spec.load import load as load
from palinode.spec.run_spec import EvaluationConfig as EvaluationConfig
from palinode.spec.run_spec import RunSettings as RunSettings
from palinode.spec.run_spec import RunSpec as RunSpec
