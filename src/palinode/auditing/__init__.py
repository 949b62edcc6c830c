"""Which audits an arm, a trained run and a finished experiment get: the audit's checks, handed the real trainer and evaluator."""

from palinode.auditing.arms import AuditedArm as AuditedArm
from palinode.auditing.arms import audit_arm as audit_arm
from palinode.auditing.runs import audit_comparison as audit_comparison
from palinode.auditing.runs import audit_trained as audit_trained
