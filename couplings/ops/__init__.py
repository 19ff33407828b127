"""Custom operators with hand-written backwards; `couplings.functional` is their public face.

One file an operator, all of one build: schema, fake (shapes only), kernels (`eager`: any device,
no compiler; `triton_*`: CUDA, imported when the first CUDA tensor arrives), autograd. Their
definitions are the plain functions in `reference`, which also serve wherever a program is being
transformed (see `dispatch`).
"""
