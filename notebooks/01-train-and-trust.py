# %% [markdown]
# # 1 · Train a generative classifier, and find out how far to trust it
#
# Most classifiers learn $p(y\,|\,x)$, and nothing else: shown a photograph of a sofa, a model of
# handwritten digits still has to name a digit. A *generative* classifier learns $p(x\,|\,y)$, what
# each class looks like, and decides by Bayes' rule. So it can also say how likely the input is at
# all, $p(x) = \sum_y p(x\,|\,y)\,p(y)$, and draw new ones.
#
# This notebook trains one on 1,347 small images and then asks the questions that should come before
# trusting it: how often is it right, does it know when it is not, and does it notice what it has
# never seen? The model is the IB-INN of Ardizzone et al., "Training normalizing flows with the
# information bottleneck for competitive generative classification" (NeurIPS 2020).

# %%
import torch

import flowclf
from flowclf.data import load_outliers
from flowclf.evaluation import Options, Subject, evaluate_subject
from flowclf.evaluation.baselines import baseline_rows
from flowclf.evaluation.calibration import (
    bootstrap_interval,
    expected_calibration_error,
    reliability,
)
from flowclf.evaluation.explain import explanations
from flowclf.figures import (
    block_figure,
    class_samples,
    explain_figure,
    reliability_figure,
    roc_figure,
    sample_figure,
    score_histograms,
)

# %% [markdown]
# ## The data
#
# scikit-learn brings these digits along: 8×8 pixels of 17 grey levels. Look at the data before
# anything else. Some of them are hard for us, too, which is worth knowing before a model is blamed.

# %%
data = flowclf.load_dataset("digits")
print(f"{len(data.train)} to train on, {len(data.test)} to test; shape {data.shape}")
block_figure({"test images": data.test.x[:24].unflatten(0, (2, 12))}, ["", ""], data.levels)

# %% [markdown]
# ## Train
#
# Everything that defines a run is one configuration: the defaults, then the preset for these data,
# then what is overridden here (30 epochs instead of 75, to save your time). β̃ says how much the
# model cares about the decision against the density; notebook 2 is about nothing else.
#
# `flowclf.train` hides nothing: its loop is a page of plain PyTorch in `flowclf/training/loop.py`.
# If you would rather write your own, notebook 5 does, in ten lines.

# %%
config = flowclf.make_config(
    "ib-inn", "digits", data.shape, beta=1.0, seed=0, overrides=[{"train": {"epochs": 30}}]
)
trained = flowclf.train(config, data)
model = trained.model
print(f"{trained.summary['parameters']:,} parameters learned")

# %% [markdown]
# ## How often is it right?
#
# An accuracy is an estimate: with 450 test images it comes with an interval (Wilson's, 95 %), and a
# difference smaller than that interval is no difference. Beside it stand two models that anybody
# can fit in a second, on the same images. Whatever they do as well is no reason to use a flow: on
# so few images quadratic discriminant analysis (QDA) is hard to beat at deciding.
#
# Bits per dimension say how well the images themselves are known: what a pixel would cost in a
# perfect compressor built on this model, so less is better. QDA has a density, too; logistic
# regression has none.

# %%
subject = Subject(model, data.test, training=data.train)
found = evaluate_subject(subject, ["accuracy", "calibration", "likelihood"])
low, high = found["accuracy_low"], found["accuracy_high"]
print(f"accuracy {found['accuracy']:.1%}, 95 % interval {low:.1%} to {high:.1%}\n")
for row in [{"system": "ib-inn", **found}, *baseline_rows(data.train, data.test, data.levels)]:
    bits = "no density" if row["bits_per_dim"] is None else f"{row['bits_per_dim']:.2f} bits/dim"
    known = row["accuracy"] is not None
    classes = f"{row['accuracy']:6.1%}   ECE {row['ece']:.3f}" if known else "no classifier     "
    print(f"{row['system']:20} {classes}   {bits}")

# %% [markdown]
# ## Does it know when it is wrong?
#
# Calibration asks: of all the decisions made with 80 % confidence, are 80 % right? The expected
# calibration error (ECE) is the average gap over bins of confidence (Guo et al., "On calibration
# of modern neural networks", ICML 2017). Few test images make few unsure ones, so this too
# gets an interval, by the bootstrap. A calibration error cannot be below zero, and that of even a
# perfect model is above it on 450 images.

# %%
p = subject.predictions
low, high = bootstrap_interval(
    expected_calibration_error, p.log_posterior, p.y, torch.Generator().manual_seed(0)
)
print(f"ECE {found['ece']:.3f}, 95 % interval {low:.3f} to {high:.3f}")
reliability_figure({"ib-inn": reliability(p.log_posterior, p.y)})

# %% [markdown]
# Almost all decisions fall into the last bin, so the curve to the left of it is made of a few
# images a bin, and jumps. The grey bars say how much each part of the curve is worth; without them
# such a diagram is not worth printing.
#
# ## How likely is an image?
#
# `log_prob` is the exact density, in nats and in the units of the data. A single such number says
# little, but they can be compared: here are the test images that the model finds most and least
# likely. "Likely" does not mean beautiful, nor easy to classify. A narrow 1 leaves most pixels
# black, and black is easily foreseen; a rare way of writing is not, however well we can read it.

# %%
order = p.log_prob.argsort()
ends = torch.stack((order[-12:].flip(0), order[:12]))
print(f"log p(x): mean {p.log_prob.mean():.1f} nats, from {p.log_prob.min():.1f} "
      f"to {p.log_prob.max():.1f}; in all {found['bits_per_dim']:.2f} bits/dim")  # fmt: skip
block_figure({"": data.test.x[ends]}, ["most likely", "least likely"], data.levels)

# %% [markdown]
# ## Does it notice what it has never seen?
#
# Now images that no digit is: test images with noise, in negative, and turned by any angle (some of
# which are still digits, so nobody should find all of these). Three scores are asked to tell
# them from test images: the density itself; typicality, its distance from the training images'
# average, as what is *too* likely is strange as well (Nalisnick et al., "Detecting
# out-of-distribution inputs to deep generative models using typicality", 2019); and the entropy of
# the decision, which is all that an ordinary classifier has.

# %%
outliers = tuple(load_outliers(kind, data) for kind in ("noise:0.15", "inverted", "rotated"))
block_figure(
    {"": torch.stack([each.x[:12] for each in outliers])},
    [each.name for each in outliers],
    data.levels,
)

# %%
options = Options(outliers=outliers, levels=data.levels)
subject = Subject(model, data.test, training=data.train, options=options)
shown = ("negative-log-prob", "typicality", "entropy")
print("AUROC with 95 % interval; 0.5 is chance")
for row in evaluate_subject(subject, ["ood"])["ood"]:
    if row["score"] in shown:
        interval = f"{row['auroc_low']:.3f} to {row['auroc_high']:.3f}"
        print(f"{row['set']:12} {row['score']:18} {row['auroc']:.3f}  ({interval})")

# %% [markdown]
# A single number hides how the scores lie. The histogram shows it: the further right, the less
# likely.

# %%
inside, outside = subject.outlier_scores
log_prob = {name: scores["negative-log-prob"] for name, scores in outside.items()}
score_histograms(inside["negative-log-prob"], log_prob, "−log p(x)/d in nats", "test images")

# %%
roc_figure(inside["negative-log-prob"], log_prob, "outliers by −log p(x)")

# %% [markdown]
# ## What does a doubtful decision look like?
#
# When a model hesitates, it should say between what, and why. For the four decisions it was least
# sure of: what spoke for the predicted class (blue) and for the runner-up (red), pixel by pixel, in
# nats that add up to the log-odds; and the way to the runner-up, drawn by the model itself. The
# idea of showing such paths is from Mackowiak et al., "Generative classifiers as a basis for
# trustworthy image classification" (CVPR 2021).
#
# Look at how little has to change: the posterior (right) turns over while the image still looks
# the same to us. That is what being undecided means.

# %%
rows = evaluate_subject(Subject(model, data.test, options=Options(explained=4)), ["explain"])
explain_figure(explanations(model, data.test, rows["explain"]), data.class_names, data.levels)

# %% [markdown]
# ## What does it believe a digit looks like?
#
# Last, the look that no ordinary classifier offers: draws from $p(x\,|\,y)$, a row a class.
# Sampling at temperature 0.7 keeps nearer to each class's centre than the density itself would, for
# cleaner images of less variety; notebook 3 shows other temperatures. Flaws that you see here are
# flaws of the very density that took the decisions above.

# %%
sample_figure(class_samples(model, 10, temperature=0.7, seed=0), data.class_names, data.levels)
