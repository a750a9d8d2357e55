"""The Hugging Face hub, asked once whether it answers: its own client asks again and again for half a minute a file."""

import os
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

from huggingface_hub import constants

TIMEOUT = 5.0  # seconds


@cache
def answers() -> bool:
    """Whether the hub can be reached, whatever it says."""
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=TIMEOUT)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def is_silent(name: str) -> bool:
    """Whether a name has to be asked of the hub, and the hub does not answer."""
    return not (Path(name).exists() or constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") or answers())


def check_hub(name: str, setting: str) -> None:
    """Raise ValueError where a name is no local folder and the hub cannot be asked."""
    if is_silent(name):
        raise ValueError(
            f"{setting}={name}: no folder here is called so, and {constants.ENDPOINT} does not answer; give a local "
            "folder, or set HF_HUB_OFFLINE=1 to use what the hub's cache holds"
        )
