"""What a finished run shows: a comparison table, plots, and a page of scored training tokens.

The modules here are imported one by one, so that printing a table does not load matplotlib.
"""

from __future__ import annotations
