# %% [markdown]
# # 3 · Walk through latent space
#
# A flow is a bijection: every image has exactly one latent vector, and every latent vector can be
# decoded. So one can go for a walk in latent space and look at what the model believes along the
# way, which is the closest one gets to asking it for reasons. This notebook walks between images,
# between classes, through the undecided, and to counterfactuals; and it says at each stop what the
# pictures do *not* prove.
#
# The walks follow Ardizzone et al. (IB-INN, NeurIPS 2020), Dhuliawala et al. ("Variational
# classification", TMLR 2023) and Mackowiak et al. ("Generative classifiers as a basis for
# trustworthy image classification", CVPR 2021).

# %%
import torch

import flowclf
from flowclf.evaluation import predict_split
from flowclf.evaluation.counterfactuals import counterfactual, decision_contributions
from flowclf.evaluation.explain import explain_rows, explanations
from flowclf.figures import (
    ambiguous_walk,
    ambiguous_walk_figure,
    block_figure,
    class_samples,
    explain_figure,
    mean_walk_figure,
    mean_walks,
    model_interpolation_figure,
    temperature_figure,
)

# %% [markdown]
# One model for the whole notebook: the one of notebook 1.

# %%
data = flowclf.load_dataset("digits")
config = flowclf.make_config(
    "ib-inn", "digits", data.shape, beta=1.0, seed=0, overrides=[{"train": {"epochs": 30}}]
)
model = flowclf.train(config, data).model
p = predict_split(model, data.test)
print(f"accuracy {(p.log_posterior.argmax(1) == p.y).float().mean():.1%}")

# %% [markdown]
# ## Between two images
#
# The simplest walk is a straight line between two latents, decoded. Beside it is the straight line
# between the same two images in pixels, which is a mere cross-fade: in the middle both are there,
# half transparent. The latent line has to get from one to the other by images of its own.

# %%
first = torch.tensor([int((p.y == k).nonzero()[0]) for k in (4, 7, 0, 8)])
second = torch.tensor([int((p.y == k).nonzero()[1]) for k in (9, 2, 6, 3)])
x0, x1 = data.test.x[first] + 0.5, data.test.x[second] + 0.5  # the middle of each grey level
latent = model.interpolate(x0, x1, steps=7)
pixels = torch.stack([x0.lerp(x1, weight) for weight in torch.linspace(0, 1, 7)])
strips = {"latent": latent.transpose(0, 1), "pixels": pixels.transpose(0, 1)}
model_interpolation_figure(strips, data.levels)

# %% [markdown]
# On images as small as these the eye can hardly say which way is better. The model can: here is the
# density of every step, averaged over the four pairs. Both ways have the same ends.

# %%
with torch.no_grad():
    for name, path in {"latent": latent, "pixels": pixels}.items():
        nats = [float(model.log_prob(x).mean()) / model.dims for x in path]
        print(f"{name}  log p(x)/d in nats:", *(f"{value:6.2f}" for value in nats))

# %% [markdown]
# What this does not prove: that the images between are *right*. The density is the model's own, and
# a straight line is just one way; nothing says that the data lie along it.
#
# ## Between two classes
#
# From the average latent of one class to that of another: no image is at either end, only what the
# images of a class have in common. These are smoother than any digit that somebody wrote, and that
# is the caveat: an average latent is no typical one. In many dimensions a mean lies far from every
# sample, like the family with 1.6 children.

# %%
pairs = [(4, 9), (3, 8), (7, 1), (5, 6)]
mean_walk_figure(mean_walks(model, pairs), pairs, data.class_names, data.levels)

# %% [markdown]
# ## Through the undecided
#
# Which test images could most nearly be something else? Walk through them, parallel to the line
# between the averages of the two likeliest classes: everything else about the image, its slant and
# its weight, stays as it is, and only the class changes. Beneath are the posteriors (such curves
# are in Dhuliawala et al. 2023, Figure 7). The framed image is the real one; left and right of it
# is what the model would rather have seen.

# %%
doubtful = p.log_posterior.topk(2).values[:, 1].topk(3).indices
print("labels of the three:", p.y[doubtful].tolist())
walks = [ambiguous_walk(model, x) for x in data.test.x[doubtful]]
ambiguous_walk_figure(walks, data.class_names, data.levels)

# %% [markdown]
# The curves are those of two classes with equal covariances: along a line between them the log-odds
# change evenly, in every model of this kind. That the curves are smooth is a property of the latent
# mixture and not a virtue of this network.
#
# ## Counterfactuals
#
# "What would have to be different for this 4 to be a 9?" The model can answer: it moves the latent
# along the difference of the class means just as far as it takes for the other class to reach a
# given posterior, and decodes. Each row begins with the test image that the model finds likeliest
# of its class, so with a decision that is not in doubt.

# %%
index = torch.tensor([int(p.log_prob.masked_fill(p.y != a, -torch.inf).argmax()) for a, _ in pairs])
x, targets = data.test.x[index], torch.tensor([b for _, b in pairs])
goals = {"x": None, "posterior ½": 0.5, "0.9": 0.9, "0.9999": 0.9999}
found = {name: goal and counterfactual(model, x, targets, goal) for name, goal in goals.items()}
blocks = {name: (x if each is None else each.x)[:, None].float() for name, each in found.items()}
block_figure(blocks, [f"{a} → {b}" for a, b in pairs], data.levels)

# %%
moved = found["0.9"]
with torch.no_grad():
    before, after = (model.log_prob(each) / model.dims for each in (x, moved.x))
for k, (a, b) in enumerate(pairs):
    change = (moved.x[k] - x[k] - 0.5).abs()
    print(
        f"{a} → {b}: α = {moved.shift[k]:.2f}, pixels change by {change.mean():.1f} of "
        f"{data.levels - 1} levels on average, by {change.max():.1f} at most; "
        f"log p(x)/d {before[k]:.2f} → {after[k]:.2f}"
    )
print(f"all test images: log p(x)/d {p.log_prob.mean() / model.dims:.2f} on average")

# %% [markdown]
# This is the sobering stop of the walk. The changes that convince the model are mostly small, not
# always where we would look for the difference between the two digits, and the result need not look
# like the target to us. Yet by the model's own density it is as plausible as most real images.
# So a counterfactual is a true statement about the *model*, about where its boundary is, and none
# about what makes a 9 a 9. An adversarial example is the same thing with another intention.
#
# ## Which pixels spoke for the decision?
#
# Contributions take the decision apart: integrated gradients of the log-odds (Sundararajan, Taly
# and Yan, "Axiomatic attribution for deep networks", ICML 2017), along a path of decoded latents
# that begins where neither class is favoured. What makes them worth printing is that they add up:
# the sum over all pixels is the log-odds of the decision, up to the error of the integral. Check
# it.

# %%
likeliest = p.log_posterior[index].topk(2).indices
contributions = decision_contributions(model, x, *likeliest.T, steps=256)
log_odds = p.log_posterior[index].gather(1, likeliest)
for (a, b), own, (first, second) in zip(likeliest, contributions, log_odds, strict=True):
    print(f"{a} against {b}: {own.sum():6.3f} nats by pixels, {first - second:6.3f} by the model")

# %% [markdown]
# Blue pixels spoke for the predicted class, red ones for the runner-up. The path on the right does
# not stop where the model is convinced, but goes on to where the runner-up's training images are on
# average, so that there is something to be seen.

# %%
few = data.test.take(index)
rows = explain_rows(model, few, p.log_posterior[index], count=len(index))
explain_figure(explanations(model, few, rows), data.class_names, data.levels)

# %% [markdown]
# They say where the evidence is, given this model and this baseline. Another baseline gives another
# picture, and a pixel that the model uses need not be one that matters in the world.
#
# ## Draws, at three temperatures
#
# Last, walk nowhere in particular: draw from $p(x\,|\,y)$. Temperature scales the distance from the
# class's centre. At 1 these are draws from the density that classified everything above; below it
# they are cleaner and more alike. The same random numbers are used in each block, so an image can
# be followed from left to right.

# %%
blocks = {t: class_samples(model, 4, temperature=t, seed=0) for t in (0.4, 0.7, 1.0)}
temperature_figure(blocks, data.class_names, data.levels)

# %% [markdown]
# Choose the temperature by what you show. For pretty pictures take a low one; to judge the model
# take 1, since that is what it believes. And compare with notebook 1, where real digits were told
# from outliers by this density: a model can rank images well and still draw them badly, as most of
# its probability need not look like anything.
#
# ## Larger images
#
# The same calls do it for images of any size. MNIST has 28×28 pixels; β̃ = 0.05 leaves most of the
# weight to the density, which is what one sees in draws and walks. Three minutes of two cores:
#
#     flowclf train ib-inn --data mnist --beta 0.05 --set data.validation=0.1 --out runs/mnist
#     flowclf evaluate runs/mnist --suite samples    # which temperature is most like real digits?
#     flowclf sample runs/mnist --temperature 0.6 --out samples.png
#     flowclf interpolate runs/mnist --out walk.png
#     flowclf explore runs/mnist                         # walk yourself, in the browser
#
# ![twelve draws of each digit at temperature 0.6](pictures/mnist-samples.png)
#
# A network that saw real digits alone recognises 98.8 % of such draws as the digit they were drawn
# of. Straight lines between test images:
#
# ![walks between digits of the test set](pictures/mnist-walk.png)
#
# And photographs of CIFAR-10, 32×32 (`flowclf train ib-inn --data cifar10`, an hour of two cores):
#
# ![walks between photographs](pictures/cifar10-walk.png)
#
# Photographs melt into each other rather than turn into something third: 4.3 bits a dimension are
# textures and colours, not yet objects.
#
# Draws of a flow that learned the density of each class alone, for two hours of a core (`flowclf
# train class-nll --data cifar10 --preset cifar-dense --epochs 20`): at 3.6 bits a dimension there
# are skies, seas and meadows, and hardly an object.
#
# ![draws of photographs, a row a class](pictures/cifar10-samples.png)
