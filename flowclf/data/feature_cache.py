"""Cache of extracted features: a file in the user's cache folder for each set of samples."""

import json
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256

from torch import Tensor

from flowclf.data import source
from flowclf.data.extractors import Extractor
from flowclf.data.fitting import rescaled
from flowclf.support.errors import UserError
from flowclf.support.safetensors import digest, read_tensors, write_tensors

__all__ = ["extracted"]

# Samples that are worth a file.
LEAST = 64


def extracted(extractor: Extractor, x: Tensor | Sequence[str], levels: int) -> Tensor:
    """Return the features (N, F) of images (N, C, H, W) of so many levels, or of N texts.

    They are extracted once: the file is named by the digest of the samples and of the extractor.
    Those of a user's module are not kept, as nothing tells one version of it from the next.
    """
    if isinstance(x, Tensor):
        x = rescaled(x, levels, 256)
    if not extractor.version or len(x) < LEAST:
        return extractor(x)
    path = source.user_cache() / "features" / f"{_key(extractor, x)}.safetensors"
    try:
        return read_tensors(path)[0]["features"]
    except (UserError, KeyError):  # none yet, or damaged
        found = extractor(x)
    with suppress(OSError):  # a cache that cannot be written costs time alone
        write_tensors(path, {"features": found})
    return found


def _key(extractor: Extractor, x: Tensor | Sequence[str]) -> str:
    samples = digest({"x": x}) if isinstance(x, Tensor) else json.dumps(list(x))
    facts = (extractor.name, extractor.version, samples)
    return sha256(json.dumps(facts).encode()).hexdigest()[:32]
