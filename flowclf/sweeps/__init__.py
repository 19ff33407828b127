"""One system at many settings: a grid of runs that survives being killed."""

from flowclf.sweeps.grid import Plan, Point, Sweep, parse_betas, parse_grid, plan_sweep, read_plan
from flowclf.sweeps.ledger import Ledger
from flowclf.sweeps.rows import sweep_rows
from flowclf.sweeps.run import run_sweep
from flowclf.sweeps.state import State, states

__all__ = [
    "Ledger",
    "Plan",
    "Point",
    "State",
    "Sweep",
    "parse_betas",
    "parse_grid",
    "plan_sweep",
    "read_plan",
    "run_sweep",
    "states",
    "sweep_rows",
]
