"""IF-Guide: language models that do not learn an unwanted behaviour in the first place."""

import os
from importlib.util import find_spec

__version__ = "0.1.0"

# A notebook hands its backend on to what it starts; where that is not installed, matplotlib cannot be imported at all.
_module, _, _backend = os.environ.get("MPLBACKEND", "").partition("://")
if _module == "module" and find_spec(_backend.partition(".")[0]) is None:
    del os.environ["MPLBACKEND"]
