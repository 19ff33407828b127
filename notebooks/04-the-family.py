# %% [markdown]
# # 4 · The family, on one core
#
# Five papers, five names, and one idea: an encoder into a latent space, a price on what it keeps of
# $x$ (the *rate*), and a reward for what it says about $y$ (the *decision*). They differ in what
# the encoder is, and that decides which questions the model can answer afterwards. Here are all
# five on the same images, so that one can choose by the question.
#
# | system | encoder | paper |
# |---|---|---|
# | IB-INN | invertible | Ardizzone et al., NeurIPS 2020 |
# | VC | a point, as in any network | Dhuliawala et al., TMLR 2023 |
# | BVAE | a Gaussian, and a decoder | Salah and Yevick, 2024 |
# | VAE-AS | a Gaussian, and a decoder | Li, 2019 |
# | Untapped | a label and a Gaussian, and a decoder | Gemp et al., 2017 |

# %%
import torch

import flowclf
from flowclf.figures import (
    block_figure,
    class_samples,
    embedded_latents,
    principal_figure,
    reconstructed,
    reconstruction_figure,
)

# %% [markdown]
# ## Train
#
# Same data, same split, same seed, 20 epochs each, no augmentation, and little changed of each
# system's own preset. That is a fair start and no fair race: nobody tuned any of them to be at its
# best here, and 20 epochs are more work for a flow than for a small encoder.
#
# The autoencoders get a likelihood of grey levels (`logistic`), so that their bounds are about the
# same thing as the flow's density. VAE-AS needs a weight on its label branch here
# (`branch=1`): by itself it learns without labels, and the branch would merely read its latents.

# %%
data = flowclf.load_dataset("digits")
common = {"train": {"epochs": 20}, "data": {"augment": "none"}}
own = {
    "ib-inn": {"network": {"kind": "mlp", "blocks": 6, "hidden": [128], "dropout": 0.1}},
    "vc": {"latent": 10},
    "bvae": {"likelihood": "logistic"},
    "vae-as": {"likelihood": "logistic", "latent": 10, "objective": {"branch": 1.0}},
    "untapped": {"likelihood": "gaussian"},
}
models = {}
for system, settings in own.items():
    config = flowclf.make_config(system, "digits", data.shape, overrides=[common, settings])
    models[system] = flowclf.train(config, data).model
print("trained:", ", ".join(models))

# %% [markdown]
# ## Ask all of them everything
#
# Every system shows the same face, so one loop is enough. "Bits/dim" is exact for a flow; for a
# system with a decoder it is an upper bound, as log p(x) is known only from below; where there is a
# dash the system has no model of the images, or none in grey levels.

# %%
print("system    accuracy    ECE   bits/dim  p(x)    draws x  latents")
for system, model in models.items():
    found = flowclf.evaluate(model, data.test)
    bits = "-" if found["bits_per_dim"] is None else f"{found['bits_per_dim']:.2f}"
    print(
        f"{system:8}  {found['accuracy']:8.1%}  {found['ece']:.3f}  {bits:>8}  "
        f"{found['density']:6}  {'yes' if model.can_sample else 'no':7}  {model.mixture.dims}"
    )

# %% [markdown]
# Read the columns, not only the winners, and remember that with 450 test images the interval of
# each accuracy is more than two per cent wide. VC decides well and answers no other question: there
# is no p(x) and nothing to draw. The flow has an exact density, and pays with as many latents as
# there are pixels. The autoencoders have few latents and a bound; whether the images are worse
# known or the bound is loose the number alone does not say (`model.importance_bound` tightens it).
# Untapped's Gaussian, of one width for all pixels, is a poor density of grey levels; the system was
# made for data with few labels, which is not what was asked of it here.
#
# ## Look into the latent spaces
#
# The same test images in each latent space, on its first two principal components. IB-INN and VC
# have a Gaussian for each class, whose mean is a cross, and are paid for latents that lie about it.
# The autoencoders' prior is one standard normal for all classes (there a cross is the average of a
# class's training images), and what separates the classes is the label branch. Untapped has the
# label as a part of the latents: its first component is style, within every class the same.

# %%
principal_figure(
    {name: embedded_latents(models[name], data.test) for name in ("ib-inn", "vc", "bvae")},
    data.class_names,
)

# %%
principal_figure(
    {name: embedded_latents(models[name], data.test) for name in ("vae-as", "untapped")},
    data.class_names,
)

# %% [markdown]
# ## What is kept of x?
#
# Encode, decode, compare. The flow gives every image back exactly, which says nothing about its
# quality: it is invertible, and would do so untrained. For the others this is a test: what comes
# back is what ten numbers (Untapped: a label and five) hold. VC has no way back at all.

# %%
decoding = {name: model for name, model in models.items() if model.can_sample}
reconstruction_figure(
    {
        "test images": reconstructed(decoding, data.test.x[:10]),
        "training images": reconstructed(decoding, data.train.x[:10]),
    },
    data.levels,
)

# %%
with torch.no_grad():
    for name, images in reconstructed(decoding, data.test.x).items():
        levels = images.clamp(0.5, data.levels - 0.5)
        error = (levels - data.test.x - 0.5).abs().mean()
        if name != "x":
            print(f"{name:9} mean error {error:.2f} of {data.levels - 1} grey levels")

# %% [markdown]
# ## Who can draw, and what?
#
# All that decode can draw a given class, at a temperature of 0.7 here. The flow draws from the
# class's Gaussian, Untapped decodes a label with a random style. The other two have no Gaussian for
# a class: they draw around the average of its training latents, with the spread of a prior
# that is for all classes together, and keep rather what their branch takes for the class.

# %%
samples = {name: class_samples(model, 4, 0.7, seed=0) for name, model in decoding.items()}
block_figure(samples, data.class_names, data.levels)

# %% [markdown]
# The flow's draws have the noise of single pixels in them, as its density is one of whole images
# with all their grain; a decoder returns the mean of $p(x\,|\,z)$, from which the noise was taken
# away. Smooth pictures are not a better density: the table above is the place to compare that.
#
# ## Which one?
#
# - Only decisions, few data: `vc`, or the plain `ce` that it generalises.
# - Decisions, and "have I seen such a thing before?": `ib-inn`.
# - A small code of x that you want to look at or reuse: `bvae`, or `vae-as` where you want to
#   know how much of it is information about x.
# - Few labels and many images: `m2`, `untapped`, and `ib-inn`, which takes unlabelled rows as well.
#
# In doubt train two: `flowclf.train` is the same call for all of them, and so is the evaluation.
