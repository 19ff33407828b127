"""Building a model by name, and loading a trained one."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import isfinite, prod
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from couplings.core import Invertible, Shape
from flowclf.classifier import GenerativeClassifier
from flowclf.config import RunConfig, make_settings
from flowclf.latent.full import ClassMoments, FullMixture
from flowclf.runs import Run
from flowclf.settings import DataFacts, ModelInfo, Section
from flowclf.sharing import check_settings, download, is_hub_id, is_saved, read_folder
from flowclf.support.atomic_files import checked_path
from flowclf.support.devices import machine_memory, own_modes
from flowclf.support.errors import UserError
from flowclf.support.safetensors import DamagedFile, read_tensors, write_tensors
from flowclf.systems import SYSTEMS, Blueprint, find_system
from flowclf.systems.assemble import CustomSettings

__all__ = [
    "assemble",
    "build",
    "info_of",
    "load",
    "load_weights",
    "save_weights",
    "systems_with",
    "with_gaussians",
    "with_metrics",
]

IMAGE_LEVELS = 256
# Of a parameter: it, its gradient, and the two averages that an optimiser keeps.
COPIES = 4
# Of pre-processing, whose quantiles are the most, in the unit of a parameter.
NUMBERS_PER_DIM = 8


def build(
    system: str,
    *,
    shape: Shape,
    classes: int,
    levels: int | None = None,
    preset: str | None = None,
    beta: float | None = None,
    seed: int = 0,
    backbone: nn.Module | None = None,
    samples: int | None = None,
    **settings: Any,
) -> GenerativeClassifier:
    """Build an untrained model.

    Args:
        system: a name of `flowclf systems`.
        shape: (C, H, W) for images, (F,) for tables.
        classes: K.
        levels: grey levels of an image; default 256.
        preset: default "image", "table" or "mlp", by the shape.
        beta: β̃, the weight of the cross-entropy.
        seed: of weights, rotations and permutations.
        backbone: your own network: of a flow such as ib-inn a `couplings.Invertible` of samples of
            that shape, e.g. a Chain; elsewhere any module from (B, *shape) to (B, D), e.g. a
            transformer over token numbers, which are then the x of a table:

            >>> class Tiny(torch.nn.Module):
            ...     def __init__(self):
            ...         super().__init__()
            ...         self.embed = torch.nn.Embedding(1000, 32)
            ...         self.layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
            ...     def forward(self, tokens):
            ...         return self.layer(self.embed(tokens.long())).mean(1)
            >>> model = build("vc", shape=(16,), classes=4, backbone=Tiny(),
            ...               preprocess={"per": "range"})
            >>> model.log_posterior(torch.randint(1000, (2, 16)).float()).shape
            torch.Size([2, 4])

        samples: N of the training set, for vae-as.
        settings: sections of the system's settings, e.g. network={"kind": "mlp", "blocks": 6}.

    Raises:
        UserError: unknown names, or values out of range.
    """
    shape = tuple(shape)
    if len(shape) not in (1, 3) or min(shape) < 1 or classes < 2:
        raise UserError(
            f"expected shape (C, H, W) or (F,) and at least 2 classes, got {shape} and {classes}"
        )
    if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise UserError(f"expected seed, a whole number from 0 to 2⁶³ - 1, got {seed!r}")
    if levels is None and len(shape) == 3:
        levels = IMAGE_LEVELS
    if backbone is not None:
        settings = {**settings, "network": {"kind": "custom"}}
    typed = make_settings(system, shape, preset, beta, settings)
    names = tuple(map(str, range(classes)))
    info = ModelInfo(
        system=system,
        shape=shape,
        class_names=names,
        levels=levels,
        seed=int(seed),
        samples=samples,
    )
    return assemble(info, typed, backbone)


def load(
    source: str | Path,
    device: torch.device | str = "cpu",
    backbone: nn.Module | None = None,
    revision: str | None = None,
    unverified: bool = False,
) -> GenerativeClassifier:
    """Load a trained model, in eval mode; only settings and numbers are read, never a pickle.

    Args:
        source: the folder of a run; one that `model.save` wrote; or, where no such folder is there,
            "owner/name" on the Hugging Face Hub (`pip install 'flowclf[hub]'`).
        device: where the model goes.
        backbone: the module that the model was trained with, where it was the user's own; its
            weights are read.
        revision: branch, tag or commit on the Hub.
        unverified: also take weights that others wrote, without a digest; settings and names are
            then not known to be theirs.

    Raises:
        UserError: not such a folder, a run that has not ended, weights of another architecture or
            another run, settings or names that were edited; or no such model on the Hub, no way
            to it.
    """
    source = checked_path("source", source)
    if is_hub_id(source):
        return _load_saved(download(str(source), revision), backbone, unverified).to(device)
    folder = Path(source)
    if revision is not None:
        raise UserError(f"revision={revision!r}: expected OWNER/NAME on the Hub, got {source}")
    found = _load_saved if is_saved(folder) else _load_run
    return found(folder, backbone, unverified).to(device)


def assemble(
    info: ModelInfo, settings: Section, backbone: nn.Module | None = None
) -> GenerativeClassifier:
    """Build the untrained model of complete settings, which remembers `info`.

    Raises:
        UserError: settings that do not go together, or a backbone that is missing.
    """
    blueprint = Blueprint(
        info.shape, len(info.class_names), info.levels, info.seed, backbone, info.samples
    )
    with _fitting_memory(info.shape), own_modes():
        model = find_system(info.system).build(blueprint, settings)
    model.info = info
    return model


def with_gaussians(
    model: GenerativeClassifier,
    moments: ClassMoments,
    class_names: Sequence[str] | None = None,
    share: float = 0.85,
) -> GenerativeClassifier:
    """Return a classifier with the model's encoder, and a Gaussian of full covariance a class.

    The classes may be others, or more, than the encoder was trained on. New ones need no sample of
    the earlier, only their moments, K·D² numbers; nothing is trained, and nothing forgotten:

    >>> known = ClassMoments.of(latents(model, model.perturb(x)), y, model.classes)
    >>> later = ClassMoments.of(latents(model, model.perturb(x_new)), y_new, 1)  # labels from 0
    >>> model = with_gaussians(model, known.joined(later))

    Args:
        model: any with a latent mixture; it stays as it is.
        moments: of the latents of all K classes.
        class_names: K names; default: the model's where it has as many classes, else numbers.
        share: of the way of each covariance to that of all classes, see `ClassMoments.factors`.

    Raises:
        UserError: moments of other dimensions, another number of names, or a part of the model that
            depends on the number of classes.
    """
    info, settings, count = model.info, model.settings, len(moments.counts)
    assert info is not None, "a model that was built remembers what it is"
    if moments.means.shape[1] != model.dims:
        got = moments.means.shape[1]
        raise UserError(f"expected moments of {model.dims} dimensions, got {got}")
    known = info.class_names if count == model.classes else tuple(map(str, range(count)))
    names = tuple(class_names or known)
    if len(names) != count:
        raise UserError(f"expected {count} class_names, one for each class, got {len(names)}")
    full = {"kind": "gaussian", "covariance": "full", "rank": None, "full_dims": 0}
    mixture = settings.mixture.model_copy(update=full)
    info = info.model_copy(update={"class_names": names, "metrics": {}})
    custom = isinstance(getattr(settings, "network", None), CustomSettings)
    backbone = copy.deepcopy(model.encoder.network) if custom else None
    made = assemble(info, settings.model_copy(update={"mixture": mixture}), backbone)
    assert isinstance(made.mixture, FullMixture)
    state = made.state_dict()
    own = {n: v for n, v in model.state_dict().items() if not n.startswith("mixture.")}
    if fixed := [n for n in own if n not in state or own[n].shape != state[n].shape]:
        raise UserError(f"expected a network for any number of classes, got {fixed[0]} for its own")
    made.load_state_dict(state | own)
    made.mixture.set_moments(moments, share)
    made.mixture.set_data_means(moments.means)
    if mixture.weights == "empirical":
        made.mixture.set_weights(moments.counts)
    return made.to(model.mixture.device).eval()


def systems_with(capability: str) -> list[str]:
    """Return the systems whose models have a capability by default, e.g. "can_sample".

    A small model of each is asked; systems that cannot be built for a table are left out.
    """
    able = []
    for name in SYSTEMS:
        with suppress(UserError):
            if getattr(build(name, shape=(2,), classes=2, samples=2), capability):
                able.append(name)
    return able


GenerativeClassifier.systems_with = staticmethod(systems_with)


@contextmanager
def _fitting_memory(shape: Shape) -> Iterator[None]:
    """Refuse a model too large to be trained here before it is filled: settings may be hostile."""
    memory, size = machine_memory(), 0

    def claim(numbers: int) -> None:
        nonlocal size
        size += COPIES * numbers * torch.float32.itemsize
        if memory is not None and size > memory:
            raise UserError(
                f"expected a model whose training fits into the {memory:,} bytes of memory, got "
                f"one that needs {size:,} or more; choose a smaller network"
            )

    claim(NUMBERS_PER_DIM * prod(shape))
    handle = register_module_parameter_registration_hook(lambda _, __, p: claim(p.numel()))
    try:
        yield
    finally:
        handle.remove()


def info_of(config: RunConfig, facts: DataFacts, vocabulary: tuple[str, ...] = ()) -> ModelInfo:
    """Return what a run's model remembers: the name of a file of data, but not its folder."""
    return ModelInfo(
        **facts.model_dump(),
        system=config.system,
        seed=config.seed,
        data=Path(config.dataset).name or None,
        vocabulary=vocabulary,
    )


def _load_run(folder: Path, backbone: nn.Module | None, unverified: bool) -> GenerativeClassifier:
    run = Run(folder)
    config, facts = run.read_config()
    results = run.read_summary().get("test", {}) | run.read_evaluation()
    info = with_metrics(info_of(config, facts, run.read_vocabulary()), results)
    model = assemble(info, config.model, backbone)
    named = load_weights(model, run.weights_file, unverified)
    if not unverified:
        run.check_identity(named, run.weights_file)
    return model.eval()


def _load_saved(folder: Path, backbone: nn.Module | None, unverified: bool) -> GenerativeClassifier:
    saved, weights = read_folder(folder)
    info = saved.info
    settings = make_settings(info.system, info.shape, None, None, saved.settings)
    model = assemble(info, settings, backbone).to(saved.torch_dtype)
    named = load_weights(model, weights, unverified)
    if not unverified:
        check_settings(folder, named)
    return model.eval()


def with_metrics(info: ModelInfo, results: Mapping[str, Any]) -> ModelInfo:
    """Return a copy that records the finite numbers among test results."""
    numbers = {k: float(v) for k, v in results.items() if isinstance(v, int | float)}
    finite = {name: value for name, value in numbers.items() if isfinite(value)}
    return info.model_copy(update={"metrics": finite})


def save_weights(model: nn.Module, path: Path, identity: str = "") -> None:
    """Write model.safetensors whole, with a digest that `load_weights` checks.

    `identity` is that of the settings that the weights belong to.
    """
    write_tensors(path, model.state_dict(), identity)


def load_weights(model: GenerativeClassifier, path: Path, unverified: bool = False) -> str:
    """Read what `save_weights` wrote into a model of the same architecture; return the identity.

    Floating numbers are those of the model, or float64.

    Raises:
        UserError: no such file, a damaged one, one of another architecture, NaN in it, or a
            rotation that is none; one without a digest, unless `unverified`.
    """
    run = Run(path.parent)
    if not path.is_file():
        raise UserError(
            f"{path.parent} has no {path.name}: the run has not ended; go on with "
            f"flowclf train --resume {run.folder}"
        )
    try:
        state, identity = read_tensors(path, unverified)
    except DamagedFile as error:
        anew = f"write it anew with flowclf train --resume {run.folder}"
        remedy = anew if run.has_checkpoint else "copy or download it again"
        raise DamagedFile(f"{error}; {remedy}") from None
    check_architecture(model.state_dict(), state, path)
    spoilt = [name for name, value in state.items() if not bool(value.isfinite().all())]
    if spoilt:
        raise UserError(f"{path} holds NaN or infinity in {spoilt[0]}: train the run again")
    model.load_state_dict(state)
    for name, module in model.named_modules():
        if isinstance(module, Invertible) and (wrong := module.broken_invariant()):
            raise UserError(f"{path}: expected {name} to be {wrong}; train the run again")
    return identity


def check_architecture(
    expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor], path: Path
) -> None:
    """Refuse weights whose names, shapes or types of numbers are not the model's.

    Raises:
        UserError: naming the first difference.
    """
    for name in sorted(expected.keys() | got.keys()):
        like = expected.get(name)
        forms = [_form(state.get(name), like) for state in (expected, got)]
        if forms[0] != forms[1]:
            raise UserError(
                f"{path} belongs to another architecture: expected {forms[0]} for {name}, "
                f"got {forms[1]}"
            )


def _form(value: torch.Tensor | None, like: torch.Tensor | None) -> str:
    """Describe shape and dtype; float64 passes for every floating one."""
    if value is None:
        return "nothing"
    wide = value.dtype == torch.float64 and like is not None and like.is_floating_point()
    return f"{tuple(value.shape)} {like.dtype if wide and like is not None else value.dtype}"
