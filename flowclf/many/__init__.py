"""Many runs for one question: grids of settings and of sample sizes that survive being killed."""

from flowclf.many.audit import Audit, audit
from flowclf.many.grid import Plan, Point, Sweep, parse_betas, parse_grid, plan_sweep, read_plan
from flowclf.many.jobs import Outcome
from flowclf.many.low_data import LowData, plan_low_data, run_low_data
from flowclf.many.run import State, run_sweep, states, sweep_rows
from flowclf.many.table import averages

__all__ = [
    "Audit",
    "LowData",
    "Outcome",
    "Plan",
    "Point",
    "State",
    "Sweep",
    "audit",
    "averages",
    "parse_betas",
    "parse_grid",
    "plan_low_data",
    "plan_sweep",
    "read_plan",
    "run_low_data",
    "run_sweep",
    "states",
    "sweep_rows",
]
