"""The training loop, visible, on lightning.fabric."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from couplings import Chain
from flowclf.classifier import GenerativeClassifier
from flowclf.config import RunConfig
from flowclf.data import Dataset, Split
from flowclf.evaluation import evaluate, evaluate_scaled
from flowclf.models import save_weights
from flowclf.runs import Run, facts_of
from flowclf.support.atomic_files import locked
from flowclf.support.errors import UserError
from flowclf.support.seeding import derive_seed, private_rng
from flowclf.systems.assemble import CustomSettings
from flowclf.training.batches import Batches
from flowclf.training.checkpoint import load_checkpoint, save_checkpoint
from flowclf.training.clock import Clock, Position
from flowclf.training.distributed import (
    Processes,
    as_started,
    launch_fabric,
    lost_processes,
    quiet,
)
from flowclf.training.guard import check_finite, check_results, check_state
from flowclf.training.interrupt import Interrupted, StopFlag, stop_on_signal
from flowclf.training.norm import reestimate_batch_norm
from flowclf.training.optimizer import (
    clip_gradients,
    make_optimizer,
    schedule_factor,
    set_learning_rates,
)
from flowclf.training.progress import Report, silent
from flowclf.training.setup import cpu_threads, fresh_model, make_batches, splits
from flowclf.training.shared_layers import layers_for_all

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["Trained", "train"]


@dataclass(frozen=True)
class Trained:
    """A trained model, the splits it was trained, validated and tested on, and the run's summary.

    `main_process` is false in all processes but the first of a distributed run; these evaluate
    nothing, and have no summary.
    """

    model: GenerativeClassifier
    training: Split
    validation: Split
    test: Split
    summary: dict[str, Any] = field(default_factory=dict)
    main_process: bool = True


def train(
    config: RunConfig,
    dataset: Dataset,
    run: Run | None = None,
    *,
    device: str = "auto",
    devices: int | None = 1,
    nodes: int | None = 1,
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
        devices: number of processes on each node; all together (DDP) learn what one would.
        nodes: number of machines, each started with the same arguments; all see the run's folder.
            None, here or for devices: as torchrun or SLURM have started them.
        resume: go on from the run's checkpoint.
        report: shows progress.
        backbone: the user's own network, see `flowclf.build`.

    Raises:
        UserError: settings that do not fit the data, or a batch size that is no multiple of the
            processes; `Elsewhere` in all processes but the first.
        FolderInUse: another process trains in the run's folder.
        TrainingDiverged: a loss, gradient, weight or result that is not finite; the last good
            checkpoint is kept.
        Interrupted: by Ctrl-C; the checkpoint is saved.
        ProcessLost: another process has ended; the last checkpoint is kept.
    """
    with lost_processes(), ExitStack() as held:
        if devices is None or nodes is None:
            devices, nodes = as_started(devices, nodes)
        fabric = launch_fabric(device, devices, nodes, config.train.precision)
        processes = Processes(fabric)
        with processes.agreed():
            training, validation, test = splits(config, dataset)
            if backbone is not None:
                custom = config.model.model_copy(update={"network": CustomSettings()})
                config = config.model_copy(update={"model": custom})
            model = fresh_model(config, dataset, training, backbone)
            batches = make_batches(config, dataset, training, model, fabric.device, processes)
            if run and processes.first:
                held.enter_context(locked(run.folder))
                begin_run(run, config, dataset, len(training), resume)
        stop = held.enter_context(stop_on_signal())
        held.enter_context(cpu_threads(config.train.threads))
        loop = Loop(config, fabric, processes, model, batches, validation, run, report, stop)
        with layers_for_all(model, processes.world):
            seconds = loop.run_all(resume)
        if not processes.first:
            return Trained(model, training, validation, test, main_process=False)
        summary = summarise(config, model, validation, test, seconds)
        check_results(summary["test"], loop.steps)
        assert model.info is not None
        model.info = model.info.with_metrics(summary["test"])
        if run:
            save_weights(model, run.weights_file)
            run.append_metrics(
                {"step": loop.steps, "epoch": config.train.epochs, "test": summary["test"]}
            )
            run.write_summary(summary)
    return Trained(model, training, validation, test, summary)


def begin_run(run: Run, config: RunConfig, dataset: Dataset, samples: int, resume: bool) -> None:
    """Clean the folder, which is locked, and write what a new run consists of."""
    run.remove_parts()
    if not resume:
        run.write_config(config, facts_of(dataset, samples))
        if dataset.vocabulary:
            run.write_vocabulary(dataset.vocabulary)


class Loop:
    """The state of one training, step by step."""

    def __init__(
        self,
        config: RunConfig,
        fabric: Fabric,
        processes: Processes,
        model: GenerativeClassifier,
        batches: Batches,
        validation: Split,
        run: Run | None,
        report: Report,
        stop: StopFlag,
    ) -> None:
        settings = config.train
        self.config, self.settings, self.fabric, self.model = config, settings, fabric, model
        self.processes, self.batches, self.validation = processes, batches, validation
        self.run, self.stop = run, stop
        self.report = report if processes.first else silent
        optimizer = make_optimizer(model, settings)
        with quiet():
            self.module, self.optimizer = fabric.setup(model, optimizer)
        self.module.mark_forward_method("loss")
        if isinstance(model.encoder.network, Chain):
            model.encoder.network.set_memory(settings.memory)
        if settings.compile:
            model.encoder.network.compile()
        self.steps = settings.epochs * batches.per_epoch

    def run_all(self, resume: bool) -> float:
        """All steps that are left, then the final statistics; seconds of training in all."""
        first = self._restore() if resume else Position()
        clock, saved = Clock(first), time.perf_counter()
        if not resume:
            self._save(first, keep=False)
        for step in range(first.step, self.steps):
            progress = step / self.steps
            if self.settings.cpu_seconds is not None:
                (spent,) = self.processes.highest(clock.cpu_seconds)
                progress = spent / self.settings.cpu_seconds
                if progress >= 1:
                    break
            self._step(step, progress)
            done = step + 1
            if done % (self.batches.per_epoch * self.settings.evaluate_every) == 0:
                with self.processes.agreed():
                    self._validate(done)
            late = time.perf_counter() - saved > 60 * self.settings.checkpoint_minutes
            due, stopped = self.processes.highest(late, self.stop.raised)
            if due or stopped:
                self._save(clock.at(done))
                saved = time.perf_counter()
            if stopped:
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
        # All processes draw the same, for the whole batch.
        seed = derive_seed(self.config.seed, "dropout", step, 0)
        loss = partial(self.module.loss, batch.x, batch.y, index=batch.index)
        with private_rng(seed, self.fabric.device), self.processes.sharing():
            terms = loss()
            self.optimizer.zero_grad()
            self.fabric.backward(terms["total"])
        norm = clip_gradients(self.model, self.settings.clip_norm)
        terms = self.processes.means({name: value.detach() for name, value in terms.items()})
        with self.processes.sharing():
            check_finite(self.model, terms, norm, step, loss, seed)
        self.optimizer.step()
        self.report(step, self.steps, step // self.batches.per_epoch, terms)

    def _finish(self) -> None:
        seed = derive_seed(self.config.seed, "norm")
        with private_rng(seed, self.fabric.device), self.processes.sharing():
            reestimate_batch_norm(self.model, self.batches, self.steps, self.settings.norm_passes)
        check_state(self.model, self.steps)
        self.model.eval()
        split = self.batches.split
        self.model.fit_latents(split.x, split.y)
        check_state(self.model, self.steps)

    def _validate(self, done: int) -> None:
        if self.run is None or len(self.validation) == 0 or not self.processes.first:
            return
        results = evaluate(self.model, self.validation, seed=self.config.seed)
        check_results(results, done)
        epoch = done // self.batches.per_epoch
        self.run.append_metrics({"step": done, "epoch": epoch, "validation": results})

    def _save(self, position: Position, keep: bool = True) -> None:
        with self.processes.agreed():
            if self.run is not None and self.processes.first:
                check_state(self.model, position.step, self.optimizer.optimizer)
                save_checkpoint(self.run, self.model, self.optimizer.optimizer, position, keep)

    def _restore(self) -> Position:
        assert self.run is not None, "resuming needs a run folder"
        with self.processes.agreed():
            position = load_checkpoint(self.run, self.model, self.optimizer.optimizer)
            if self.processes.first:
                self.run.keep_metrics_until(position.step)
        one = self.processes.same(position.step)
        with self.processes.agreed():
            if not one:
                raise UserError(f"expected all processes to see one {self.run.folder}; share it")
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
        "device": str(model.mixture.device),
        "test": results,
    }
