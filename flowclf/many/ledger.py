"""The ledger of a sweep: optuna's journal in its folder, a trial for each run that has ended."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowclf.support.atomic_files import locked
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from optuna.storages import JournalStorage

__all__ = ["Ledger", "OptunaMissing"]

STUDY = "sweep"


class OptunaMissing(UserError):
    """Nothing can be read of a ledger."""


class Ledger:
    """Which runs of a folder have ended, and how; no run has two entries of the same end.

    A trial is added once its run is over, never before: whatever is killed, none is left running.
    Its parameters are the settings that vary and are numbers, its value is the error on the test
    split; user attributes: `run`, and `reason` of a failed one. Open it as any other of optuna's:
    optuna.load_study(study_name="sweep", storage=JournalStorage(JournalFileBackend(path))).

    Args:
        folder: of the sweep.

    Raises:
        OptunaMissing: optuna is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "ledger.log"

    def record(
        self,
        run: str,
        varied: Mapping[str, Any],
        *,
        accuracy: float | None = None,
        reason: str | None = None,
    ) -> None:
        """Add the end of a run, unless it is there: its accuracy, or the reason of its failure."""
        optuna = _optuna()
        numbers = {key: float(v) for key, v in varied.items() if isinstance(v, int | float)}
        finite = {key: v for key, v in numbers.items() if abs(v) < float("inf")}
        distributions = {
            key: optuna.distributions.FloatDistribution(value, value)
            for key, value in finite.items()
        }
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState[("FAIL" if reason else "COMPLETE")],
            params=finite,
            distributions=distributions,
            value=None if accuracy is None else 1 - accuracy,
            user_attrs={"run": run} | ({"reason": reason} if reason else {}),
        )
        with locked(self.folder, wait=60.0):
            self._drop_torn_line()
            if self.ends().get(run, "") != reason:
                storage = self._storage()
                # Even create_study's load_if_exists would write a line.
                if not storage.get_all_studies():
                    optuna.create_study(study_name=STUDY, storage=storage, direction="minimize")
                optuna.load_study(study_name=STUDY, storage=storage).add_trial(trial)

    def ends(self) -> dict[str, str | None]:
        """The last end of each run: why it failed, None of one that has been completed.

        Raises:
            UserError: a damaged ledger.
        """
        if not self.path.exists():
            return {}
        optuna = _optuna()
        try:
            storage = self._storage()
            # None: whoever was about to write the first line was killed.
            if not storage.get_all_studies():
                return {}
            study = optuna.load_study(study_name=STUDY, storage=storage)
            return dict(_end(trial.user_attrs) for trial in study.get_trials(deepcopy=False))
        except OSError:
            raise
        # optuna believes what it reads, and fails where that turns out to be wrong.
        except Exception as error:
            raise UserError(
                f"{self.path} is damaged: expected optuna's journal of a sweep, got "
                f"{type(error).__name__}; remove it, and start the sweep's command again"
            ) from error

    def failures(self) -> dict[str, str]:
        """Runs that failed and have not been completed since, with the reason."""
        return {run: reason for run, reason in self.ends().items() if reason is not None}

    def _drop_torn_line(self) -> None:
        """What a killed writer left, which optuna passes over while it is the last of all."""
        if self.path.exists():
            with self.path.open("rb+") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)

    def _storage(self) -> JournalStorage:
        """The journal as it is now; to write, the folder must be held."""
        _optuna()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        class Held(JournalFileOpenLock):
            """Writers take turns by `locked`, which the kernel frees: optuna's own lock outlives a
            killed process."""

            def acquire(self) -> bool:
                return True

            def release(self) -> None:
                return None

        return JournalStorage(JournalFileBackend(str(self.path), lock_obj=Held(str(self.path))))


def _end(attributes: Mapping[str, Any]) -> tuple[str, str | None]:
    run, reason = attributes["run"], attributes.get("reason")
    if not isinstance(run, str) or not isinstance(reason, str | None):
        raise TypeError
    return run, reason


def _optuna() -> Any:
    try:
        with warnings.catch_warnings():
            # For want of Jupyter's widgets, which its progress bars would use: there are none here.
            warnings.filterwarnings("ignore", "IProgress not found")
            import optuna
    except ImportError:
        raise OptunaMissing("a sweep's ledger needs optuna: pip install 'flowclf[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
