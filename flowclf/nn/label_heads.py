"""Label branches: classifiers of latents, learned with the encoder or fitted once it is trained."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from couplings.ops.dispatch import widen
from flowclf.nn.plain import dense_layers
from flowclf.support.errors import UserError

__all__ = ["BranchKind", "FittedBranch", "NetworkBranch"]

BranchKind = Literal["network", "knn", "forest", "mixture"]
TREES = 100


class NetworkBranch(nn.Sequential):
    """[Linear, ReLU] for each hidden width and a linear layer: z (B, D) to logits (B, K)."""

    def __init__(
        self, dims: int, classes: int, hidden: tuple[int, ...], generator: torch.Generator
    ) -> None:
        last = nn.utils.skip_init(nn.Linear, hidden[-1] if hidden else dims, classes)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(*dense_layers(dims, hidden, 0.0, generator), last)

    def log_posterior(self, z: Tensor) -> Tensor:
        """Return log q(k|z), (B, K)."""
        return widen(self(z)).log_softmax(1)


class FittedBranch(nn.Module):
    """Nearest neighbours or random forest of scikit-learn on the latents; not differentiable.

        q(k|z) = (n p_k + 1/K)/(n + 1) > 0,  p_k the share of n neighbours or trees

    The encoder learns nothing from it. Its state are the latents that it is fitted to, at most
    `samples`: a loaded branch is fitted to them again.
    """

    latents: Tensor
    labels: Tensor

    def __init__(
        self, dims: int, classes: int, kind: BranchKind, neighbours: int, samples: int
    ) -> None:
        super().__init__()
        self.classes, self.kind, self.neighbours = classes, kind, neighbours
        self.register_buffer("latents", torch.zeros(samples, dims))
        self.register_buffer("labels", torch.full((samples,), -1))
        self._fitted: tuple[int, Any] | None = None

    def fit(self, z: Tensor, y: Tensor) -> None:
        """Store the first latents (N, D) with their labels (N,), skipping those without (-1)."""
        z, y = z[y >= 0][: len(self.labels)], y[y >= 0][: len(self.labels)]
        self.latents.zero_()[: len(z)] = z
        self.labels.fill_(-1)[: len(y)] = y

    def log_posterior(self, z: Tensor) -> Tensor:
        """Return log q(k|z), (B, K); uniform before the first fit."""
        shares, votes = z.new_zeros(len(z), self.classes), 0
        if len(z) and bool((self.labels >= 0).any()):
            model, votes = self._model()
            found = torch.as_tensor(model.predict_proba(z.detach().cpu().numpy())).to(z)
            shares[:, torch.as_tensor(model.classes_, device=z.device)] = found
        return ((votes * shares + 1 / self.classes) / (votes + 1)).log()

    def _model(self) -> tuple[Any, int]:
        """Return the fitted estimator and its number of votes.

        Raises:
            UserError: latents of a manipulated file, or fewer than the neighbours.
        """
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.neighbors import KNeighborsClassifier

        version = self.labels._version + self.latents._version
        if self._fitted is None or self._fitted[0] != version:
            known = self.labels >= 0
            z, y = self.latents[known].cpu(), self.labels[known].cpu()
            if int(y.max()) >= self.classes or not bool(z.isfinite().all()):
                raise UserError(
                    "expected stored latents that are finite, of the classes "
                    f"0..{self.classes - 1}, got others; the file of the model is damaged, train "
                    "it again"
                )
            if self.kind == "knn" and len(y) < self.neighbours:
                raise UserError(
                    f"expected latents with labels of at least the {self.neighbours} neighbours "
                    f"that vote, got {len(y)}; choose fewer neighbours"
                )
            model: Any = KNeighborsClassifier(self.neighbours)
            if self.kind == "forest":
                model = RandomForestClassifier(TREES, random_state=0)
            model.fit(z.numpy(), y.numpy())
            self._fitted = (version, model)
        return self._fitted[1], TREES if self.kind == "forest" else self.neighbours
