"""Figures that notebooks show; loads matplotlib, so it is imported only where one is made."""

from __future__ import annotations

from io import BytesIO

from matplotlib import figure

__all__ = ["Figure"]


class Figure(figure.Figure):
    """Shown by Jupyter as it is, which else takes `%matplotlib inline` or pyplot."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png", bbox_inches="tight")
        return png.getvalue()
