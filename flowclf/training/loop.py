"""The training loop, visible, on lightning.fabric."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from couplings import Chain
from flowclf.classifier import GenerativeClassifier
from flowclf.config import RunConfig
from flowclf.data import Augmentation, Dataset, Split
from flowclf.evaluation import evaluate, evaluate_scaled
from flowclf.locks import locked
from flowclf.models import save_weights
from flowclf.runs import DataFacts, Run
from flowclf.seeding import derive_seed, private_rng
from flowclf.settings import CustomSettings
from flowclf.training.batches import Batches
from flowclf.training.checkpoint import load_checkpoint, save_checkpoint
from flowclf.training.guard import check_finite
from flowclf.training.interrupt import Interrupted, StopFlag, stop_on_signal
from flowclf.training.norm import reestimate_batch_norm
from flowclf.training.optimizer import (
    clip_gradients,
    make_optimizer,
    schedule_factor,
    set_learning_rates,
)
from flowclf.training.position import Clock, Position
from flowclf.training.progress import Report, silent
from flowclf.training.setup import (
    augmentation,
    cpu_threads,
    fresh_model,
    launch_fabric,
    resampled,
    splits,
)

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["Trained", "train"]


@dataclass(frozen=True)
class Trained:
    """A trained model, the splits it was trained, validated and tested on, and the run's summary.

    `main_process` is false in all processes but the first of a distributed run.
    """

    model: GenerativeClassifier
    training: Split
    validation: Split
    test: Split
    summary: dict[str, Any]
    main_process: bool = True


def train(
    config: RunConfig,
    dataset: Dataset,
    run: Run | None = None,
    *,
    device: str = "auto",
    devices: int = 1,
    resume: bool = False,
    report: Report = silent,
    backbone: nn.Module | None = None,
) -> Trained:
    """Train a system on a data set, and evaluate it on the test split.

    Args:
        config: everything that defines the run.
        dataset: what is trained on; the test split is used at the end only.
        run: the folder that records it; None: nothing is written.
        device: auto, cpu or cuda.
        devices: number of processes (DDP above 1).
        resume: go on from the run's checkpoint.
        report: shows progress.
        backbone: the user's own network, see `flowclf.build`.

    Raises:
        UserError: settings that do not fit the data.
        FolderInUse: another process trains in the run's folder.
        TrainingDiverged: a loss that is not finite; the last good checkpoint is kept.
        Interrupted: by Ctrl-C; the checkpoint is saved.
    """
    fabric = launch_fabric(config, device, devices)
    training, validation, test = splits(config, dataset)
    if backbone is not None:
        custom = config.model.model_copy(update={"network": CustomSettings()})
        config = config.model_copy(update={"model": custom})
    model = fresh_model(config, dataset, training, backbone)
    source, augment = resampled(config, dataset), augmentation(config, dataset)
    mine = locked(run.folder) if run and fabric.is_global_zero else nullcontext()
    with mine, stop_on_signal() as stop, cpu_threads(config.train.threads):
        loop = Loop(config, fabric, model, training, validation, source, augment, run, report, stop)
        if run and fabric.is_global_zero:
            run.remove_parts()
        if run and not resume and fabric.is_global_zero:
            run.write_config(config, DataFacts.of(dataset, len(training)))
            if dataset.vocabulary:
                run.write_vocabulary(dataset.vocabulary)
        seconds = loop.run_all(resume)
        summary = summarise(config, model, validation, test, seconds)
        assert model.info is not None
        model.info = model.info.with_metrics(summary["test"])
        if run and fabric.is_global_zero:
            save_weights(model, run.weights_file)
            run.append_metrics(
                {"step": loop.steps, "epoch": config.train.epochs, "test": summary["test"]}
            )
            run.write_summary(summary)
    return Trained(model, training, validation, test, summary, fabric.is_global_zero)


class Loop:
    """The state of one training, step by step."""

    def __init__(
        self,
        config: RunConfig,
        fabric: Fabric,
        model: GenerativeClassifier,
        training: Split,
        validation: Split,
        source: Tensor | None,
        augment: Augmentation | None,
        run: Run | None,
        report: Report,
        stop: StopFlag,
    ) -> None:
        settings = config.train
        self.config, self.settings, self.fabric, self.model = config, settings, fabric, model
        self.validation, self.run, self.stop = validation, run, stop
        self.report = report if fabric.is_global_zero else silent
        optimizer = make_optimizer(model, settings)
        self.module, self.optimizer = fabric.setup(model, optimizer)
        self.module.mark_forward_method("loss")
        if isinstance(model.encoder.network, Chain):
            model.encoder.network.set_memory(settings.memory)
        if settings.compile:
            model.encoder.network.compile()
        on_device = Split(training.x.to(fabric.device), training.y.to(fabric.device))
        self.batches = Batches(
            on_device,
            settings.batch_size,
            config.seed,
            augment,
            model.perturb,
            fabric.global_rank,
            fabric.world_size,
            settings.labelled,
            None if source is None else source.to(fabric.device),
        )
        self.steps = settings.epochs * self.batches.per_epoch

    def run_all(self, resume: bool) -> float:
        """All steps that are left, then the final statistics; seconds of training in all."""
        first = self._restore() if resume else Position()
        clock, saved = Clock(first), time.perf_counter()
        if not resume:
            self._save(first, keep=False)
        for step in range(first.step, self.steps):
            progress = step / self.steps
            if self.settings.cpu_seconds is not None:
                progress = clock.cpu_seconds / self.settings.cpu_seconds
                if progress >= 1:
                    break
            self._step(step, progress)
            done = step + 1
            if done % (self.batches.per_epoch * self.settings.evaluate_every) == 0:
                self._validate(done)
            due = time.perf_counter() - saved > 60 * self.settings.checkpoint_minutes
            if due or self.stop.raised:
                self._save(clock.at(done))
                saved = time.perf_counter()
            if self.stop.raised:
                raise Interrupted(f"stopped after step {done} of {self.steps}")
        self._finish()
        end = clock.at(self.steps)
        self._save(end, keep=False)
        return end.seconds

    def _step(self, step: int, progress: float) -> None:
        self.module.train()
        self.model.progress = progress
        set_learning_rates(self.optimizer, schedule_factor(self.settings, progress))
        batch = self.batches.at(step)
        seed = derive_seed(self.config.seed, "dropout", step, self.fabric.global_rank)
        with private_rng(seed, self.fabric.device):
            terms = self.module.loss(batch.x, batch.y, index=batch.index)
            self.optimizer.zero_grad()
            self.fabric.backward(terms["total"])
        norm = clip_gradients(self.model, self.settings.clip_norm)
        terms = {name: value.detach() for name, value in terms.items()}
        check_finite(self.model, terms, norm, step, batch.x)
        self.optimizer.step()
        self.report(step, self.steps, step // self.batches.per_epoch, terms)

    def _finish(self) -> None:
        seed = derive_seed(self.config.seed, "norm")
        with private_rng(seed, self.fabric.device):
            reestimate_batch_norm(self.model, self.batches, self.steps, self.settings.norm_passes)
        self.model.eval()
        split = self.batches.split
        self.model.fit_latents(split.x, split.y)

    def _validate(self, done: int) -> None:
        if self.run is None or len(self.validation) == 0 or not self.fabric.is_global_zero:
            return
        results = evaluate(self.model, self.validation, seed=self.config.seed)
        epoch = done // self.batches.per_epoch
        self.run.append_metrics({"step": done, "epoch": epoch, "validation": results})

    def _save(self, position: Position, keep: bool = True) -> None:
        if self.run is not None and self.fabric.is_global_zero:
            save_checkpoint(self.run, self.model, self.optimizer.optimizer, position, keep)

    def _restore(self) -> Position:
        assert self.run is not None, "resuming needs a run folder"
        position = load_checkpoint(self.run, self.model, self.optimizer.optimizer)
        if self.fabric.is_global_zero:
            self.run.keep_metrics_until(position.step)
        return position


def summarise(
    config: RunConfig,
    model: GenerativeClassifier,
    validation: Split,
    test: Split,
    seconds: float,
) -> dict[str, Any]:
    """What summary.json says; with a validation split also what temperature scaling gives."""
    results = evaluate(model, test, seed=config.seed)
    if len(validation):
        results |= evaluate_scaled(model, validation, test, config.seed)
    return {
        "system": config.system,
        "data": config.dataset,
        "preset": config.preset,
        "seed": config.seed,
        "seconds": round(seconds, 3),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "device": str(model.mixture.means.device),
        "test": results,
    }
