"""Many runs for one question: the same systems on fewer samples, with other seeds."""

from flowclf.studies.jobs import Outcome
from flowclf.studies.low_data import LowData, Plan, plan_low_data, run_low_data
from flowclf.studies.rows import averages

__all__ = ["LowData", "Outcome", "Plan", "averages", "plan_low_data", "run_low_data"]
