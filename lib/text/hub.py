"""Ask once, and quickly, whether the Hugging Face hub can be reached."""

import functools
import os
import socket
from urllib.parse import urlsplit


@functools.cache
def reachable(timeout: float = 3.0) -> bool:
    """True if the hub accepts a connection on port 443; asked once a process.

    ``timeout`` in seconds holds for each address that the name resolves to. Asks directly: a hub
    behind a proxy counts as not reachable. The offline switches of huggingface_hub, datasets and
    transformers are obeyed.
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
