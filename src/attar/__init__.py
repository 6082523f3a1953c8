"""attar: from a large teacher to a small student that you can ship, with proof."""

from attar.version import __version__

__all__ = ["__version__"]
