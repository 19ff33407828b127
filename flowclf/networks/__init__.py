"""Ready networks: from the shape of the data to an invertible chain that ends in a vector."""

from flowclf.networks.conv import conv_network
from flowclf.networks.mlp import mlp_network
from flowclf.networks.paper import paper_network

__all__ = ["conv_network", "mlp_network", "paper_network"]
