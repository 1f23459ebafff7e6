"""Certificates into `ssl` without a private key ever being a file."""

import os
import ssl

from meltemi.base.redacted import Redacted


def load_chain(context: ssl.SSLContext, chain: bytes, key: Redacted) -> None:
    """Load a PEM chain and its key; later handshakes of a live context use them.

    Python's ssl reads keys from files only, so they go through anonymous memory.
    """
    fd = os.memfd_create("chain", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as out:
            out.write(key.reveal() + b"\n" + chain)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
