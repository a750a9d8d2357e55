"""The Hugging Face hub, asked once whether it answers: its own client asks again and again for half a minute a file."""

import os
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

from huggingface_hub import constants

TIMEOUT = 5.0  # seconds
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


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
    is_offline = constants.HF_HUB_OFFLINE or any(os.environ.get(variable, "0") not in ("", "0") for variable in OFFLINE)
    return not (Path(name).exists() or is_offline or answers())


def check_hub(name: str, setting: str) -> None:
    """Raise ValueError where a name is no local folder and the hub cannot be asked."""
    if is_silent(name):
        raise ValueError(
            f"{setting}={name}: no folder here is called so, and {constants.ENDPOINT} does not answer; give a local "
            "folder, or set HF_HUB_OFFLINE=1 to use what the hub's cache holds"
        )
