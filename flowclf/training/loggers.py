"""Loggers of a training's history beside metrics.jsonl, by Lightning's classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flowclf.config import RunConfig, flatten
from flowclf.runs import Run
from flowclf.support.errors import UserError

__all__ = ["log_row", "make_loggers"]


def make_loggers(names: Sequence[str], run: Run, config: RunConfig) -> list[Any]:
    """Return a logger of each name, which writes below the folder of the run.

    csv: logs/csv/metrics.csv; tensorboard: logs/tensorboard, for `tensorboard --logdir`; wandb and
    mlflow: a run of their own, named like the folder, with the settings as its parameters.

    Raises:
        UserError: the package that a logger needs is not installed.
    """
    return [_made(name, run, config) for name in names]


def log_row(loggers: Sequence[Any], row: dict[str, Any]) -> None:
    """Log the numbers of a row of the history, by names such as "train/total"."""
    parts = {key: value if isinstance(value, dict) else {"": value} for key, value in row.items()}
    flat = {f"{k}/{n}".rstrip("/"): v for k, part in parts.items() for n, v in part.items()}
    numbers = {name: value for name, value in flat.items() if isinstance(value, int | float)}
    for logger in loggers:
        logger.log_metrics(numbers, step=row["step"])


def _made(name: str, run: Run, config: RunConfig) -> Any:
    folder = run.folder / "logs"
    try:
        logger = LOGGERS[name](str(folder), run.folder.name)
    except (ImportError, ModuleNotFoundError):
        raise UserError(
            f"expected {name} to be installed for train.logger={name}; pip install {name}, or "
            "train.logger=csv"
        ) from None
    if name in ("wandb", "mlflow"):
        logger.log_hyperparams(flatten(config.to_dict()))
    return logger


def _csv(folder: str, name: str) -> Any:
    from lightning.fabric.loggers.csv_logs import CSVLogger

    return CSVLogger(folder, name="csv", version="", flush_logs_every_n_steps=1)


def _tensorboard(folder: str, name: str) -> Any:
    from lightning.fabric.loggers.tensorboard import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="")


def _wandb(folder: str, name: str) -> Any:
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(name=name, save_dir=folder, project="flowclf")


def _mlflow(folder: str, name: str) -> Any:
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger("flowclf", run_name=name, save_dir=f"{folder}/mlflow")


LOGGERS: dict[str, Callable[[str, str], Any]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
