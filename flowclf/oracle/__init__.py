"""Worlds whose truth is known: data drawn from a trained flow, with the exact p(y|x) beside them.

>>> world = flowclf.oracle.World(flowclf.load("runs/wine"))
>>> x, y = world.draw(1000, seed=0)
>>> world.judge(anybody.log_posterior(x), x, y)       # how far from the truth, and from calibration
"""

from flowclf.oracle.world import Judgement, World, calibration_error

__all__ = ["Judgement", "World", "calibration_error"]
