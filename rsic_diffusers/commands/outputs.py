"""Where results go: checked before the work, written whole after it."""

import io
from pathlib import Path

from ..files import write_file


def output_path(name, source, suffix: str) -> Path:
    """The output's path: as given, or the source's with another suffix, which then must not exist yet."""
    output = Path(name) if name else Path(source).with_suffix(suffix)
    if not name and output.exists():
        raise ValueError(f"{output} exists already; give -o {output} to write over it, or another name.")
    check_output(output, source)
    return output


def output_folder(args) -> Path:
    if not args.output:
        raise ValueError("A folder needs another for what is made of it; give it with -o.")
    if Path(args.output).is_file():
        raise ValueError(f"The output {args.output} is a file; give a folder.")
    return Path(args.output)


def check_output(output: Path, source) -> None:
    """Refuse, before minutes of work, what could not be written at their end."""
    if not output.parent.is_dir():
        raise ValueError(f"There is no folder {output.parent} to write {output.name} to; make it first.")
    if output.is_dir():
        raise ValueError(f"The output {output} is a folder; give the name of a file in it with -o.")
    if source and output.exists() and Path(source).exists() and output.samefile(source):
        raise ValueError(f"The output {output} is the input; choose another name with -o.")


def check_picture_name(output: Path) -> None:
    from PIL import Image

    if Image.registered_extensions().get(output.suffix.lower()) not in Image.SAVE:
        raise ValueError(
            f"Pillow writes no {output.suffix or 'nameless'} pictures; give a name ending in .png or .jpg."
        )


def save_image(image, output: Path) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[output.suffix.lower()])
    write_file(output, buffer.getvalue())


def print_summary(counts, output) -> int:
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()) + f"; see the report in {output}")
    return 1 if counts["failed"] else 0
