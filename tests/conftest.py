import torch

# A warning that torch gives once a process would fail whichever test came first.
torch.set_warn_always(True)
