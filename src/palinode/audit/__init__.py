"""May this run be believed? `check` audits any torch module; other files choose the checks of an arm, a run and a comparison."""

from palinode.audit.any_model import CHECKS as CHECKS
from palinode.audit.any_model import CheckOptions as CheckOptions
from palinode.audit.any_model import audit_subject as audit_subject
from palinode.audit.any_model import check as check
from palinode.audit.arms import AuditedArm as AuditedArm
from palinode.audit.arms import audit_arm as audit_arm
from palinode.audit.palinode_models import subject_of_config as subject_of_config
from palinode.audit.runs import audit_comparison as audit_comparison
from palinode.audit.runs import audit_trained as audit_trained
from palinode.checks.canary import CanarySettings as CanarySettings
from palinode.checks.canary import check_canary as check_canary
from palinode.checks.flow import FlowSettings as FlowSettings
from palinode.checks.flow import check_flow as check_flow
from palinode.checks.stepwise import StepwiseSettings as StepwiseSettings
from palinode.checks.stepwise import check_stepwise as check_stepwise
from palinode.checks.subject import Subject as Subject
from palinode.checks.text import audit_text as audit_text
