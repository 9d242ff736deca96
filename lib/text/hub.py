"""Ask once, and quickly, whether the Hugging Face hub can be reached."""

import functools
import os
import socket
from urllib.parse import urlsplit


@functools.cache
def reachable(timeout: float = 3.0) -> bool:
    """True if the hub answers on its port within ``timeout`` seconds; asked once a process.

    The offline switches of huggingface_hub and datasets are obeyed.
    """
    for switch in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(switch, "").lower() in ("1", "true", "yes", "on"):
            return False
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        with socket.create_connection((host, 443), timeout=timeout):
            return True
    except OSError:
        return False
