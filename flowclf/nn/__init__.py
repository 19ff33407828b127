"""Feed-forward networks from data to features (B, D) and back, with weights from a generator.

Written here since the kept libraries of such networks need torchvision.
"""

from flowclf.nn.decoders import conv_decoder, mlp_decoder
from flowclf.nn.plain import cnn, mlp
from flowclf.nn.residual import paper_residual_network, residual_network
from flowclf.nn.resnet import resnet, wide_resnet

__all__ = [
    "cnn",
    "conv_decoder",
    "mlp",
    "mlp_decoder",
    "paper_residual_network",
    "residual_network",
    "resnet",
    "wide_resnet",
]
