"""What the page does with a photo or a file: results as files and texts. Nothing here knows gradio."""

import html
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

import numpy as np
from PIL import Image

from ..bitstream import Bitstream
from ..bitstream.weight_map import is_faithful
from ..error_sentences import plain_sentence
from ..evaluation.equal_size import encode_at_size
from ..evaluation.metrics.pixel_metrics import f_psnr, psnr
from ..evaluation.peers.standard import AVIF, JPEG, WebP
from ..files import write_file
from ..metadata import picture_metadata, save_picture
from ..referring.demands import Demand
from .limits import KEEP_SECONDS, MAX_RETURNED_PIXELS, REFINEMENT_STEPS, SWEEP_SECONDS


GLOBAL_MODE = "RSIC, global mode"
STANDARD_CODECS = {kind.name: kind for kind in (JPEG, WebP, AVIF) if kind.is_available()}
COMPARISONS = (GLOBAL_MODE, *STANDARD_CODECS)
PART_NAMES = {
    "header": "header and checksum",
    "caption": "caption",
    "map": "map M",
    "f0": "f0, coarsest",
    "f1": "f1",
    "f2": "f2",
    "f3": "f3, finest",
}
PART_COLOURS = {  # white text reads on them
    "header": "#475569",
    "caption": "#0369a1",
    "map": "#7e22ce",
    "f0": "#b45309",
    "f1": "#c2410c",
    "f2": "#be123c",
    "f3": "#831843",
}

Report = Callable[[float, str], None]  # told how much of the work is done, in [0, 1], and what is next


@dataclass
class Result:
    """
    Args:
        decoded, overlay (`Path`): The picture (PNG, with metadata), and the same with M shown.
        summary (`str`): Markdown: sizes, quality and times.
        caption (`str`): The file's.
        original (`Path`, *optional*): The photo that was encoded.
        file (`Path`, *optional*): The `.rsic` file that was made.
        bar (`str`): HTML: bytes by part.
        comparisons (`list[tuple[str, str]]`): Other pictures of as many bytes: path and label.
    """

    decoded: Path
    overlay: Path
    summary: str
    caption: str = ""
    original: Path | None = None
    file: Path | None = None
    bar: str = ""
    comparisons: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Settings:
    """How a visitor wants a photo encoded; see `RSICEncoderPipeline.__call__`.

    Args:
        caption (`str`): May be empty.
        weight (`float`): M everywhere, if nothing is marked.
        background (`float`, *optional*): M outside of what is marked; None: the encoder's default.
        target_bytes (`float`, *optional*): Budget.
        refines (`bool`): Whether to refine the latents.
        comparisons (`list[str]`): Of `COMPARISONS`.
    """

    caption: str
    weight: float
    background: float | None = None
    target_bytes: float | None = None
    refines: bool = False
    comparisons: list[str] = field(default_factory=list)


class Results:
    """Where the results of a page lie, each in a folder of its own, until they are old or the process ends."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="rsic-app-")

    def new_folder(self) -> Path:
        new = Path(self.folder.name) / uuid.uuid4().hex
        new.mkdir()
        return new

    def remove_old(self) -> None:
        """Remove the folders that have lain for `KEEP_SECONDS`."""
        for old in Path(self.folder.name).iterdir():
            with suppress(FileNotFoundError):
                if time.time() - old.stat().st_mtime > KEEP_SECONDS:
                    rmtree(old, ignore_errors=True)

    def keep_clean(self) -> None:
        """Remove old results every few minutes, in a thread that ends with the process."""

        def sweep():
            while True:
                time.sleep(SWEEP_SECONDS)
                with suppress(OSError):
                    self.remove_old()

        threading.Thread(target=sweep, daemon=True).start()


@contextmanager
def warnings_told():
    """Collect what the package warns of in this thread, as a list of sentences that is filled meanwhile."""
    told, thread = [], threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record):
            if record.thread == thread:
                told.append(record.getMessage())

    logger, collector = logging.getLogger("rsic_diffusers"), Collector(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield told
    finally:
        logger.removeHandler(collector)


def encode(encoder, decoder, photo: Image.Image, demands: list[Demand], settings: Settings, folder, report: Report):
    """Encode a photo, decode it again, and compare.

    Args:
        encoder, decoder: The pipelines.
        photo (`PIL.Image.Image`): Upright RGB.
        demands (`list[Demand]`): What must stay faithful, in pixels of the photo; none for global mode.
        settings (`Settings`)
        folder (`Path`): Where the results go.
        report (`Callable`): Progress.

    Returns:
        `Result`

    Raises:
        ValueError: What is wrong with the inputs, in one sentence.
    """
    report(0, "Encoding the photo")
    start = time.perf_counter()
    with warnings_told() as told:
        encoded = encoder(
            photo,
            caption=settings.caption,
            referring=demands or None,
            weight=settings.weight,
            background=settings.background if demands else None,
            target_bytes=settings.target_bytes,
            refinement_steps=REFINEMENT_STEPS if settings.refines else 0,
        )
    seconds = time.perf_counter() - start
    result, picture, region = _decode(decoder, encoded.bitstream, folder, report)
    result.original = result.decoded.with_name("original.webp")
    save_picture(photo, result.original)
    result.file = result.decoded.with_name("photo.rsic")
    write_file(result.file, encoded.bitstream)
    result.bar = bytes_bar(encoded.breakdown)
    summary = [
        f"**{len(encoded.bitstream)} bytes**, {encoded.bpp:.4f} bits per pixel ({photo.width} x {photo.height}).",
        _quality(picture, photo, region) + ".",
        f"Encoded in {seconds:.1f} s. {result.summary}",
    ]
    for i, name in enumerate(settings.comparisons):
        report(0.8 + 0.2 * i / len(settings.comparisons), f"Comparing with {name}")
        try:
            result.comparisons.append(_compare(name, encoder, decoder, photo, encoded, region, folder))
        except (ValueError, OSError, RuntimeError, MemoryError) as error:  # file and picture are there all the same
            told.append(f"No comparison with {name}: {plain_sentence(error)}")
    result.summary = "\n\n".join(summary + [f"Note: {html.escape(sentence)}" for sentence in told])
    return result


def decode(decoder, data: bytes, folder, report: Report) -> Result:
    """Decode the bytes of a file whose size was checked; see `encode`."""
    result, _, _ = _decode(decoder, data, folder, report)
    file = Bitstream.from_bytes(data)
    bpp = 8 * len(data) / (file.width * file.height)  # of the photo, at whatever size it is coded
    result.summary = (
        f"**{len(data)} bytes**, {bpp:.4f} bits per pixel ({file.width} x {file.height}).\n\n{result.summary}"
    )
    return result


def _decode(decoder, data: bytes, folder: Path, report: Report) -> tuple[Result, Image.Image, np.ndarray]:
    """The result, its picture, and the boolean (H, W) region of it that counts as faithful."""
    report(0.2, "Decoding the file")
    first = None

    def on_step(pipeline, step, timestep, tensors):
        nonlocal first
        first = first or max(timestep, 1)
        report(0.2 + 0.6 * (1 - timestep / first), "Imagining the rest")
        return tensors

    start = time.perf_counter()
    file = Bitstream.from_bytes(data)
    upscale = file.width * file.height <= MAX_RETURNED_PIXELS
    output = decoder(data, upscale=upscale, callback_on_step_end=on_step)
    seconds = time.perf_counter() - start
    picture, weights, caption = output.images[0], output.weight_maps[0], output.captions[0]
    result = Result(folder / "decoded.png", folder / "overlay.webp", "", caption)
    metadata = picture_metadata(file, data, picture.size)
    save_picture(picture, result.decoded, metadata)
    save_picture(output.overlay()[0], result.overlay, metadata)
    region = is_faithful(weights)
    result.summary = f"Decoded in {seconds:.1f} s; UNet evaluations: {output.num_unet_evaluations}. "
    result.summary += f"Faithful: {100 * region.mean():.0f} % of the picture; the rest is imagined."
    if not upscale:
        result.summary += f" The photo had {file.width} x {file.height} pixels; shown is the size that was coded."
    return result, picture, region


def _compare(name, encoder, decoder, photo, encoded, region, folder) -> tuple[str, str]:
    """Path and label of what another codec makes of as many bytes."""
    size = len(encoded.bitstream)
    path = folder / f"{len(list(folder.iterdir()))}.webp"
    if name == GLOBAL_MODE:
        other = encode_at_size(encoder, photo, size, caption=encoded.caption)
        picture, label = decoder(other.bitstream).images[0], f"{name}: {len(other.bitstream)} bytes"
    else:
        peer = STANDARD_CODECS[name]()(photo, size)
        picture, label = peer.image, f"{name}{'' if peer.fits else ', its smallest file'}: {peer.num_bytes} bytes"
    save_picture(picture, path)
    return str(path), f"{label}. {_quality(picture, photo, region)}"


def _quality(picture: Image.Image, photo: Image.Image, region: np.ndarray) -> str:
    if picture.size != photo.size:
        photo = photo.resize(picture.size, Image.Resampling.LANCZOS)
    if region.all() or not region.any():
        return f"PSNR {psnr(picture, photo):.1f} dB"
    picture, photo = np.asarray(picture, float), np.asarray(photo, float)
    inside, outside = (f_psnr(picture, photo, one) for one in (region, ~region))
    return f"PSNR {inside:.1f} dB where faithful, {outside:.1f} dB where imagined"


def bytes_bar(breakdown: dict[str, int]) -> str:
    """Bytes by part as a bar in HTML, with the numbers as a list below it."""
    total = sum(breakdown.values())
    bar, legend = [], []
    for part, size in breakdown.items():
        name, colour = html.escape(PART_NAMES[part]), PART_COLOURS[part]
        if size:
            bar.append(f'<span style="flex:{size};background:{colour}" title="{name}: {size} bytes"></span>')
        legend.append(f'<li><span style="background:{colour}"></span>{name}: {size}</li>')
    return (
        f'<div class="rsic-bytes"><p>Bytes by part, {total} in all</p>'
        f'<div class="rsic-bar" aria-hidden="true">{"".join(bar)}</div><ul>{"".join(legend)}</ul></div>'
    )
