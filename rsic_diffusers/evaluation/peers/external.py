"""Any other codec, by a folder of its decoded pictures and the sizes of its files."""

import csv
import hashlib
import json
from pathlib import Path

from PIL import Image

from ...images import open_image
from .peer import PeerResult


SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


class ExternalPeer:
    """Made by `load_external`.

    Args:
        name (`str`): Label.
        folder (`Path`): Of decoded pictures.
        sizes (`dict[str, int]`): Bytes by the photos' names without suffix.
    """

    def __init__(self, name: str, folder: Path, sizes: dict[str, int]):
        self.name, self.folder, self.sizes = name, folder, sizes

    def __call__(self, image: Image.Image, num_bytes: int | None, name: str | None = None) -> PeerResult:
        """The folder's picture of the photo `name`, whatever its bytes.

        Raises:
            ValueError: No name, no picture or no size of that name, or a picture of another size than the photo.
        """
        if name is None:
            raise ValueError(f"{self.name} is read from {self.folder} by the photo's file name; give `name`.")
        num_bytes = self.size_of(name)
        paths = self._pictures(name)
        if len(paths) != 1:
            raise ValueError(
                f"{self.folder} has {len(paths)} pictures of {name}; put one there, {stem(name)}.png say."
            )
        decoded = open_image(paths[0])
        if decoded.size != image.size:
            raise ValueError(
                "{} has {} x {} pixels, but the photo has {} x {}; decode to the photo's size.".format(
                    paths[0], *decoded.size, *image.size
                )
            )
        return PeerResult(self.name, num_bytes, decoded, None, "as given", None, None, None)

    def size_of(self, name: str) -> int:
        """Bytes of the file of the photo `name`; ValueError if they were not given."""
        if stem(name) not in self.sizes:
            raise ValueError(f"The sizes in {self.folder} have no entry for {name}; add its bytes.")
        return self.sizes[stem(name)]

    def digest(self, name: str) -> str:
        """Changes when the decoded picture or the size of the photo `name` does."""
        contents = [str(self.sizes.get(stem(name))).encode(), *(path.read_bytes() for path in self._pictures(name))]
        return hashlib.sha256(b" ".join(contents)).hexdigest()

    def _pictures(self, name: str) -> list[Path]:
        return [path for suffix in SUFFIXES if (path := self.folder / f"{stem(name)}{suffix}").is_file()]


def load_external(name: str, folder: Path) -> ExternalPeer:
    """A codec whose pictures were decoded elsewhere.

    Args:
        name (`str`): Label.
        folder (`Path`): Holds `NAME.png` (or .webp, .jpg) for each photo `NAME.*`, in the same subfolders, and
            `sizes.csv`, lines of file and bytes (a first line `file,bytes` is allowed), or `sizes.json`,
            {file: bytes}. Suffixes of the files named there are ignored.

    Raises:
        ValueError: No such folder, no sizes, or sizes that are not whole numbers of bytes above 0.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the one that holds the decoded pictures of {name}.")
    if (folder / "sizes.json").is_file():
        path, read = folder / "sizes.json", _read_json
    elif (folder / "sizes.csv").is_file():
        path, read = folder / "sizes.csv", _read_csv
    else:
        raise ValueError(f"{folder} has no sizes.csv or sizes.json; put one there, with the bytes of each file.")
    expected = f"{path} must give a whole number of bytes above 0 for each file, once"
    try:
        entries = [(stem(file), int(str(num_bytes))) for file, num_bytes in read(path)]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{expected}, and cannot be read so ({error}); mend it.") from None
    sizes = dict(entries)
    if not sizes or len(sizes) < len(entries) or min(sizes.values()) < 1:
        raise ValueError(f"{expected}, and has {len(entries)} entries for {len(sizes)} photos; mend it.")
    return ExternalPeer(name, folder, sizes)


def stem(name: str) -> str:
    """By what the folder knows a photo: its name without suffix."""
    return Path(name).with_suffix("").as_posix()


def _read_json(path):
    return json.loads(path.read_text("utf-8-sig")).items()


def _read_csv(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    return rows[1:] if rows and rows[0] == ["file", "bytes"] else rows
