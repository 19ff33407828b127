"""The training loop, in plain PyTorch on lightning.fabric."""

from __future__ import annotations

import time
import warnings
from contextlib import AbstractContextManager, ExitStack, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from math import cos, isfinite, pi
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from couplings import Chain
from couplings.conditioners import Dropout, Dropout2d
from flowclf.classifier import GenerativeClassifier, being_trained
from flowclf.config import RunConfig
from flowclf.data import Dataset, Split, public_name
from flowclf.evaluation import evaluate, evaluate_scaled
from flowclf.models import save_weights, with_metrics
from flowclf.objectives import Batch
from flowclf.runs import Run, facts_of
from flowclf.settings import Precision, TrainSettings
from flowclf.support.atomic_files import locked, tell
from flowclf.support.collectives import Processes
from flowclf.support.devices import float64_told, own_modes
from flowclf.support.errors import UserError
from flowclf.support.seeding import derive_seed, private_rng
from flowclf.systems.assemble import CustomSettings
from flowclf.training.batches import Batches
from flowclf.training.checkpoint import Clock, Position, load_checkpoint, save_checkpoint
from flowclf.training.guard import (
    TrainingDiverged,
    check_inverse,
    check_results,
    check_state,
    raise_diverged,
)
from flowclf.training.interrupt import Interrupted, StopFlag, stop_on_signal
from flowclf.training.loggers import log_row, make_loggers
from flowclf.training.patience import Patience
from flowclf.training.progress import Report
from flowclf.training.setup import (
    cpu_threads,
    fresh_model,
    launch_fabric,
    make_batches,
    make_optimizer,
    pick_precision,
    quiet,
    splits,
)

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from flowclf.training.threads import ThreadWatch

__all__ = ["Trained", "train"]

# Samples whose inverse is looked at.
WATCHED = 8
# Rows of metrics.jsonl: of more epochs every second, third … is recorded.
MOST_ROWS = 2_000
FINAL_FACTOR = 1e-3
WARMUP_FACTOR = 0.05


@dataclass(frozen=True)
class Trained:
    """Trained model, its training, validation and test split, and the summary of the run.

    `main_process` is False in all processes but the first of a distributed run; these evaluate
    nothing, and have no summary.
    """

    model: GenerativeClassifier
    training: Split
    validation: Split
    test: Split
    summary: dict[str, Any] = field(default_factory=dict)
    main_process: bool = True

    @property
    def precision(self) -> Precision:
        """Precision that the training ran in: never auto."""
        found: Precision = self.summary["precision"]["ran"]
        return found


def train(
    config: RunConfig,
    dataset: Dataset,
    run: Run | None = None,
    *,
    device: str = "auto",
    devices: int | None = 1,
    nodes: int | None = 1,
    resume: bool = False,
    report: Report | None = None,
    backbone: nn.Module | None = None,
) -> Trained:
    """Train a system on a data set, and evaluate it on the test split.

    Args:
        config: everything that defines the run.
        dataset: the data; the test split is used at the end only.
        run: the folder that records the run; None: nothing is written.
        device: auto, cpu or cuda; or mps, which is untested, and has no float64.
        devices: number of processes on each node; together (DDP) they learn what one would.
        nodes: number of machines, each started with the same arguments; all see the run's folder.
            None, here or for devices: as torchrun or SLURM have started them.
        resume: go on from the run's checkpoint.
        report: called after each step, to show progress; None: nothing is shown.
        backbone: the user's own network, see `flowclf.build`.

    Raises:
        UserError: settings that do not fit the data, or a batch size that is no multiple of the
            processes; `ReportedElsewhere` in all processes but the first.
        FolderInUse: another process trains in the run's folder.
        TrainingDiverged: a loss, gradient, weight or result that is not finite; the last good
            checkpoint is kept.
        Interrupted: Ctrl-C, SIGTERM, SIGHUP or SIGUSR1; the checkpoint is saved.
        ProcessLost: another process has ended; the last checkpoint is kept.
    """
    with ExitStack() as held:
        held.enter_context(own_modes())
        held.enter_context(float64_told(device))
        if devices is None or nodes is None or devices * nodes > 1:
            from flowclf.training.distributed import as_started, lost_processes

            held.enter_context(lost_processes())
            held.enter_context(warnings.catch_warnings())
            # Gradients of 1x1 convolutions in bfloat16 are laid out channels-last: a copy of them.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            if devices is None or nodes is None:
                devices, nodes = as_started(devices, nodes)
        precision = run.read_precision() if run and resume else config.train.precision
        numbers = config.train.batch_size * torch.Size(dataset.shape).numel()
        precision = pick_precision(precision, device, numbers)
        fabric = launch_fabric(device, devices, nodes, precision)
        processes = Processes(fabric.global_rank, fabric.world_size, fabric.device)
        with processes.fail_together():
            training, validation, test = splits(config, dataset)
            if backbone is not None:
                custom = config.model.model_copy(update={"network": CustomSettings()})
                config = config.model_copy(update={"model": custom})
            model = fresh_model(config, dataset, training, backbone)
            batches = make_batches(config, dataset, training, model, fabric.device, processes)
        if not processes.same(precision == "bf16-mixed"):
            raise UserError(
                "expected train.precision=32-true or bf16-mixed for machines that differ, got "
                "auto, which differs between them"
            )
        with processes.fail_together():
            identity = ""
            if run and processes.first:
                held.enter_context(locked(run.folder))
                begin_run(run, config, dataset, len(training), precision, resume)
                identity = run.read_identity()
        stop = held.enter_context(stop_on_signal())
        held.enter_context(cpu_threads(config.train.threads))
        loop = Loop(config, fabric, processes, model, batches, validation, run, report, stop)
        with being_trained(model), ExitStack() as synchronised:
            if processes.world > 1:
                from flowclf.training.shared_layers import synchronised_layers

                synchronised.enter_context(synchronised_layers(model))
            seconds = loop.run_all(resume, identity)
        if not processes.first:
            return Trained(model, training, validation, test, main_process=False)
        for logger in loop.loggers:
            logger.finalize("success")
        if say := getattr(report, "say", None):
            say(f"evaluating {len(test):,} test samples …")
        summary = summarise(config, model, validation, test, precision, seconds)
        choices = {"choices": loop.watch.choices} if loop.watch and loop.watch.choices else {}
        ran = torch.get_num_threads()
        summary["threads"] = {"asked": config.train.threads, "ran": ran, **choices}
        check_results(summary["test"], loop.steps)
        assert model.info is not None
        model.info = with_metrics(model.info, summary["test"])
        if run:
            save_weights(model, run.weights_file, identity)
            run.append_metrics({"step": loop.steps, "epoch": loop.epochs, "test": summary["test"]})
            run.write_summary(summary)
    return Trained(model, training, validation, test, summary)


def begin_run(
    run: Run,
    config: RunConfig,
    dataset: Dataset,
    samples: int,
    precision: Precision,
    resume: bool,
) -> None:
    """Clean the locked folder, and write the files that a new run begins with.

    Raises:
        UserError: another training has ended there; or, to resume, other settings or other data.
    """
    if resume:
        run.check_settings(config)
        run.check_data(dataset)
    elif run.summary_file.exists():
        raise UserError(
            f"expected a folder without a finished run, got {run.folder}, where another training "
            "has ended meanwhile; choose another --out"
        )
    run.remove_parts()
    run.failure_file.unlink(missing_ok=True)
    if not resume:
        run.write_config(config, facts_of(dataset, samples), precision)
        if dataset.vocabulary:
            run.write_vocabulary(dataset.vocabulary)
        if dataset.features is not None:
            dataset.features.write(run.features_file)


class Loop:
    """State of one training, step by step."""

    def __init__(
        self,
        config: RunConfig,
        fabric: Fabric,
        processes: Processes,
        model: GenerativeClassifier,
        batches: Batches,
        validation: Split,
        run: Run | None,
        report: Report | None,
        stop: StopFlag,
    ) -> None:
        settings = config.train
        self.config, self.settings, self.fabric, self.model = config, settings, fabric, model
        self.processes, self.batches, self.validation = processes, batches, validation
        self.run, self.stop = run, stop
        self.report = report if processes.first else None
        self.sums: dict[str, float] = {}  # of the loss terms, in this epoch
        self.patience: Patience | None = None
        if settings.patience is not None:
            self.patience = Patience(settings.patience, settings.monitor)
        self.loggers: list[Any] = []
        if settings.logger and run is not None and processes.first:
            self.loggers = make_loggers(settings.logger, run, config)
        averaging = model.settings.pseudo_labels.asked and model.settings.pseudo_labels.average
        self.guesser = deepcopy(model).requires_grad_(False) if averaging else None
        optimizer = make_optimizer(model, settings)
        with quiet():
            self.module, self.optimizer = fabric.setup(model, optimizer)
        self.module.mark_forward_method("loss")
        if isinstance(model.encoder.network, Chain):
            model.encoder.network.set_memory(settings.memory)
        if settings.compile:
            model.encoder.network.compile()
        self.steps = max(settings.epochs * batches.per_epoch, settings.least_updates or 0)
        # A network of the user's own may draw from torch's generator, and compiled ones can from no
        # other.
        custom = isinstance(getattr(config.model, "network", None), CustomSettings)
        shared = custom or settings.compile
        self.generator = None if shared else torch.Generator(fabric.device)
        give_generator(model, self.generator)
        self.inexact = False
        self.watch: ThreadWatch | None = None
        if fabric.device.type == "cpu" and torch.get_num_threads() > 1:
            from flowclf.training.threads import ThreadWatch

            self.watch = ThreadWatch(settings.threads, tell if self.report else lambda line: None)

    @property
    def epochs(self) -> int:
        """Epochs of the whole training, the last perhaps not to its end."""
        return -(-self.steps // self.batches.per_epoch)

    def run_all(self, resume: bool, identity: str) -> float:
        """Run all remaining steps and the final statistics; return the seconds of training.

        `identity` is that of the run, which checkpoints name.
        """
        self.identity = identity
        first = self._restore() if resume else Position(run=identity)
        clock, saved = Clock(first), time.perf_counter()
        if not resume:
            self._save(first, keep=False)
        per_epoch, done = self.batches.per_epoch, first.step
        for step in range(first.step, self.steps):
            if self.patience is not None and self.patience.over:
                break
            progress = step / self.steps
            if self.settings.cpu_seconds is not None:
                (spent,) = self.processes.all_reduce_max(clock.cpu_seconds)
                progress = spent / self.settings.cpu_seconds
                if progress >= 1:
                    break
            with self.watch.timed(step) if self.watch else nullcontext():
                self._step(step, progress)
            done = step + 1
            if done % per_epoch == 0:
                self._end_epoch(done, clock)
            late = time.perf_counter() - saved > 60 * self.settings.checkpoint_minutes
            due, stopped = self.processes.all_reduce_max(late, self.stop.raised)
            if due or stopped:
                self._save(clock.at(done, self.sums))
                saved = time.perf_counter()
            if stopped:
                raise Interrupted(f"stopped after step {done} of {self.steps}")
        if self.sums:
            self._end_epoch(done, clock)
        self._finish()
        end = clock.at(self.steps)
        self._save(end, keep=False)
        return end.seconds

    def _step(self, step: int, progress: float) -> None:
        self.module.train()
        self.model.progress = progress
        set_learning_rates(self.optimizer, schedule_factor(self.settings, progress))
        batch = self.batches.at(step)
        # All ranks draw the same numbers, for the whole batch.
        seed = derive_seed(self.config.seed, "dropout", step, 0)
        loss = partial(self._terms, batch)
        with self._draws(seed), self.processes.sharded():
            terms = loss()
            self.optimizer.zero_grad()
            self.fabric.backward(terms["total"])
        norm = clip_gradients(self.model, self.settings.clip_norm, self.settings.clip_value)
        terms = {name: value.detach() for name, value in terms.items()}
        terms = self.processes.all_reduce_terms(terms)
        # The step's only wait for the device.
        values = torch.stack([*terms.values(), norm]).tolist()
        if not all(map(isfinite, values)):
            with self._draws(seed), self.processes.sharded():
                raise_diverged(self.model, terms, norm, step, loss)
        self.optimizer.step()
        for name, value in zip(terms, values, strict=False):
            self.sums[name] = self.sums.get(name, 0.0) + value
        if self.guesser is not None:
            decay = self.model.settings.pseudo_labels.average
            follow(self.guesser, self.model, min(decay, (step + 1) / (step + 10)))
        if self.report:
            # With a budget of CPU time the last step is a guess.
            last = self.steps
            if self.settings.cpu_seconds is not None and progress > 0:
                last = min(last, max(step + 1, round(step / progress)))
            self.report(step, last, step // self.batches.per_epoch, terms)

    def _draws(self, seed: int) -> AbstractContextManager[None]:
        """Seed what is drawn within the block: from the private generator, else from torch's."""
        if self.generator is None:
            return private_rng(seed, self.fabric.device)
        self.generator.manual_seed(seed)
        return nullcontext()

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the terms of the loss, the networks' products in the run's precision.

        Fabric's own autocast covers wrapped calls, which on one device no call is.
        """
        given = {"index": batch.index, "generator": self.generator}
        with self.fabric.autocast():
            guesser = self.model if self.guesser is None else self.guesser
            guess = None if batch.view is None else guesser.guess(batch.view)
            terms: dict[str, Tensor] = self.module.loss(batch.x, batch.y, guess=guess, **given)
        return terms

    def _finish(self) -> None:
        if self.patience is not None and self.patience.weights:
            self.model.load_state_dict(self.patience.weights)
        seed = derive_seed(self.config.seed, "norm")
        with self._draws(seed), self.processes.sharded():
            passes = self.settings.norm_passes
            reestimate_batch_norm(self.model, self.batches, self.steps, passes, self.generator)
        check_state(self.model, self.steps)
        give_generator(self.model, None)
        self.model.eval()
        split = self.batches.split
        self.model.fit_latents(split.x, split.y)
        check_state(self.model, self.steps)

    def _end_epoch(self, done: int, clock: Clock) -> None:
        """Record an epoch, or the part of one that ends the training."""
        epoch, left = divmod(done, self.batches.per_epoch)
        count = left or self.batches.per_epoch
        terms = {name: value / count for name, value in self.sums.items()}
        self.sums = {}
        row: dict[str, Any] = {"step": done, "epoch": epoch + (left > 0), "train": terms}
        row["lr"] = self.optimizer.param_groups[0]["lr"]
        row["seconds"] = round(clock.at(done).seconds, 3)
        due = not left and epoch % self.settings.evaluate_every == 0 and len(self.validation) > 0
        improved = False
        with self.processes.fail_together():
            if self.processes.first and not left and epoch % self.settings.evaluate_every == 0:
                self._watch_inverse(done)
            if self.processes.first and due and (self.run or self.patience):
                results = evaluate(self.model, self.validation, seed=self.config.seed)
                check_results(results, done)
                row["validation"] = results
                improved = self.patience is not None and self.patience.improves(results)
            if self.processes.first and self.run is not None:
                self._check_folder(self.run, done)
                if left or epoch == self.epochs or epoch % -(-self.epochs // MOST_ROWS) == 0:
                    self.run.append_metrics(row)
                    if self.loggers:
                        log_row(self.loggers, row)
        if record := getattr(self.report, "record", None):
            record(row)
        if due and self.patience is not None:
            found = self.processes.all_reduce_max(improved, self.patience.over)
            improved, self.patience.over = map(bool, found)
            if improved:
                run = self.run if self.processes.first else None
                self.patience.keep(self.model, run, self.identity)

    def _watch_inverse(self, done: int) -> None:
        """Say once where the inverse is lost: a classifier alone can do without."""
        if self.inexact:
            return
        try:
            check_inverse(self.model, self.batches.split.x[:WATCHED])
        except TrainingDiverged as error:
            self.inexact = True
            tell(f"note: after step {done}: {error}")

    def _save(self, position: Position, keep: bool = True) -> None:
        with self.processes.fail_together():
            if self.run is not None and self.processes.first:
                self._check_folder(self.run, position.step)
                check_state(self.model, position.step, self.optimizer.optimizer)
                optimizer = self.optimizer.optimizer
                save_checkpoint(self.run, self.model, optimizer, position, keep, self.guesser)

    def _check_folder(self, run: Run, step: int) -> None:
        if not run.config_file.exists():
            raise UserError(
                f"{run.folder} has gone: it was moved or deleted while it was trained; put it "
                f"back, and go on with --resume (stopped after step {step} of {self.steps})"
            )

    def _restore(self) -> Position:
        assert self.run is not None, "resuming needs a run folder"
        with self.processes.fail_together():
            optimizer = self.optimizer.optimizer
            position = load_checkpoint(self.run, self.model, optimizer, self.guesser)
            if self.processes.first:
                self.run.keep_metrics_until(position.step)
        self.sums = dict(position.sums)
        if self.patience is not None:
            with self.processes.fail_together():
                self.patience.restore(self.run)
        one = self.processes.same(position.step)
        with self.processes.fail_together():
            if not one:
                raise UserError(
                    f"expected all processes to see the same {self.run.folder}; put it on a shared "
                    "file system"
                )
        return position


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move weights and buffers of a copy to decay · its own + (1 - decay) · the model's."""
    for own, other in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(other, 1 - decay)
        else:
            own.copy_(other)


def clip_gradients(
    model: GenerativeClassifier, max_norm: float, max_value: float | None = None
) -> Tensor:
    """Clip the gradients of each head, and of the rest, to `max_norm`; return the total norm.

    Then each number to ±`max_value`, if there is one.

    A head that only observes (a probe, the sample softmax of VAE-AS) then does not change the steps
    of the network that it observes: VAE-AS at (1, 1) stays the VAE. A norm that is not finite
    leaves its gradients as they are, so that its origin can be found.
    """
    heads = [list(head.parameters()) for head in model.heads.values()]
    own = {p for head in heads for p in head}
    others = [p for p in model.parameters() if p not in own]
    norms = [_clip(part, max_norm) for part in (others, *heads) if part]
    if max_value is not None:
        clip_grad_value_(model.parameters(), max_value)
    return torch.stack(norms).norm()


def _clip(parameters: list[torch.nn.Parameter], max_norm: float) -> Tensor:
    norm = get_total_norm(p.grad for p in parameters if p.grad is not None)
    # A norm of 0 scales nothing.
    clip_grads_with_norm_(parameters, max_norm, norm.nan_to_num(0, 0))
    return norm


def schedule_factor(settings: TrainSettings, progress: float) -> float:
    """Return the factor on the learning rate at a fraction of the run, 0 <= progress < 1.

    cosine, one-cycle: linear warm-up, then half a cosine down to 1/1000 (cosine: without
    warm-up); milestones: 0.1 to the number of milestones passed; constant: 1.
    """
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "milestones":
        return 0.1 ** sum(progress >= milestone for milestone in settings.milestones)
    warmup = settings.warmup if settings.schedule == "one-cycle" else 0.0
    if progress < warmup:
        return WARMUP_FACTOR + (1 - WARMUP_FACTOR) * progress / warmup
    phase = (progress - warmup) / (1 - warmup)
    return FINAL_FACTOR + (1 - FINAL_FACTOR) * 0.5 * (1 + cos(pi * phase))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its initial rate times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def give_generator(model: nn.Module, generator: torch.Generator | None) -> None:
    """Let the Dropout layers of a model draw from a generator; None: from torch's."""
    for layer in model.modules():
        if isinstance(layer, Dropout | Dropout2d):
            layer.generator = generator


@torch.no_grad()
def reestimate_batch_norm(
    model: GenerativeClassifier,
    batches: Batches,
    first_step: int,
    passes: int,
    generator: torch.Generator | None = None,
) -> None:
    """Replace running statistics by cumulative averages over `passes` epochs of noisy batches.

    IB-INN's code does the same (5 passes): its momentum of 0.999 keeps only the last batch. The
    batches are those from `first_step` on; the model is left in training mode.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms or not passes:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for step in range(first_step, first_step + passes * batches.per_epoch):
        model.encode(batches.at(step).x, generator)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def summarise(
    config: RunConfig,
    model: GenerativeClassifier,
    validation: Split,
    test: Split,
    precision: Precision,
    seconds: float,
) -> dict[str, Any]:
    """Evaluate a trained model for summary.json, with temperature scaling if validated."""
    results = evaluate(model, test, seed=config.seed)
    if len(validation):
        results |= evaluate_scaled(model, validation, test, config.seed)
    return {
        "system": config.system,
        "data": public_name(config.dataset),
        "preset": config.preset,
        "seed": config.seed,
        "seconds": round(seconds, 3),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "device": str(model.mixture.device),
        "precision": {"asked": config.train.precision, "ran": precision},
        "test": results,
    }
