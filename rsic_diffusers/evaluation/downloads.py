"""Downloads of what a metric or codec needs, where there may be no connection."""

import socket
from contextlib import contextmanager


PATIENCE = 10  # seconds without an answer


@contextmanager
def limited_patience():
    """torch.hub waits without limit by itself, and a firewall may never answer."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)
