"""Ready networks: from the shape of the data to an invertible chain that ends in a vector."""

from couplings.networks.default import Mixing, conv_network, mlp_network
from couplings.networks.paper import paper_network

__all__ = ["Mixing", "conv_network", "mlp_network", "paper_network"]
