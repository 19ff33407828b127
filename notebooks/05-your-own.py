# %% [markdown]
# # 5 · Your own data, your own network, your own coupling
#
# The other notebooks import everything. This one defines things, as you would: a file of data, a
# network that flowclf has never heard of, and a new invertible map, which is checked before it is
# trusted, and then trained in a loop of ten lines.

# %%
# %matplotlib inline
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, make_moons
from sklearn.impute import SimpleImputer
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn

import flowclf
from couplings import MLP, Chain, Coupling, Rotation, two_sided_coupling
from couplings.testing import ContractError, assert_invertible, randomize
from flowclf.evaluation.explain import explain_rows, explanations
from flowclf.figures import explain_figure
from flowclf.sklearn import GenerativeClassifier

# %% [markdown]
# ## Your own data
#
# One `.npz` with four arrays is enough: images as `uint8`, or a table of numbers as here. These are
# 569 breast tumours, described by 30 measurements, malignant (0) or benign (1), from scikit-learn.
# Nothing need be standardised: the model does that itself, as an invertible first stage, so that
# its densities are in the units of the file. Whatever is wrong with a file is said in one sentence
# when it is loaded.

# %%
cancer = load_breast_cancer()
x_train, x_test, y_train, y_test = train_test_split(
    cancer.data, cancer.target, test_size=0.3, stratify=cancer.target, random_state=0
)
scratch = tempfile.TemporaryDirectory()
file = Path(scratch.name) / "tumours.npz"
np.savez(file, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)

data = flowclf.load_dataset(str(file))
print(data.name, data.shape, f"{len(data.train)} + {len(data.test)} rows, {data.classes} classes")

# %% [markdown]
# Every field of the settings can be overridden, and only what differs from the preset need be said.
# A typing error is an error, not a setting that is silently ignored.

# %%
overrides = [{"train": {"epochs": 40}, "mixture": {"weights": "empirical"}}]
config = flowclf.make_config("ib-inn", data.name, data.shape, overrides=overrides)
trained = flowclf.train(config, data)
found = flowclf.evaluate(trained.model, data.test)
print(f"accuracy {found['accuracy']:.1%}, {found['accuracy_low']:.1%} to "
      f"{found['accuracy_high']:.1%}; ECE {found['ece']:.3f}; "
      f"log p(x) {found['log_prob_nats']:.1f} nats")  # fmt: skip

try:
    flowclf.make_config("ib-inn", data.name, data.shape, overrides=[{"train": {"epoch": 40}}])
except flowclf.UserError as error:
    print(error)

# %% [markdown]
# Tables can be explained, too. For the four most doubtful tumours: which measurements spoke for the
# predicted class and which for the other one, and where each would have to go to turn the decision
# round. Such bars are about the model; they are no medical finding.

# %%
log_posterior = trained.model.log_posterior(data.test.x).detach()
rows = explain_rows(trained.model, data.test, log_posterior, count=4)
explain_figure(explanations(trained.model, data.test, rows), ["malign", "benign"], levels=None)

# %% [markdown]
# ## In scikit-learn
#
# Those who live in scikit-learn need none of the above. The estimator goes into a pipeline; here
# behind an imputer, as a flow has no answer to a missing number, and a tenth of them are taken out
# first. One thing to remember: a density is one of the numbers that it is *given*. Put a
# `StandardScaler` before the estimator and `score_samples` speaks of scaled units; leave scaling to
# the model and it speaks of yours.

# %%
holes = np.random.default_rng(0).random(x_train.shape) < 0.1
flow = GenerativeClassifier("ib-inn", epochs=15, random_state=0)
pipeline = make_pipeline(SimpleImputer(), flow)
scores = cross_val_score(pipeline, np.where(holes, np.nan, x_train), y_train, cv=3)
print("accuracy of three folds:", scores.round(3))

# %% [markdown]
# ## Your own network
#
# A feed-forward system takes any module from `(B, *shape)` to `(B, D)` as its `backbone`. This one
# reads a digit as a sentence of eight rows. Nothing else changes: mixture, objective, loop and
# evaluation are those of variational classification (Dhuliawala et al., TMLR 2023). Only the seed
# is your own affair, as these weights are drawn before flowclf sees them.


# %%
class RowReader(nn.Module):
    """(B, 1, 8, 8) to (B, D): a GRU that reads the rows, top to bottom."""

    def __init__(self, latents: int = 16) -> None:
        super().__init__()
        self.read = nn.GRU(8, 64, batch_first=True)
        self.out = nn.Linear(64, latents)

    def forward(self, x: Tensor) -> Tensor:
        """The last state, made latents."""
        _, last = self.read(x[:, 0])
        return self.out(last[0])


torch.manual_seed(0)
digits = flowclf.load_dataset("digits")
config = flowclf.make_config(
    "vc", "digits", digits.shape, overrides=[{"train": {"epochs": 30}, "data": {"augment": "none"}}]
)
reader = flowclf.train(config, digits, backbone=RowReader()).model
found = flowclf.evaluate(reader, digits.test)
print(f"accuracy {found['accuracy']:.1%}, ECE {found['ece']:.3f}")

# %% [markdown]
# ## Your own coupling
#
# A coupling leaves half of the numbers as they are and maps each of the others by a monotone
# function whose parameters a network computes from the first half (Dinh, Sohl-Dickstein and
# Bengio, "Density estimation using Real NVP", 2017). The function is all there is to define: both
# directions and its log-derivative. Ours is the sinh-arcsinh map of Jones and Pewsey
# ("Sinh-arcsinh distributions", Biometrika 2009), which bends tails:
#
# $$y = \sinh\bigl(e^{s}\,\mathrm{asinh}\,x + t\bigr),\qquad
# \log\frac{dy}{dx} = s + \log\cosh\bigl(e^{s}\,\mathrm{asinh}\,x + t\bigr) - \tfrac12\log(1+x^2)$$
#
# The network's numbers are kept within bounds, since $\sinh$ grows as fast as $\exp$: without them
# this map soon trains to NaN.


# %%
@dataclass(frozen=True)
class SinhArcsinh:
    """y = sinh(e^s asinh(x) + t), with s within ±0.5 and t within ±2."""

    parameters_per_dim: int = 2

    def forward(self, x, parameters):
        """y and log|dy/dx| summed to (B,)."""
        s, t = self._unpack(parameters)
        inner = s.exp() * x.asinh() + t
        return inner.sinh(), self._log_det(x, inner, s)

    def inverse(self, y, parameters):
        """x and log|dx/dy| summed to (B,)."""
        s, t = self._unpack(parameters)
        inner = y.asinh()
        x = ((inner - t) * (-s).exp()).sinh()
        return x, -self._log_det(x, inner, s)

    def _unpack(self, parameters):
        s, t = parameters.chunk(2, dim=1)
        return 0.5 * s.tanh(), 2 * t.tanh()

    def _log_det(self, x, inner, s):
        return (s + inner.cosh().log() - 0.5 * (1 + x.square()).log()).flatten(1).sum(1)


# %% [markdown]
# ## Check it before you trust it
#
# A wrong log-determinant does not crash. It trains, samples, and reports densities that are wrong,
# usually too good. A round trip does not find it either: an error with the same size in both
# directions cancels. `assert_invertible` therefore compares both log-determinants with the
# autograd Jacobian, in float64, and with random weights, as a coupling that starts as the identity
# would pass whatever it is.

# %%
generator = torch.Generator().manual_seed(0)
dense = partial(MLP, generator=generator, hidden=(32,))
coupling = randomize(Coupling((4,), dense, SinhArcsinh()), generator).double().eval()
x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
assert_invertible(coupling, x)
print("log-determinants agree with the Jacobian, both ways")

# %% [markdown]
# Would it have noticed? A check that never fails is worth nothing, so here is the same map with a
# typical slip: the term of $\mathrm{asinh}$ was forgotten. Its round trip is perfect, and it is
# rejected all the same.


# %%
class Forgetful(SinhArcsinh):
    """Without -½ log(1 + x²)."""

    def _log_det(self, x, inner, s):
        return (s + inner.cosh().log()).flatten(1).sum(1)


wrong = randomize(Coupling((4,), dense, Forgetful()), generator).double().eval()
z, log_det = wrong(x)
back, inverse_log_det = wrong.inverse(z)
print(f"round trip: x off by {(back - x).abs().max():.0e}, "
      f"log-dets cancel to {(log_det + inverse_log_det).abs().max():.0e}")  # fmt: skip
try:
    assert_invertible(wrong, x)
except ContractError as error:
    print("rejected:", error)

# %% [markdown]
# ## Put it to work
#
# Rotations and couplings in turn make a chain, and a chain is a `backbone` as any other network
# is: of a system whose encoder is a flow, here IB-INN. `fit_statistics` tells it the units of the
# data. Two interleaved half-moons are the task, since in two dimensions everything can be seen.

# %%
points, labels = make_moons(1000, noise=0.1, random_state=0)
x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(labels)

mix = partial(Rotation, generator=generator)
bend = partial(two_sided_coupling, conditioner=dense, univariate=SinhArcsinh())
network = Chain.grow((2,), [mix, bend] * 4)
model = flowclf.build("ib-inn", shape=(2,), classes=2, beta=1.0, backbone=network)
model.fit_statistics(x, y)

# %% [markdown]
# And the loop: draw a batch, ask for the loss, step. That is all training is. What
# `flowclf.train` adds is a schedule, checkpoints, and that nobody has to write it again.

# %%
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
model.train()
for step in range(801):
    rows = torch.randint(len(x), (128,), generator=generator)
    terms = model.loss(x[rows], y[rows])
    optimizer.zero_grad()
    terms["total"].backward()
    nn.utils.clip_grad_norm_(model.parameters(), 8.0)
    optimizer.step()
    if step % 200 == 0:
        print(f"{step:4d}", {name: round(value.item(), 3) for name, value in terms.items()})
model.eval().fit_latents(x, y)

# %% [markdown]
# The model is a full member of the family: every function for the others takes it as well. Left is
# the density, $\log p(x)$, right the decision, $p(1\,|\,x)$. An ordinary classifier has only the
# right one, and there it is sure of itself far away from all data, where the left one says that
# nothing has been seen.

# %%
axis = torch.linspace(-2.5, 3.5, 120), torch.linspace(-2, 2.5, 90)
grid = torch.cartesian_prod(*axis)
with torch.no_grad():
    density = model.log_prob(grid).view(120, 90).T
    decision = model.log_posterior(grid).exp()[:, 1].view(120, 90).T

figure = Figure(figsize=(9, 3.6), layout="constrained")
left, right = figure.subplots(1, 2, sharey=True)
shades = left.contourf(*axis, density.clamp_min(-12), levels=12, cmap="Greys")
figure.colorbar(shades, ax=left, label="log p(x), nats")
shades = right.contourf(*axis, decision, levels=10, cmap="RdBu")
figure.colorbar(shades, ax=right, label="p(1|x)")
for k, color in enumerate(("#b2182b", "#2166ac")):
    left.scatter(*x[y == k].T, s=2, color=color)
    right.scatter(*x[y == k].T, s=2, color="black")
figure

# %% [markdown]
# Last a check that needs no reference: a density has to integrate to one. Sum it over a fine grid.

# %%
side = torch.linspace(-4, 5, 600)
cell = float(side[1] - side[0]) ** 2
with torch.no_grad():
    total = model.log_prob(torch.cartesian_prod(side, side)).double().exp().sum() * cell
print(f"∫ p(x) dx = {total:.3f}")
