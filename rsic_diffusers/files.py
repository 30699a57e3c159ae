"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_file(path, data: bytes) -> None:
    """Write all of `data` to `path` or nothing: into a temporary file beside it, then rename."""
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a device or a pipe: there is nothing to keep whole
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
