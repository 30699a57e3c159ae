"""Latents of photos, encoded once and kept in files.

The cache is a folder of safetensors shards, written while photos are encoded, so that an interrupted run goes on where
it was. A latent is found by the content of its photo, how the photo was brought to size, and the VAE's weights; names
and folders do not matter, and several runs may share one cache.
"""

import hashlib
import json
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm import tqdm
from training_photos import vae_input, whole_positions

from rsic_diffusers.images import open_image
from rsic_diffusers.pipelines.latents import encode_image


SHARD_PHOTOS = 256
SHARD_SECONDS = 120  # at most so much work is lost by a kill
MAX_PENDING_PHOTOS = 128
VARIANCE_PHOTOS = 2000
MIRRORED = "-mirrored"  # ends the key of a mirror image
PIXELS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 22}  # of the photos that the VAE encodes together


@dataclass
class ReadPhoto:
    """What a worker makes of a photo. `pixels` is None where the cache has its latents, or it cannot be used."""

    key: str = ""
    label: str = ""
    pixels: torch.Tensor | None = None
    about: dict = field(default_factory=dict)
    problem: str = ""


class CachedLatents:
    """Latents in the cache, as a sequence of (tensor of shape (4, h, w) in bfloat16, label, about)."""

    def __init__(self, entries: list[tuple[str, str]], shards: dict[str, Path]):
        # By content, so that the order depends neither on names nor on which process encoded what.
        # The label of a photo that is there twice is one that says something.
        self.entries = sorted(dict(sorted(entries)).items())
        self.shards = shards
        self.files = {}

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, i):
        key, label = self.entries[i]
        file, about = self._open_shard(key)
        return file.get_tensor(key), label, about[key]

    def _open_shard(self, key):
        path = self.shards[key]
        if path not in self.files:
            file = safe_open(path, "pt")  # mapped into memory
            self.files[path] = file, json.loads(file.metadata()["about"])
        return self.files[path]

    def areas(self) -> np.ndarray:
        """How many positions each of the latents has, h w."""
        shapes = [self._open_shard(key)[0].get_slice(key).get_shape() for key, _ in self.entries]
        return np.array([height * width for _, height, width in shapes])

    def is_mirror_image(self, i: int) -> bool:
        """Whether the `i`-th are the latents of a photo's mirror image."""
        return self.entries[i][0].endswith(MIRRORED)


def load_latents(vae, photos, prepare, cache, accelerator, num_workers=0, mirror=False) -> CachedLatents:
    """Encode those photos whose latents the cache lacks; every process does its part.

    Args:
        vae: On the device that encodes.
        photos: A sequence of (path or bytes, label), or a stream of them ([`StreamedPhotos`]).
        prepare (`Callable`): Gives for a PIL image an (H, W, 3) uint8 array, or that and a dict to be kept with the
            latents, or None for a photo that is not to be used. Its `repr` tells one way to prepare from another.
        cache (`str` or `Path`): Folder.
        accelerator: Its precision is used where that is bf16.
        num_workers (`int`): Processes that read and resize photos, for each process that encodes.
        mirror (`bool`): Encode the mirror image of each photo too. Mirroring its latents would not do: in rsic-tiny
            they differ from those of the mirrored photo by a third of the latents' variance.

    Raises:
        SystemExit: No photo is left, or the VAE gives NaN.
    """
    folder = Path(cache) / vae_digest(vae)
    folder.mkdir(parents=True, exist_ok=True)
    known = find_shards(folder)
    reader = _Reader(repr(prepare), prepare, set(known), mirror)
    loader = DataLoader(_dataset_part(photos, reader, accelerator), batch_size=None, num_workers=num_workers)
    entries, unused = {}, defaultdict(int)  # by key: a photo that is there twice is used once
    writer = ShardWriter(folder)

    def to_encode():
        is_main = accelerator.is_main_process
        read = tqdm(loader, desc="Encoding photos", mininterval=5, disable=not is_main)
        for photo in chain.from_iterable(read):
            if photo.problem:
                unused[photo.problem] += 1
                continue
            is_new = photo.key not in entries
            entries[photo.key] = entries.get(photo.key) or photo.label
            if is_new and photo.pixels is not None:
                yield photo

    with torch.no_grad():
        for batch in equal_size_batches(to_encode(), PIXELS_AT_ONCE["cuda" if vae.device.type == "cuda" else "cpu"]):
            encoded = encode_batch(vae, batch, bf16=accelerator.mixed_precision == "bf16")
            for photo, latents in zip(batch, encoded, strict=True):
                writer.add(photo.key, latents, photo.about)
    writer.flush()
    accelerator.wait_for_everyone()
    entries = list(entries.items())
    if accelerator.num_processes > 1:
        entries = gather_object(entries)
    for problem, count in unused.items():
        print(f"{count} photos were not used: {problem}.", flush=True)
    if not entries:
        raise SystemExit("No photo can be used; give folders (or a dataset) of readable photos.")
    return CachedLatents(entries, find_shards(folder))


def encode_batch(vae, batch: list[ReadPhoto], bf16: bool) -> torch.Tensor:
    """z0 of photos of one size, (B, 4, H/8, W/8) in bfloat16 on the CPU."""
    image = vae_input(torch.stack([photo.pixels for photo in batch]).to(vae.device, vae.dtype))
    with torch.autocast(vae.device.type, dtype=torch.bfloat16, enabled=bf16):
        latents = encode_image(vae, image)
    if not bool(torch.isfinite(latents).all()):
        raise SystemExit("The VAE gives NaN or infinite latents; try --mixed_precision no.")
    return latents.bfloat16().cpu()


def equal_size_batches(photos, pixels_at_once: int):
    """Yield lists of photos of one size, with `pixels_at_once` pixels or (one photo) more; in no certain order."""
    pending = defaultdict(list)
    for photo in photos:
        group = pending[photo.pixels.shape]
        group.append(photo)
        height, width, _ = photo.pixels.shape
        if (len(group) + 1) * height * width > pixels_at_once:
            yield pending.pop(photo.pixels.shape)
        elif sum(map(len, pending.values())) >= MAX_PENDING_PHOTOS:
            yield pending.pop(max(pending, key=lambda shape: len(pending[shape])))
    yield from pending.values()


class ShardWriter:
    """Collects latents and writes them to safetensors files, each whole or not at all."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tensors, self.about, self.started = {}, {}, time.monotonic()

    def add(self, key: str, latents: torch.Tensor, about: dict) -> None:
        self.tensors[key] = latents.clone(memory_format=torch.contiguous_format)
        self.about[key] = about
        if len(self.tensors) >= SHARD_PHOTOS or time.monotonic() - self.started > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.tensors:
            path = self.folder / f"{uuid.uuid4().hex}.safetensors"  # two runs may write the same latents at once
            part = path.with_suffix(".part")
            save_file(self.tensors, part, metadata={"about": json.dumps(self.about)})
            part.replace(path)
        self.tensors, self.about, self.started = {}, {}, time.monotonic()


def find_shards(folder: Path) -> dict[str, Path]:
    """In which file the latents with a key are."""
    shards = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            shards |= dict.fromkeys(file.keys(), path)
    return shards


def measure_latent_variance(latents) -> list[float]:
    """Variance of each channel over the latents of all photos, or of a sample if they are many."""
    count, total, squares = 0, 0.0, 0.0
    for i in range(0, len(latents), max(1, len(latents) // VARIANCE_PHOTOS)):
        tensor = latents[i][0].double()
        count += tensor[0].numel()
        total = total + tensor.sum(dim=(1, 2))
        squares = squares + tensor.square().sum(dim=(1, 2))
    variance = squares / count - (total / count).square()
    return [float(f"{value:.4g}") for value in variance.tolist()]


def vae_digest(vae) -> str:
    """Names a VAE by its weights and scaling factor."""
    digest = hashlib.sha256(repr(vae.config.scaling_factor).encode())
    for tensor in vae.state_dict().values():
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass
class _Reader:
    """Reads and prepares one photo; runs in the DataLoader's workers."""

    name: str
    prepare: object
    known: set[str]
    mirror: bool

    def __call__(self, photo) -> list[ReadPhoto]:
        """The photo, and its mirror image if that is wanted; one `ReadPhoto` with a problem if it cannot be used."""
        source, label = photo
        try:
            data = source if isinstance(source, bytes) else source.read_bytes()
            key = hashlib.sha256(self.name.encode() + data).hexdigest()
            keys = [key, key + MIRRORED] if self.mirror else [key]
            if self.known.issuperset(keys):
                return [ReadPhoto(key, label) for key in keys]
            prepared = self.prepare(open_image(data))
        except (OSError, ValueError) as error:
            tqdm.write(f"Skipped {source if isinstance(source, Path) else 'a photo of the dataset'}: {error}")
            return [ReadPhoto(problem="they could not be read")]
        if prepared is None:
            return [ReadPhoto(problem="they are drawings or cut-outs on white")]
        array, about = prepared if isinstance(prepared, tuple) else (prepared, {})
        upright = whole_positions(array)
        views = (upright, upright[:, ::-1])
        return [
            ReadPhoto(key, label, None if key in self.known else torch.from_numpy(view.copy()), about)
            for key, view in zip(keys, views, strict=False)
        ]


class _MapPart(Dataset):
    """This process's part of a sequence of photos."""

    def __init__(self, photos, reader, process_index, num_processes):
        self.photos, self.reader = photos, reader
        self.indices = range(process_index, len(photos), num_processes)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        return self.reader(self.photos[self.indices[i]])


class _StreamPart(IterableDataset):
    """This process's part of a stream of photos."""

    def __init__(self, photos, reader, process_index, num_processes):
        self.photos, self.reader = photos.part(process_index, num_processes), reader

    def __iter__(self):
        return map(self.reader, self.photos)


def _dataset_part(photos, reader, accelerator):
    part = _StreamPart if isinstance(photos, IterableDataset) else _MapPart
    return part(photos, reader, accelerator.process_index, accelerator.num_processes)
