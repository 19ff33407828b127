# %% [markdown]
# # 2 · Sweep β̃, and read the trade-off
#
# A latent space that keeps everything about $x$ describes images well; one that keeps only the
# class decides well. The information bottleneck puts a price on it (Tishby, Pereira and Bialek,
# 1999). IB-INN trains a flow on
#
# $$\tfrac{2}{1+\tilde\beta}\,\bigl(L_X/d - \tilde\beta\,L_Y\bigr),\qquad
# L_X = -\mathbb{E}\log q(x),\quad L_Y = \mathbb{E}\log q(y\,|\,x)$$
#
# (Ardizzone et al., NeurIPS 2020, Eq. 14): a small β̃ pays for the density, a large one for the
# decision. Which β̃ is right depends on what you need the model for, so it is worth seeing the
# whole curve before choosing. This notebook trains six models along it, reads what they traded, and
# then trains a single one for all β̃ at once.

# %%
import tempfile
from pathlib import Path

import flowclf
from flowclf.figures import (
    embedded_latents,
    information_plane_figure,
    model_interpolation_figure,
    model_interpolations,
    principal_figure,
    trade_off_figure,
)
from flowclf.many import Sweep, parse_betas, plan_sweep, run_sweep

# %% [markdown]
# ## Plan
#
# A sweep is a plan first: all that can be wrong with settings or data is found before anything
# trains. β̃ is spaced evenly in its logarithm, as the curve bends over orders of magnitude. The
# network is a small dense one and 15 epochs are few, so that you need not wait; the shape of the
# curve does not need more. The same from the command line:
#
#     flowclf sweep ib-inn --betas 0.02:62.5:6 --data digits --out sweeps/digits \
#         --set network.kind=mlp --set network.hidden=128 --set train.epochs=15

# %%
network = {"kind": "mlp", "blocks": 4, "hidden": [128], "dropout": 0.1}
data = flowclf.load_dataset("digits")
scratch = tempfile.TemporaryDirectory()  # take a folder of your own to keep what you train
folder = Path(scratch.name)
betas = parse_betas("0.02:62.5:6")
settings = {"network": network, "train": {"epochs": 15}}
sweep = Sweep("ib-inn", "digits", folder, betas=betas, overrides=settings)
plan = plan_sweep(sweep)
print(*[point.name for point in plan.points], sep="\n")

# %% [markdown]
# ## Run
#
# Each run is a folder that explains itself. Stop the sweep whenever you like: run again, this cell
# goes on where it was, and what is done is not repeated (`workers=2` trains two at a time).

# %%
for point, outcome in run_sweep(plan, workers=1):
    print(f"β̃ = {point.config.beta:<5g} accuracy {outcome.rows[0]['accuracy']:.1%}")

# %% [markdown]
# ## Measure
#
# Accuracy alone would see only half of the trade. So every model is also asked for its calibration,
# its bits per dimension, and for two pieces of information: $I(Y; Z)$, what the latents say about
# the class, and $CI(X; Z)$, what they say about the image beyond the noise it was trained with. A
# flow loses nothing, so plain $I(X; Z)$ would be infinite; the paper's cross-information is the
# finite quantity that its loss really limits (Sec. 3.1).

# %%
suites = ["accuracy", "calibration", "likelihood", "information"]
models = {point.config.beta: flowclf.load(folder / point.name) for point in plan.points}
rows = [
    {"system": "six models", "beta": beta, **flowclf.evaluate(model, data.test, suites)}
    for beta, model in models.items()
]
print("    β̃  accuracy    ECE  bits/dim  I(Y;Z)  CI(X;Z)")
for row in rows:
    print(
        f"{row['beta']:6g}  {row['accuracy']:8.1%}  {row['ece']:.3f}  {row['bits_per_dim']:8.2f}"
        f"  {row['label_information_nats']:6.2f}  {row['input_information_nats']:7.1f}"
    )

# %% [markdown]
# ## Read the trade-off
#
# Follow each curve from left to right. Bits per dimension get worse with every step, as that is
# what a larger β̃ gives away. Accuracy rises steeply at first and then no more: beyond the bend one
# pays in density and gets nothing for it. The calibration error is the one to read with care, as
# 450 test images and one seed make it jump about (`seeds=range(3)` in the sweep draws bands). The
# log posterior of the true class (bottom left) is steadier, and it is what the decision term
# optimises.

# %%
metrics = ["accuracy", "ece", "negative_log_posterior_nats", "bits_per_dim"]
trade_off_figure(rows, metrics)

# %% [markdown]
# ## The information plane
#
# The same trade without β̃ on an axis: what is known of the class against what is known of the
# image. The dashed line is all there is to know of the class, $H(Y) = \log 10$. A good model is in
# the upper left: a better density *is* less cross-information, and what β̃ moves to the right is
# knowledge of $x$ that the decision does not need. The curve has a corner, and in that corner is
# the β̃ that you would choose without any other reason.

# %%
information_plane_figure(rows, classes=10)

# %% [markdown]
# ## What β̃ does to latents and images
#
# Numbers do not say what became of the model. Below are the test images in latent space, on their
# first two principal components: with little β̃ the classes are clouds that overlap. With much of
# it they are pushed out, further than the crosses where the model has the classes' means: nothing
# pays for filling the Gaussians any more, and what is far out is classified all the more surely.

# %%
few = {beta: models[beta] for beta in (betas[0], betas[2], betas[-1])}
principal_figure(
    {f"β̃ = {beta:g}": embedded_latents(model, data.test) for beta, model in few.items()},
    data.class_names,
)

# %% [markdown]
# And these are straight lines in latent space between the same pairs of test images, decoded by the
# three models (after Figure 6 of the paper). Both ends are exact in every row, as each model is
# invertible. What differs is the way between them: the model that cares for the decision passes
# images with more speckles, which the others, knowing the density better, avoid.

# %%
strips = model_interpolations(
    {f"β̃ = {beta:g}": model for beta, model in few.items()}, data.test, pairs=4, steps=7, seed=1
)
model_interpolation_figure(strips, data.levels)

# %% [markdown]
# ## One model for every β̃
#
# Six trainings for one curve are affordable here and not on large data. With
# `network.condition=beta` the couplings and the class means see log β̃, each training step draws a
# β̃ at random, and `move_to` then goes anywhere in the range (none of the papers has this). It gets
# 90 epochs: as many updates as the six together, and six times as many as each of them.

# %%
config = flowclf.make_config(
    "ib-inn",
    "digits",
    data.shape,
    overrides=[
        {
            "network": network | {"condition": "beta"},
            "objective": {"betas": (betas[0], betas[-1])},
            "train": {"epochs": 90},
        }
    ],
)
everywhere = flowclf.train(config, data).model

# %%
for beta in betas:
    everywhere.move_to(beta)
    found = flowclf.evaluate(everywhere, data.test, suites)
    rows.append({"system": "one for all β̃", "beta": beta, **found})
trade_off_figure(rows, metrics)

# %% [markdown]
# At every β̃ the one model decides better than the model made for that β̃, most of all at the left
# end: what it learns at a large β̃ serves it at a small one, too. In exchange its curve of bits per
# dimension is flatter. It does not reach the density of the specialist at β̃ = 0.02, nor does it
# give away as much as the one at the other end.
#
# Two reasons against reading too much into this. Each of the six saw the data for 15 epochs only
# and would gain from more, so this compares equal *total* work, not the models at their best. And
# it is one seed of one small data set; `flowclf bench one-model` asks the same of MNIST, with three
# seeds.
