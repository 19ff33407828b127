"""Adapters to FrEIA 0.2 and nflows 0.14, both ways. `couplings` itself never imports them."""

from couplings.interop.freia import FromFrEIA, ToFrEIA
from couplings.interop.nflows import FromNFlows, ToNFlows

__all__ = ["FromFrEIA", "FromNFlows", "ToFrEIA", "ToNFlows"]
