"""Feed-forward networks from data to features (B, D) and back, with weights from a generator.

Written here since the kept libraries of such networks need torchvision.
"""

from flowclf.nn.decoders import (
    ConvDecoderSettings,
    DecoderSettings,
    MLPDecoderSettings,
    conv_decoder,
    mlp_decoder,
)
from flowclf.nn.plain import CNNSettings, PlainSettings, cnn, mlp
from flowclf.nn.residual import (
    PaperResidualSettings,
    ResidualSettings,
    paper_residual_network,
    residual_network,
)
from flowclf.nn.resnet import CifarResNetSettings, WideResNetSettings, resnet, wide_resnet

__all__ = [
    "CNNSettings",
    "CifarResNetSettings",
    "ConvDecoderSettings",
    "DecoderSettings",
    "MLPDecoderSettings",
    "PaperResidualSettings",
    "PlainSettings",
    "ResidualSettings",
    "WideResNetSettings",
    "cnn",
    "conv_decoder",
    "mlp",
    "mlp_decoder",
    "paper_residual_network",
    "residual_network",
    "resnet",
    "wide_resnet",
]
