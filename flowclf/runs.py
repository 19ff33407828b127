"""Run folders: config, metrics, weights, figures, summary."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import ValidationError
from torch import nn

from flowclf.config import NAMES, RECORDED, RunConfig, configure, flatten
from flowclf.data import Dataset, Reading, TextOptions, absolute_name, load_dataset
from flowclf.data.extractors import Extractor, module_extractor
from flowclf.data.features import Features
from flowclf.settings import DataFacts, Precision
from flowclf.support.atomic_files import (
    append_line,
    check_new,
    locked,
    remove_parts,
    write_json,
    write_text,
)
from flowclf.support.errors import UserError, first_line
from flowclf.support.parse import parse_json, read_json, read_text, read_yaml, yaml_text

__all__ = ["Run", "facts_of", "load_data", "new_run_folder"]

VERSIONS = ("flowclf", "torch", "numpy", "lightning")
# Last line of config.yaml: the sha256 of all above.
IDENTITY = "sha256: "


class _File:
    """Path of a file in the folder of a run."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: Run, owner: type[Run]) -> Path:
        return run.folder / self.name


@dataclass(frozen=True)
class Run:
    """Folder of one run, with its files."""

    folder: Path
    config_file: ClassVar = _File("config.yaml")  # complete settings, versions and commit
    metrics_file: ClassVar = _File("metrics.jsonl")  # one JSON line per evaluation
    weights_file: ClassVar = _File("model.safetensors")
    checkpoint_file: ClassVar = _File("checkpoint/state.safetensors")  # all that resuming needs
    previous_checkpoint_file: ClassVar = _File("checkpoint/previous.safetensors")  # while it runs
    best_file: ClassVar = _File("checkpoint/best.safetensors")  # weights best in validation
    progress_file: ClassVar = _File("progress.json")  # how far the training is
    figures: ClassVar = _File("figures")
    vocabulary_file: ClassVar = _File("vocabulary.txt")  # the words of a run on texts
    features_file: ClassVar = _File("features.safetensors")  # components of a run on features
    summary_file: ClassVar = _File("summary.json")  # system, data, seed, seconds and test metrics
    evaluation_file: ClassVar = _File("evaluation.json")  # results of `flowclf evaluate`
    failure_file: ClassVar = _File("failed.json")  # why the run failed, until it is tried again

    @property
    def has_checkpoint(self) -> bool:
        """True if there is something to resume from."""
        return self.checkpoint_file.is_file() or self.previous_checkpoint_file.is_file()

    def remove_parts(self) -> None:
        """Delete what a killed training left half written; only by who holds the folder's lock."""
        files = (
            self.config_file, self.vocabulary_file, self.features_file, self.metrics_file,
            self.checkpoint_file, self.best_file, self.weights_file, self.progress_file,
            self.summary_file, self.failure_file,
        )  # fmt: skip
        for file in files:
            remove_parts(file)

    def write_config(
        self, config: RunConfig, facts: DataFacts, precision: Precision | None = None
    ) -> None:
        """Write config.yaml, with the precision that the run is in where that is known."""
        document = config.to_dict() | {
            "data_facts": facts.model_dump(mode="json"),
            **({"precision": precision} if precision else {}),
            "versions": {name: version(name) for name in VERSIONS},
            "commit": git_commit(),
        }
        text = yaml_text(document)
        write_text(self.config_file, f"{text}{IDENTITY}{_sha256(text)}\n")

    def read_identity(self) -> str:
        """Return the sha256 of config.yaml, which weights and checkpoint name; empty: older.

        It is of all settings, of the facts and the digest of the data, of versions and commit.

        Raises:
            UserError: the folder is not a run, or its config.yaml is not what was written.
        """
        text, stated, rest = read_text(self.config_file).rpartition(f"\n{IDENTITY}")
        if not stated:
            return ""
        found = _sha256(f"{text}\n")
        if rest != f"{found}\n":
            raise UserError(
                f"{self.config_file} is damaged or was edited: its sha256 is not the one it was "
                f"written with; undo that, or train anew with --config {self.config_file} --out"
            )
        return found

    def check_identity(self, named: str, file: Path) -> None:
        """Check that a file, which names the identity of its run, belongs to this one.

        Raises:
            UserError: it is of another run, or config.yaml has been edited.
        """
        own = self.read_identity()
        if named != own:
            raise UserError(
                f"{file} belongs to another run than {self.config_file}: expected the identity "
                f"{own[:12] or 'none'}, got {named[:12] or 'none'}; put this run's own file back, "
                "or train anew with --out"
            )

    def check_settings(self, config: RunConfig) -> None:
        """Check that the folder is free, or holds a run of this configuration.

        Raises:
            UserError: it holds another run; names the first setting that differs.
        """
        if not self.config_file.exists():
            return
        old, new = (
            flatten(each.to_dict() | {"dataset": absolute_name(each.dataset)})
            for each in (self.read_config()[0], config)
        )
        if old != new:
            key = next(key for key in old | new if old.get(key) != new.get(key))
            raise UserError(
                f"{self.folder} has other settings: {key} is {old.get(key)!r} there, and "
                f"{new.get(key)!r} was asked for; choose another --out, or remove that run"
            )

    def check_data(self, dataset: Dataset) -> None:
        """Check that a data set is the one that the run was begun on.

        Raises:
            UserError: other samples, labels or names of classes.
        """
        config, facts = self.read_config()
        found = facts_of(dataset, facts.samples)
        if found.model_copy(update={} if facts.sha256 else {"sha256": None}) != facts:
            raise UserError(
                f"{config.dataset} is no longer the data that {self.folder} was trained on: "
                f"expected sha256 {(facts.sha256 or 'unknown')[:12]}, got {dataset.sha256[:12]}; "
                "put the old data back, or train anew with --out"
            )

    def read_config(self) -> tuple[RunConfig, DataFacts]:
        """Read what `write_config` wrote.

        Raises:
            UserError: the folder is not a run, or its config.yaml is damaged or was edited.
        """
        document = self.read_document()
        try:
            facts = DataFacts.model_validate(document["data_facts"])
            own: dict[str, Any] = {name: document[name] for name in NAMES}
            layers = [{k: v for k, v in document.items() if k not in (*NAMES, *RECORDED)}]
            config = configure(layers, **own)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = first_line(error)
            if isinstance(error, ValidationError):
                reason = ": ".join(["data_facts", *map(str, error.errors()[0]["loc"][:1])])
            raise UserError(
                f"{self.config_file} is damaged: {reason} is missing or wrong"
            ) from None
        self.read_identity()  # that all are what was written
        return config, facts

    def read_precision(self) -> Precision:
        """Read the precision that the run was started in; of an older one, that of its settings.

        Raises:
            UserError: the folder is not a run, or its config.yaml is damaged.
        """
        config, _ = self.read_config()
        found: Any = self.read_document().get("precision", config.train.precision)
        if found not in get_args(Precision):
            expected = ", ".join(get_args(Precision))
            raise UserError(
                f"{self.config_file} is damaged: expected precision to be one of {expected}, "
                f"got {found!r}"
            )
        return found

    def load_data(self, data_dir: Path | None = None, features: nn.Module | None = None) -> Dataset:
        """Load the data that the run was trained on; `features`: its module, where it was one.

        Raises:
            UserError: data that are gone or changed, or a module that is missing or another one.
        """
        dataset = load_data(self.read_config()[0], data_dir, self.read_features(features))
        self.check_data(dataset)
        return dataset

    def write_vocabulary(self, words: Sequence[str]) -> None:
        """Write vocabulary.txt, one word per line, of a run on texts."""
        write_text(self.vocabulary_file, "".join(f"{word}\n" for word in words))

    def read_vocabulary(self) -> tuple[str, ...]:
        """Read the words that the model's inputs stand for; none unless it was trained on texts."""
        file = self.vocabulary_file
        return tuple(read_text(file).splitlines()) if file.exists() else ()

    def read_features(self, module: nn.Module | None = None) -> Features | None:
        """Read what turns pictures or texts into the model's inputs; None: they are the inputs.

        Raises:
            UserError: a module that was handed in for the training, and now is not or is another.
        """
        file = self.features_file
        own = module_extractor(module) if module is not None else None
        return Features.read(file, own) if file.exists() else None

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        append_line(self.metrics_file, json.dumps(row))

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Read the lines of metrics.jsonl, but for a last one that was cut."""
        if self.metrics_file.exists():
            for line in read_text(self.metrics_file).splitlines(keepends=True):
                if line.endswith("\n"):
                    yield self._metrics(line)

    def keep_metrics_until(self, step: int) -> None:
        """Drop what an interrupted run wrote after its checkpoint, and the final evaluation."""
        kept = [r for r in self.read_metrics() if r["step"] <= step and "test" not in r]
        write_text(self.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        write_json(self.summary_file, summary)

    def write_evaluation(self, results: dict[str, Any]) -> None:
        """Write evaluation.json: these results, and older ones that they do not replace.

        Several processes may do so at once: none loses what another has written.
        """
        own = {"versions": {name: version(name) for name in VERSIONS}, "commit": git_commit()}
        with locked(self.folder, wait=60.0, name=".evaluation.lock"):
            write_json(self.evaluation_file, self.read_evaluation() | results | own)

    def read_evaluation(self) -> dict[str, Any]:
        """Read what `write_evaluation` wrote; empty where there is none."""
        file = self.evaluation_file
        return read_json(file) if file.exists() else {}

    def write_failure(self, reason: str) -> None:
        """Write failed.json."""
        write_json(self.failure_file, {"reason": reason})

    def read_failure(self) -> str | None:
        """Return the reason why the run failed; None where it has not."""
        if not self.failure_file.exists():
            return None
        reason = read_json(self.failure_file).get("reason")
        if not isinstance(reason, str) or not reason:
            raise UserError(
                f"{self.failure_file} is damaged: expected a reason, got {reason!r}; remove it"
            )
        return reason

    def read_summary(self) -> dict[str, Any]:
        """Read what `write_summary` wrote; empty where the run has not ended."""
        if not self.summary_file.exists():
            return {}
        summary = read_json(self.summary_file)
        if not isinstance(summary.get("test"), dict):
            raise UserError(f"{self.summary_file} is damaged: it has no 'test'; train the run anew")
        return summary

    def read_progress(self) -> dict[str, Any]:
        """Read how far the training is; empty where it has not reported."""
        if not self.progress_file.exists():
            return {}
        progress = read_json(self.progress_file)
        counts = [progress.get(name) for name in ("step", "epoch", "seconds", "steps")]
        if not all(isinstance(count, int | float) for count in counts) or not counts[-1]:
            raise UserError(f"{self.progress_file} is damaged: expected step and steps; remove it")
        return progress

    def read_document(self) -> dict[str, Any]:
        """Read all that config.yaml holds.

        Raises:
            UserError: the folder is not a run, or its config.yaml is damaged.
        """
        if not self.config_file.is_file():
            raise UserError(
                f"expected a run folder with a config.yaml, got {self.folder}; "
                "`flowclf train` makes one"
            )
        return read_yaml(self.config_file)

    def _metrics(self, line: str) -> dict[str, Any]:
        try:
            row = parse_json(line, finite=False)
            if isinstance(row["step"], int | float):
                return dict(row)
        except (ValueError, TypeError, KeyError):
            pass
        raise UserError(
            f"{self.metrics_file} is damaged: expected a JSON object with a step, got {line!r}"
        )


def load_data(
    config: RunConfig, data_dir: Path | None = None, features: Features | Extractor | None = None
) -> Dataset:
    """Load the data of a run's settings, which say how files of one's own are read.

    `features` are those of a run, or an extractor to fit them by; None: as the settings say.
    """
    data, text = config.data, None
    if Path(config.dataset).suffix.lower() == ".csv" and data.target is None:
        text = TextOptions(data.text, data.label, data.vocabulary, data.train_size, config.seed)
    if data.features is not None:
        from flowclf.data.featured import load_features

        return load_features(config.dataset, data, config.seed, data_dir, text, features)
    if text is not None:
        return load_dataset(config.dataset, data_dir, text=text)
    return load_dataset(config.dataset, data_dir, **asdict(Reading.of(data)))


def facts_of(dataset: Dataset, samples: int | None) -> DataFacts:
    """Return what a model must know of a data set, of which `samples` are trained on."""
    return DataFacts(
        shape=dataset.shape,
        levels=dataset.levels,
        class_names=dataset.class_names,
        feature_names=dataset.feature_names,
        samples=samples,
        features=None if dataset.features is None else dataset.features.summary,
        sha256=dataset.sha256,
    )


def new_run_folder(out: Path | None, name: str) -> Path:
    """Return `out`, or the next free runs/NAME-001; nothing is created.

    Raises:
        UserError: `out` holds something already.
    """
    if out is None:
        taken = (Path("runs") / f"{name}-{number:03d}" for number in range(1, 1000))
        return next(path for path in taken if not path.exists())
    check_new(out, f"choose another --out, or go on with --resume {out}")
    return out


def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from, or None outside of one.

    A repository around the place where the package is installed is not ours.
    """
    root = Path(__file__).resolve().parents[1]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 5, "env": own}
    try:
        result = subprocess.run(command, check=False, **options)
    except (OSError, subprocess.TimeoutExpired):
        return None
    top, _, commit = result.stdout.strip().rpartition("\n")
    ours = result.returncode == 0 and Path(top) == root and (root / "pyproject.toml").is_file()
    return commit if ours else None


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()
