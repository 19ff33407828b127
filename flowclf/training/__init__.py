"""Training: the loop, its batches, optimiser and checkpoints."""

from flowclf.training.guard import TrainingDiverged, check_inverse
from flowclf.training.interrupt import Interrupted
from flowclf.training.loop import Trained
from flowclf.training.progress import progress_bar
from flowclf.training.start import train

__all__ = [
    "Interrupted",
    "Trained",
    "TrainingDiverged",
    "check_inverse",
    "progress_bar",
    "train",
]
