"""Photo in, bytes out: GDE and RGE (paper, sections III-B and III-C)."""

from functools import partial
from numbers import Integral, Real

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import logging

from ..bitstream import (
    DEFAULT_MAX_SIDE,
    MAX_CODED_SIDE,
    MAX_PIXELS,
    MAX_RETURNED_PIXELS,
    MAX_SIDE,
    MIN_SIDE,
    SIDE_STEP,
    Bitstream,
    reduced_size,
)
from ..bitstream.caption_coding import encode_caption
from ..description.captioners import check_captioner, describe
from ..hub import FromPretrainedMixin
from ..images import to_rgb
from ..models.hsvlc import HSVLC
from ..referring.budget import MAX_ENCODES, fit_budget, move_weights
from ..referring.demands import Demand, check_levels, check_weight, collect_demands, make_weight_map, weigh_pixels
from ..referring.heat_maps import PhraseNotFoundError, heat_map, min_max
from ..referring.weight_map import WeightMap, expand_to_pixels
from .compatibility import check_latent_space
from .latents import encode_image, resize
from .pipeline_output import RSICEncoderOutput
from .refinement import refine_latents


logger = logging.get_logger(__name__)

EXAMPLE_DOC_STRING = """
        Examples:
        ```py
        >>> from PIL import Image
        >>> from rsic_diffusers import RSICEncoderPipeline

        >>> enc = RSICEncoderPipeline.from_pretrained("rsic-tiny")
        >>> out = enc(Image.open("photo.jpg"), caption="a lighthouse on a cliff", box=(120, 40, 300, 380))
        >>> out.save("photo.rsic")
        >>> print(len(out.bitstream), out.bpp, out.breakdown)
        ```
"""


class RSICEncoderPipeline(FromPretrainedMixin, DiffusionPipeline):
    """Compresses photos to `.rsic` files.

    Reads the same repos as [`RSICDecoderPipeline`], and takes of them only what encoding needs: no UNet, no text
    encoder.

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`]): Pictures to latents.
        hsvlc ([`HSVLC`]): Latents to bytes.
        tokenizer ([`CLIPTokenizer`], *optional*): Tells whether the decoder can read all of a caption.
        referring_model (*optional*): Finds phrases: a [`CLIPModel`], a [`CLIPSegForImageSegmentation`] or any callable
            (image, phrase) -> heat map, see `heat_map`.
        captioner (*optional*): Describes photos that come without a caption: a [`Captioner`] or any callable
            (image) -> str, see `describe`.
    """

    model_cpu_offload_seq = "vae"
    # Offloading hooks see `forward` alone: not the coding methods of HSVLC, which is small, nor GEM, which calls the
    # parts of its model.
    _exclude_from_cpu_offload = ["hsvlc", "referring_model"]
    _optional_components = ["tokenizer", "referring_model", "captioner"]

    def __init__(self, vae, hsvlc: HSVLC, tokenizer=None, referring_model=None, captioner=None):
        super().__init__()
        check_latent_space(vae, hsvlc)
        self.register_modules(
            vae=vae, hsvlc=hsvlc, tokenizer=tokenizer, referring_model=referring_model, captioner=captioner
        )
        self.image_processor = VaeImageProcessor(do_resize=False)

    def check_arguments(
        self,
        caption=None,
        referring=None,
        box=None,
        point=None,
        mask=None,
        weight=1.0,
        background=0.0,
        levels=8,
        mode=None,
        fallback=None,
        target_bytes=None,
        target_bpp=None,
        max_side=DEFAULT_MAX_SIDE,
        caption_bytes=60,
        caption_codec="auto",
        refinement_steps=0,
    ) -> list[Demand]:
        """Check the arguments of `__call__` for one photo, as far as that can be done without it.

        Returns:
            `list[Demand]`: What is referred to.
        """
        demands = collect_demands(referring, box, point, mask, weight)
        check_weight("background", background)
        check_levels(levels)
        if mode not in (None, "global", "referring"):
            raise ValueError(f'mode must be "global", "referring" or None, got {mode!r}.')
        if mode == "global" and demands:
            raise ValueError('mode="global" weighs all of the picture alike; leave out what refers to a part of it.')
        if mode == "referring" and not demands:
            raise ValueError('mode="referring" needs to know what matters; give a phrase, a box, a point or a mask.')
        if self.referring_model is None and any(demand.phrase is not None for demand in demands):
            raise ValueError(
                "A phrase needs a model that finds it in the photo: load the pipeline with referring_model= (a "
                "CLIPModel or CLIPSegForImageSegmentation of transformers, or a function); or say what matters with "
                "box=, point= or mask=, which need none."
            )
        if fallback not in (None, "global"):
            raise ValueError(f'fallback must be "global" or None, got {fallback!r}.')
        if target_bytes is not None and target_bpp is not None:
            raise ValueError("target_bytes and target_bpp are two ways to say one thing; give one of them.")
        for name, target in (("target_bytes", target_bytes), ("target_bpp", target_bpp)):
            if target is not None and not (isinstance(target, Real) and target > 0):
                raise ValueError(f"{name} must be a number above 0, got {target!r}.")
        if max_side is not None and not (isinstance(max_side, Integral) and max_side >= SIDE_STEP):
            raise ValueError(f"max_side must be a whole number from {SIDE_STEP} up, or None, got {max_side!r}.")
        if not (isinstance(caption_bytes, Integral) and caption_bytes >= 0):
            raise ValueError(f"caption_bytes must be a whole number from 0 up, got {caption_bytes!r}.")
        encode_caption("", caption_codec)  # refuses an unknown codec
        if not (isinstance(refinement_steps, Integral) and refinement_steps >= 0):
            raise ValueError(f"refinement_steps must be a whole number from 0 up, got {refinement_steps!r}.")
        if caption is not None:
            self._check_caption(caption)
        elif self.captioner is not None:
            check_captioner(self.captioner)
        return demands

    def check_inputs(self, images, max_side):
        for image in images:
            if isinstance(image, PIL.Image.Image):
                width, height = image.size
            elif isinstance(image, (np.ndarray, torch.Tensor)):
                if image.ndim != 3:
                    raise ValueError(f"An image array must have 3 dimensions, got {image.ndim}; give a list for many.")
                # diffusers' habit: arrays are (H, W, 3), tensors (3, H, W)
                height, width = image.shape[:2] if isinstance(image, np.ndarray) else image.shape[1:]
                channels = image.shape[2] if isinstance(image, np.ndarray) else image.shape[0]
                if channels != 3:
                    raise ValueError(f"An image array must have 3 channels (RGB), got {channels}.")
                if "float" not in str(image.dtype):
                    raise ValueError("An image array must hold floats in [0, 1]; divide by 255, or give a PIL image.")
                if not (image.min() >= 0 and image.max() <= 1):
                    raise ValueError("An image array must hold numbers in [0, 1]; it holds others, or NaN.")
            else:
                raise ValueError(f"An image must be a PIL image, an array or a tensor, got {type(image).__name__}.")
            if min(width, height) < MIN_SIDE:
                raise ValueError(f"The picture is {width} x {height} pixels; both sides must be at least {MIN_SIDE}.")
            is_reduced = self._coded_side(height, width, max_side) is not None
            limit = MAX_RETURNED_PIXELS if is_reduced else MAX_PIXELS
            if max(width, height) > MAX_SIDE or width * height > limit:
                raise ValueError(
                    f"The picture is {width} x {height} pixels; sides go up to {MAX_SIDE} and pixels to {limit}. "
                    + ("Make it smaller first." if is_reduced else "Give a max_side (768, say) to code it smaller.")
                )

    @staticmethod
    def _coded_side(height, width, max_side) -> int | None:
        """Long side to reduce the photo to, or None if it is small enough."""
        if max_side is None or max(height, width) <= max_side:
            return None
        return min(max_side // SIDE_STEP * SIDE_STEP, MAX_CODED_SIDE)

    def _check_caption(self, caption):
        if not isinstance(caption, str):
            raise ValueError(f"A caption must be a string, got {type(caption).__name__}.")
        try:
            caption.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"The caption {caption!r} holds half of a surrogate pair, which is no text.") from None
        if self.tokenizer is None:
            return
        limit = self.tokenizer.model_max_length
        tokens = self.tokenizer(caption, truncation=False).input_ids
        if len(tokens) > limit:
            cut = self.tokenizer.decode(tokens[limit - 1 :], skip_special_tokens=True)
            raise ValueError(
                f"The caption has {len(tokens)} tokens and the text encoder reads {limit}; it would not read "
                f"{cut!r}. Make the caption shorter."
            )

    def _is_short(self, caption, caption_bytes, caption_codec) -> bool:
        """Whether a caption keeps to its bytes and the decoder reads all of it."""
        try:
            payload = encode_caption(caption, caption_codec)[1]
            self._check_caption(caption)
        except ValueError:
            return False
        return len(payload) <= caption_bytes

    def locate(self, image: torch.Tensor, phrase: str, must_be_found: bool = False) -> np.ndarray:
        """Heat map of a phrase, values in [0, 1], of the referring model's own resolution.

        Args:
            image (`torch.Tensor` of shape (1, 3, H, W)): Values in [-1, 1].
            must_be_found (`bool`): Raise [`PhraseNotFoundError`] if the model does not see it; otherwise warn.
        """
        picture = self.image_processor.postprocess(image)[0]
        return min_max(heat_map(self.referring_model, self.tokenizer, picture, phrase, must_be_found))

    def _weigh(self, image, demands, coded_size, weight, background, levels, must_be_found, refines):
        """M for one photo, and if it is refined the weights of its pixels; phrases that must be found and are not are
        left out, with a warning."""
        heat_maps, found = {}, []
        for demand in demands:
            try:
                if demand.phrase is not None:
                    heat_maps[demand.phrase] = self.locate(image, demand.phrase, must_be_found)
                found.append(demand)
            except PhraseNotFoundError as error:
                logger.warning(f"{error} It is left out.")
        if not found:
            weight = max((demand.weight for demand in demands), default=weight)
            weight_map = WeightMap.constant(weight, *coded_size)
            return weight_map, expand_to_pixels(weight_map.values, *coded_size)
        arguments = {
            "background": background,
            "levels": levels,
            "coded_size": coded_size,
            "locate": heat_maps.get,
        }
        if refines:
            return weigh_pixels(*image.shape[-2:], found, **arguments)
        return make_weight_map(*image.shape[-2:], found, **arguments), None

    @torch.no_grad()
    def __call__(
        self,
        image,
        caption: str | list[str] | None = None,
        referring=None,
        box=None,
        point=None,
        mask=None,
        weight: float = 1.0,
        background: float = 0.0,
        levels: int = 8,
        mode: str | None = None,
        fallback: str | None = None,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        max_side: int | None = 768,
        caption_bytes: int = 60,
        caption_codec: str = "auto",
        refinement_steps: int = 0,
        return_dict: bool = True,
    ) -> RSICEncoderOutput | tuple:
        """Encode a photo, or a list of photos.

        Args:
            image (`PIL.Image.Image`, `np.ndarray` (H, W, 3) or `torch.Tensor` (3, H, W) in [0, 1], or a list): The
                photo, at least 64 x 64 pixels. A PIL image is first turned as its EXIF data says. With a list,
                `caption`, `referring`, `box`, `point` and `mask` are lists of as many (None for none).
            caption (`str`, *optional*): What the picture shows; the decoder imagines by it. None: what the captioner
                says, or nothing without a captioner. Any string is used as it is; "" means no caption.
            referring: What must stay faithful: a phrase ("the lighthouse"), a [`Demand`] with a weight of its own, a
                dict of one's fields, or a list of such. Phrases need a `referring_model`.
            box: (x0, y0, x1, y1) in pixels of the photo, or a list of boxes.
            point: (x, y) in pixels, or a list of points; each stands for a disc of 1/8 of the short side.
            mask: (H, W) array or PIL image of the photo's size, or the path of one; what is not 0 is referred to.
            weight (`float`): M where something is referred to, in [0, 1], for what brings no weight of its own; in
                global mode, M everywhere.
            background (`float`): M elsewhere, in [0, 1].
            levels (`int`): L, levels of M in referring mode, 2 to 8.
            mode (`str`, *optional*): "global" or "referring"; by default referring if anything is referred to.
            fallback (`str`, *optional*): "global": a phrase that is found nowhere is left out, and if nothing else was
                asked for, the photo is coded in global mode at the largest weight. By default a warning says so, and
                the map follows the model's guess.
            target_bytes (`int`), target_bpp (`float`, *optional*): Budget for the whole file. The weights, in their
                proportions (see `fit_budget`), are moved up or down until it is filled to a few percent, and never
                exceeded; a photo that needs less even at M = 1 gets that.
            max_side (`int`, *optional*): A photo with a longer side is coded smaller, its long side at the multiple of
                128 next below (at most 2048), and the decoder enlarges the picture again; Stable Diffusion 1.x was
                trained on pictures of 512 pixels a side and loses the thread much above. Box, point and mask stay in
                pixels of the photo as given, and bpp counts those. None: code it as large as it is.
            caption_bytes (`int`): Most coded bytes of a caption by the captioner (the paper's take about 60); it is
                held to what the text encoder reads, too.
            caption_codec (`str`): "auto", "dictionary", "zlib", "brotli" or "raw".
            refinement_steps (`int`): Steps by which the latents are refined to the pixels that matter
                before they are coded, see `refine_latents`: better there for about as many bytes, worse right beside
                it. Each takes a forward and a backward pass through codec and VAE decoder, with the memory of that,
                and with a budget each try takes them all; 4 bring most of what 8 do. 0 codes what the VAE gives.

        Returns:
            [`RSICEncoderOutput`], or a tuple of its values.

        Raises:
            ValueError: One sentence on what was wrong and what to do.
        {example}
        """
        # 1. Check inputs
        is_list = isinstance(image, (list, tuple))
        images = list(image) if is_list else [image]
        images = [to_rgb(one) if isinstance(one, PIL.Image.Image) else one for one in images]
        if not images:
            raise ValueError("There is nothing to encode: the list of images is empty.")
        captions, *asked = (
            self._per_image(name, value, len(images)) if is_list else [value]
            for name, value in (
                ("caption", caption), ("referring", referring), ("box", box), ("point", point), ("mask", mask)
            )
        )  # fmt: skip
        shared = {
            "weight": weight,
            "background": background,
            "levels": levels,
            "mode": mode,
            "fallback": fallback,
            "target_bytes": target_bytes,
            "target_bpp": target_bpp,
            "max_side": max_side,
            "caption_bytes": caption_bytes,
            "caption_codec": caption_codec,
            "refinement_steps": refinement_steps,
        }
        demands = [self.check_arguments(*own, **shared) for own in zip(captions, *asked)]
        captions = ["" if one is None and self.captioner is None else one for one in captions]
        self.check_inputs(images, max_side)

        # 2. Demands to weight maps
        tensors = [self.image_processor.preprocess(one) for one in images]  # (1, 3, H, W) in [-1, 1]
        sizes = [tuple(tensor.shape[-2:]) for tensor in tensors]
        coded_sides = [self._coded_side(*size, max_side) for size in sizes]
        coded_sizes = [reduced_size(*size, side) for size, side in zip(sizes, coded_sides)]
        weighed = [
            self._weigh(
                tensor, asked, coded_size, weight, background, levels, fallback == "global", refinement_steps > 0
            )
            for tensor, asked, coded_size in zip(tensors, demands, coded_sizes)
        ]

        results = []
        is_short = partial(self._is_short, caption_bytes=caption_bytes, caption_codec=caption_codec)
        has_budget = target_bytes is not None or target_bpp is not None
        work = max(refinement_steps, 1) * (MAX_ENCODES if has_budget else 1)
        with self.progress_bar(total=work * len(images)) as progress_bar:
            for i, (wanted, weights) in enumerate(weighed):
                height, width = sizes[i]
                # 3. Photo to caption, where it brings none
                if captions[i] is None:
                    captions[i] = describe(self.captioner, self.image_processor.postprocess(tensors[i])[0], is_short)

                # 4. Photo to latents, z_0
                vae_input = resize(tensors[i], coded_sizes[i]).to(self._execution_device, self.vae.dtype)
                analysed = encode_image(self.vae, vae_input)  # (1, 4, ceil(H/8), ceil(W/8))

                def encode(weight_map, i=i, vae_input=vae_input, analysed=analysed, wanted=wanted, weights=weights):
                    # 5. Latents to codes, by M
                    values = torch.from_numpy(weight_map.values)[None, None]
                    latents = analysed.to(self.hsvlc.dtype)
                    if refinement_steps:
                        latents = refine_latents(
                            self.vae,
                            self.hsvlc,
                            vae_input,
                            latents,
                            values,
                            move_weights(weights, wanted, weight_map),
                            refinement_steps,
                            progress_bar.update,
                        )
                    coded = self.hsvlc.compress(latents, values)

                    # 6. All parts to a file
                    file = Bitstream(
                        *sizes[i][::-1],
                        weight_map,
                        captions[i],
                        coded.data,
                        self.hsvlc.fingerprint,
                        coded_sides[i],
                        caption_codec=caption_codec,
                    )
                    breakdown = file.breakdown()
                    breakdown.update(_share_bytes(breakdown.pop("codes"), coded.bits_per_scale))
                    return file.to_bytes(), breakdown, weight_map.values

                if has_budget:
                    budget = target_bytes if target_bpp is None else target_bpp * height * width / 8
                    data, breakdown, values = fit_budget(wanted, encode, budget)
                else:
                    data, breakdown, values = encode(wanted)
                results.append((data, 8 * len(data) / (height * width), breakdown, captions[i], values, images[i]))
                progress_bar.update(work * (i + 1) - progress_bar.n)

        columns = tuple(list(column) for column in zip(*results)) if is_list else results[0]
        self.maybe_free_model_hooks()
        if not return_dict:
            return columns
        return RSICEncoderOutput(*columns)

    __call__.__doc__ = __call__.__doc__.replace("{example}", EXAMPLE_DOC_STRING)

    @staticmethod
    def _per_image(name, value, number):
        if value is None:
            return [None] * number
        if not isinstance(value, (list, tuple)) or len(value) != number:
            raise ValueError(f"{number} images need a list of {number} for {name}; None stands for none.")
        return list(value)


def _share_bytes(total: int, bits: list[float]) -> dict[str, int]:
    """Split the bytes of the one stream over the scales, by their information; the parts sum to `total`."""
    ends = np.round(np.cumsum(bits) / max(sum(bits), 1e-9) * total).astype(int)
    ends[-1] = total
    return {f"f{i}": int(size) for i, size in enumerate(np.diff(ends, prepend=0))}
