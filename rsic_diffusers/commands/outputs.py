"""Where inputs come from and results go, "-" being standard input and output: checked before the work, written whole
after it."""

import io
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from ..bitstream.container import MAGIC, MAX_FILE_BYTES
from ..files import check_writable, refuse_broken_link, write_file


STANDARD = "-"
# What keeps all pixels of a colour picture; an icon, for one, would be cut down to 256 pixels a side in silence.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "TGA", "JPEG2000")


def read_file(name: str) -> bytes:
    """The bytes of an `.rsic` file, or of standard input.

    Raises:
        ValueError: There are more than an `.rsic` file can have; the rest is not read.
        OSError: There is no such file, or it cannot be read.
    """
    with nullcontext(sys.stdin.buffer) if name == STANDARD else open(name, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{name} is not an .rsic file: these have at most {MAX_FILE_BYTES >> 20} MiB.")
    return data


def refuse_encoded(name: str) -> None:
    """ValueError for an `.rsic` file where a photo is expected: it would have the name of its own result."""
    if name.lower().endswith(".rsic") and Path(name).is_file():
        with open(name, "rb") as file:
            if file.read(2) == MAGIC:
                raise ValueError(f"{name} is an .rsic file, not a photo; `rsic decode` makes a picture of it.")


def open_photo(name: str, args):
    """The photo of that name, or on standard input, as a PIL image; refused if it has more than `--max-pixels`."""
    from ..images import MAX_IMAGE_PIXELS, as_colour, open_image

    as_colour(args.background_color)  # before the photo, which is not at fault
    source = io.BytesIO(sys.stdin.buffer.read()) if name == STANDARD else name
    return open_image(source, args.background_color, args.max_pixels or MAX_IMAGE_PIXELS)


def output_path(name, source, suffix: str, overwrite: bool = False) -> Path | None:
    """The output's path: as given, or the source's with another suffix, which then must not exist yet. None stands for
    standard output, which is also where the result of standard input goes unless told otherwise."""
    if name == STANDARD or (not name and source == STANDARD):
        if sys.stdout.isatty():
            raise ValueError("A terminal can not show the result; give the name of a file with -o, or use a pipe.")
        return None
    if name == "":
        raise ValueError("The name given with -o is empty; leave -o out, or give a name.")
    output = Path(name) if name else Path(source).with_suffix(suffix)
    if not name and output == Path(source):
        raise ValueError(f"{source} has the name of its own result; give the result another name with -o.")
    if not name and not overwrite and output.exists():
        raise ValueError(f"{output} exists already; give --overwrite, or another name with -o.")
    check_output(output, source)
    return output


def output_folder(args) -> Path:
    if not args.output:
        raise ValueError("A folder needs another for what is made of it; give it with -o.")
    if args.output == STANDARD:
        raise ValueError("The results of a folder do not fit through standard output; give a folder with -o.")
    output = Path(args.output)
    refuse_broken_link(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"The output {args.output} is a file; give a folder.")
    check_writable(output)
    return output


def check_output(output: Path, source) -> None:
    """Refuse, before minutes of work, what could not be written at their end."""
    refuse_broken_link(output)
    if not output.parent.is_dir():
        raise ValueError(f"There is no folder {output.parent} to write {output.name} to; make it first.")
    if output.is_dir():
        raise ValueError(f"The output {output} is a folder; give the name of a file in it with -o.")
    if source and output.exists() and Path(source).exists() and output.samefile(source):
        raise ValueError(f"The output {output} is the input; choose another name with -o.")
    if output.is_file() or not output.exists():  # not a device or a pipe
        check_writable(output.resolve().parent)


def check_codec_name(output: Path | None) -> None:
    """Refuse to write codec bytes under the name of a picture."""
    from PIL import Image

    from ..images import HEIF_SUFFIXES

    if output and output.suffix.lower() in {*Image.registered_extensions(), *HEIF_SUFFIXES}:
        raise ValueError(
            f"{output} has the name of a picture, and what is written is none; give a name ending in .rsic."
        )


def check_picture_name(output: Path | None) -> None:
    """Refuse names for which no picture can be written, or not all of its pixels."""
    from PIL import Image

    if output is None:
        return
    name = Image.registered_extensions().get(output.suffix.lower())
    if name not in PICTURE_FORMATS or name not in Image.SAVE:
        kind = output.suffix or "nameless"
        raise ValueError(f"Pictures are not saved as {kind} files; give a name ending in .png, .jpg or .webp.")


def save_image(image, output: Path | None, metadata: bytes | None = None) -> None:
    """Write a PIL image, with an XMP packet, in the format that the name ends in; as PNG to standard output."""
    from ..metadata import encode_picture, save_picture

    if output is not None:
        save_picture(image, output, metadata)
        return
    write_result(None, encode_picture(image, "PNG", metadata))


def write_result(output: Path | None, data: bytes) -> None:
    """To a file, whole or not at all, or to standard output.

    Raises:
        OSError: The result cannot be written, or whoever read it from a pipe stopped before its end. (With printed
            text, that is no error; see `main`.)
    """
    if output is not None:
        write_file(output, data)
        return
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        leave_standard_output()
        raise OSError("Whoever read the result stopped before its end.") from None


def leave_standard_output() -> None:
    """Leave what nobody reads any more to nobody. Python would complain of it when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str, output: Path | None = Path()) -> None:
    """Print a line on what was done; on standard error if the result itself went to standard output."""
    print(text, file=sys.stderr if output is None else sys.stdout)


def print_summary(counts, output) -> int:
    """Print the counts of a folder's run, and return the exit code."""
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()) + f"; see the report in {output}")
    return 1 if counts["failed"] else 0
