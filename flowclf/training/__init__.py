"""Training: the loop, its batches, optimiser and checkpoints."""

from flowclf.training.guard import TrainingDiverged
from flowclf.training.interrupt import Interrupted
from flowclf.training.loop import Trained
from flowclf.training.progress import progress_bar
from flowclf.training.start import train

__all__ = ["Interrupted", "Trained", "TrainingDiverged", "progress_bar", "train"]
