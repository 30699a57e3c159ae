"""What the pipelines return."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput

from ..bitstream import Bitstream
from ..files import write_file
from ..referring.map_image import map_image
from .overlay import overlay_weights, weights_at_pixels


@dataclass
class RSICEncoderOutput(BaseOutput):
    """
    One photo gives the values, a list of photos gives lists of them.

    Args:
        bitstream (`bytes`): The file.
        bpp (`float`): Bits per pixel, counted from the length of the file.
        breakdown (`dict[str, int]`): Bytes by part: header (with checksum), caption, map, f0 (coarsest) to f3. The
            sum is the length of the file. The scales share one stream; each gets the whole bytes nearest to its
            information content.
        caption (`str`): The caption in the file.
        weight_map (`np.ndarray` of shape (ceil(h/64), ceil(w/64)), float32): M, values in [0, 1]; h x w is the size at
            which the photo was coded.
        image (`PIL.Image.Image`): The photo as it was read: upright, in sRGB, at its own size.
    """

    bitstream: bytes | list[bytes]
    bpp: float | list[float]
    breakdown: dict[str, int] | list[dict[str, int]]
    caption: str | list[str]
    weight_map: np.ndarray | list[np.ndarray]
    image: PIL.Image.Image | list[PIL.Image.Image]

    def save(self, path) -> None:
        """Write the file to a path (whole or not at all) or a binary file object; a batch to a list of these."""
        if isinstance(self.bitstream, bytes):
            _write(path, self.bitstream)
            return
        if not isinstance(path, (list, tuple)) or len(path) != len(self.bitstream):
            raise ValueError(f"{len(self.bitstream)} photos were encoded; give a list of as many paths.")
        for target, data in zip(path, self.bitstream, strict=True):
            _write(target, data)

    def map_image(self) -> PIL.Image.Image | list[PIL.Image.Image]:
        """M over the photo: in full colour what stays faithful, dark what is imagined."""
        if isinstance(self.bitstream, bytes):
            return _map_image(self.bitstream, self.image)
        return [_map_image(data, image) for data, image in zip(self.bitstream, self.image, strict=True)]


def _write(target, data: bytes) -> None:
    if hasattr(target, "write"):
        target.write(data)
    else:
        write_file(target, data)


def _map_image(data: bytes, image) -> PIL.Image.Image:
    file = Bitstream.from_bytes(data)
    return map_image(file.weight_map, (file.height, file.width), file.coded_size, _as_picture(image))


def _as_picture(image) -> PIL.Image.Image:
    if isinstance(image, torch.Tensor):
        image = VaeImageProcessor.pt_to_numpy(image.detach()[None].float())[0]
    return VaeImageProcessor.numpy_to_pil(image)[0] if isinstance(image, np.ndarray) else image


@dataclass
class RSICDecoderOutput(BaseOutput):
    """
    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` of shape (B, H, W, 3) in [0, 1], or `torch.Tensor`): The
            pictures; (B, 3, H, W) in [0, 1] for `output_type="pt"`, the latents z_0 for `"latent"`.
        num_unet_evaluations (`int`): UNet calls made, a pair for classifier-free guidance counted as one.
        files (`list[Bitstream]`): What the files hold.
    """

    images: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    num_unet_evaluations: int
    files: list[Bitstream]

    @property
    def captions(self) -> list[str]:
        """The caption of each file; may be empty."""
        return [file.caption for file in self.files]

    @property
    def weight_maps(self) -> list[np.ndarray]:
        """M at each pixel of each picture (of latents: of the coded picture), (H, W), float32 in [0, 1]."""
        return [weights_at_pixels(file, size) for file, size in zip(self.files, self._sizes(), strict=True)]

    def overlay(self) -> list[PIL.Image.Image]:
        """The pictures with M shown: full colour where faithful; dim, grey and hatched where imagined."""
        if self._are_latents():
            raise ValueError('Latents cannot be shown; decode with output_type="pil".')
        return [
            overlay_weights(_as_picture(image), weights)
            for image, weights in zip(self.images, self.weight_maps, strict=True)
        ]

    def _are_latents(self) -> bool:
        return isinstance(self.images, torch.Tensor) and self.images.shape[1] != 3

    def _sizes(self) -> list[tuple[int, int]]:
        """Height and width of each picture."""
        if self._are_latents():
            return [file.coded_size for file in self.files]
        if isinstance(self.images, torch.Tensor):
            return [(self.images.shape[-2], self.images.shape[-1])] * len(self.files)
        if isinstance(self.images, np.ndarray):
            return [self.images.shape[1:3]] * len(self.files)
        return [image.size[::-1] for image in self.images]
