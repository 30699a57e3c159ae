"""Files that are written whole or not at all, or line by line."""

import json
import os
import platform
import secrets
import stat
import tempfile
import time
import zlib
from pathlib import Path


# A temporary file is named after this, the machine and the process, so that what a killed process left can be told
# from what a living one is writing. It does not hold the file's own name, which may be as long as names can be.
PART_PREFIX, PART_SUFFIX = ".rsic-", ".part"
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"


def write_file(path, data: bytes) -> None:
    """Write all of `data` to `path` or nothing: into a temporary file beside it, then rename.

    Raises:
        ValueError: `path` is a link to a file that does not exist.
        OSError: The file cannot be written.
    """
    refuse_broken_link(path)
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        try:
            path.write_bytes(data)  # a device or a pipe: there is nothing to keep whole
        except BrokenPipeError:
            raise OSError(f"Whoever read {path} stopped before its end.") from None
        return
    temporary = path.parent / f"{PART_PREFIX}{_MACHINE}-{os.getpid()}-{secrets.token_hex(8)}{PART_SUFFIX}"
    try:
        # Not tempfile's, which only its owner may read: so the umask counts, which nobody can ask for without setting.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise _named(error, path if path.parent.exists() else path.parent) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if path.exists():
            os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.errno:  # a full disk, say
            raise _named(error, path) from None
        raise


def read_json_lines(paths) -> list[dict]:
    """The lines of several files of `append_json_line`, in the order of their times.

    Lines that were cut off, where a process was killed or the disk was full, are passed over.
    """
    lines = []
    for path in paths:
        for text in Path(path).read_bytes().split(b"\n"):
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                lines.append(line)
    return sorted(lines, key=lambda line: line.get("time", 0))


def append_json_line(path, **figures) -> None:
    """Add one line, with the time, to a file that other processes may add lines to."""
    # In ASCII, since file names need not be UTF-8, and in one piece.
    line = json.dumps({**figures, "time": round(time.time(), 3)}).encode("ascii") + b"\n"
    with open(path, "a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # the line before was cut off
                line = b"\n" + line
        file.write(line)


def refuse_broken_link(path) -> None:
    """Raise a `ValueError` if `path` is a link to nothing: writing would make a file where nobody looks for it."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise ValueError(
            f"{path} is a link to {os.readlink(path)}, which does not exist; remove the link or give another name."
        )


def remove_leftovers(folder) -> int:
    """Remove what killed processes of this machine left of `write_file`'s temporary files, in a folder and below.

    Returns:
        `int`: How many there were.
    """
    import psutil

    removed = 0
    for path in Path(folder).rglob(f"{PART_PREFIX}{_MACHINE}-*{PART_SUFFIX}"):
        process = path.name.split("-")[2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def check_writable(folder) -> None:
    """Raise an `OSError` if no file can be made in `folder`, or, if it does not exist, in the nearest above it.

    The only sure way is to try: permissions do not tell of a read-only disk, nor bind an administrator.
    """
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=PART_PREFIX):
            pass
    except OSError as error:
        raise _named(error, folder) from None


def _named(error: OSError, path: Path) -> OSError:
    """The same error, of the file or folder that was meant rather than of a temporary file."""
    return type(error)(error.errno, error.strerror, str(path))
