"""Photo to bytes: global description encoding (paper, section II-A) and referring guidance encoding (section II-B)."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from inspect import signature

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import logging, replace_example_docstring

from ..bitstream import DEFAULT_MAX_SIDE, MIN_SIDE, Bitstream
from ..bitstream.caption_coding import DEFAULT_CAPTION_BYTES, DEFAULT_CAPTION_CODEC
from ..bitstream.weight_map import DEFAULT_WEIGHT, WeightMap, expand_to_pixels
from ..description.caption_checks import check_caption, fits_in_file
from ..description.captioners import Captioner, check_captioner, describe
from ..hub import FromPretrainedMixin
from ..models.hsvlc import HSVLC
from ..referring.budget import CLOSE_ENOUGH, MAX_ENCODES, fit_budget, move_weights
from ..referring.demands import (
    MAX_LEVELS,
    Demand,
    choose_background,
    collect_demands,
    make_weight_map,
    stands_out,
    weigh_pixels,
)
from ..referring.heat_maps import PhraseNotFoundError, ReferringModel, heat_map, min_max
from ..referring.regions import clip_region
from ..torch_state import own_torch_state
from .compatibility import check_complete, check_latent_space
from .encoder_inputs import (
    CHECKPOINT_MAX_SIDE,
    DEFAULT_BACKGROUND_COLOR,
    EncoderSettings,
    check_limit,
    choose_coded_side,
    list_photos,
    list_values,
    load_photo,
)
from .encoding_job import EncodedFile, PhotoJob, share_bytes
from .latents import encode_to_finite, resize
from .pipeline_output import RSICEncoderOutput
from .refinement import refine_latents


logger = logging.get_logger(__name__)

EXAMPLE_DOC_STRING = """
        Examples:
        ```py
        >>> from rsic_diffusers import RSICEncoderPipeline

        >>> enc = RSICEncoderPipeline.from_pretrained("rsic-tiny")
        >>> out = enc("photo.jpg", caption="a lighthouse on a cliff", box=(120, 40, 300, 300))
        >>> out.save("photo.rsic")
        >>> print(len(out.bitstream), out.bpp, out.breakdown)
        ```
"""
PHOTO_ARGUMENTS = ("caption", "referring", "box", "point", "mask")  # a batch has a list of each


class RSICEncoderPipeline(FromPretrainedMixin, DiffusionPipeline):
    """Compresses photos to `.rsic` files.

    Reads the same repos as [`RSICDecoderPipeline`], but loads only what encoding needs: no UNet, no text encoder.

    M, the weight map, holds a number for each 64 x 64 pixels of the coded picture, from 0 (imagined) to 1 (as close to
    the photo as the codec can).

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`]): Turns pictures into latents.
        hsvlc ([`HSVLC`]): Turns latents into bytes.
        tokenizer ([`CLIPTokenizer`], *optional*): Tells whether the decoder can read all of a caption.
        referring_model (*optional*): Finds phrases: a [`CLIPModel`], a [`CLIPSegForImageSegmentation`], a
            [`ReferringModel`] or any callable (image, phrase) -> heat map, see `heat_map`.
        captioner (*optional*): Describes photos that come without a caption: a [`Captioner`] or any callable
            (image) -> str, see `describe`.
        default_max_side (`int`, *optional*): The long side that photos are reduced to unless `__call__` is told
            otherwise: what the checkpoint's UNet was trained for. None means 768.
    """

    model_cpu_offload_seq = "vae"
    # Offloading hooks see `forward` alone: not the coding methods of HSVLC, which is small, nor GEM, which calls the
    # parts of its model.
    _exclude_from_cpu_offload = ["hsvlc", "referring_model"]
    _optional_components = ["tokenizer", "referring_model", "captioner"]

    def __init__(
        self,
        vae,
        hsvlc: HSVLC,
        tokenizer=None,
        referring_model=None,
        captioner=None,
        default_max_side: int | None = None,
    ):
        super().__init__()
        check_complete(vae=vae, hsvlc=hsvlc)
        check_latent_space(vae, hsvlc)
        self.register_modules(
            vae=vae, hsvlc=hsvlc, tokenizer=tokenizer, referring_model=referring_model, captioner=captioner
        )
        check_limit("default_max_side", default_max_side, MIN_SIDE)
        self.register_to_config(default_max_side=default_max_side)
        self.image_processor = VaeImageProcessor(do_resize=False)
        if self._execution_device.type != "cpu":
            self._move_helpers(self._execution_device)

    def to(self, *args, **kwargs):
        """As [`DiffusionPipeline.to`]; a [`ReferringModel`] and a [`Captioner`] follow to the device, unless they were
        made with `follows_pipeline=False` or loaded to a device of their own."""
        super().to(*args, **kwargs)
        self._move_helpers(self._execution_device)  # sequential offloading leaves the VAE itself on "meta"
        return self

    def _move_helpers(self, device):
        for helper in (self.referring_model, self.captioner):
            if isinstance(helper, (ReferringModel, Captioner)) and helper.follows_pipeline:
                helper.to(device)

    # ------------------------------------------------------------------------------------------------------- checks

    def check_arguments(self, **arguments) -> list[Demand]:
        """Check arguments of `__call__` for one photo, as far as that can be done without the photo.

        Returns:
            `list[Demand]`: What is referred to.

        Raises:
            ValueError: An argument is malformed, or needs a model that this pipeline lacks.
            TypeError: There is no such argument.
        """
        bound = signature(self.__call__).bind_partial(**arguments)
        bound.apply_defaults()
        given = bound.arguments
        settings = EncoderSettings(**{field.name: given[field.name] for field in fields(EncoderSettings)})
        return self._check_photo_arguments(settings, *(given[name] for name in PHOTO_ARGUMENTS))

    def _check_photo_arguments(self, settings, caption, referring, box, point, mask) -> list[Demand]:
        demands = collect_demands(referring, box, point, mask, settings.weight)
        if settings.mode == "global" and demands:
            raise ValueError('mode="global" weighs all of the picture alike; leave out what refers to a part of it.')
        if settings.mode == "referring" and not demands:
            raise ValueError('mode="referring" needs to know what matters; give a phrase, a box, a point or a mask.')
        if self.referring_model is None and any(demand.phrase is not None for demand in demands):
            raise ValueError(
                "A phrase needs a model that finds it in the photo: load the pipeline with referring_model= (a "
                "CLIPModel or CLIPSegForImageSegmentation of transformers, or a function); or say what matters with "
                "box=, point= or mask=, which need none."
            )
        if caption is not None:
            check_caption(caption, self.tokenizer)
        elif self.captioner is not None:
            check_captioner(self.captioner)
        return demands

    # -------------------------------------------------------------------------------------------- steps of __call__

    def prepare_photos(self, image, settings: EncoderSettings, **photo_arguments) -> tuple[list[PhotoJob], bool]:
        """Check all arguments and load the photos; also tells whether they came as a batch."""
        sources, is_batch = list_photos(image)
        columns = [photo_arguments[name] for name in PHOTO_ARGUMENTS]
        if is_batch:
            columns = [
                list_values(name, column, len(sources)) for name, column in zip(PHOTO_ARGUMENTS, columns, strict=True)
            ]
        rows = list(zip(*columns, strict=True)) if is_batch else [columns]
        asked = [self._check_photo_arguments(settings, *row) for row in rows]
        max_side = settings.max_side
        if max_side == CHECKPOINT_MAX_SIDE:
            max_side = self.config.default_max_side or DEFAULT_MAX_SIDE
        photos = []
        for source, (caption, *_), demands in zip(sources, rows, asked, strict=True):
            tensor = load_photo(source, settings.background_color, settings.max_pixels)
            size = tensor.shape[-2:]
            demands = [clip_region(demand, *size) for demand in demands]
            photos.append(PhotoJob(tensor, caption, demands, choose_coded_side(*size, max_side)))
        return photos, is_batch

    def locate(self, image: torch.Tensor, phrase: str, must_be_found: bool = False) -> np.ndarray:
        """Heat map of a phrase, values in [0, 1], of the referring model's own resolution.

        Args:
            image (`torch.Tensor` of shape (1, 3, H, W)): Values in [-1, 1].
            phrase (`str`): What to find.
            must_be_found (`bool`): Raise [`PhraseNotFoundError`] if the model does not see it; otherwise warn.
        """
        picture = self.image_processor.postprocess(image)[0]
        return min_max(heat_map(self.referring_model, self.tokenizer, picture, phrase, must_be_found))

    def prepare_weight_map(self, photo: PhotoJob, settings: EncoderSettings) -> None:
        """Turn demands into M, and for refinement into weights of pixels."""
        found, heat_maps = self._find_phrases(photo, settings)
        if not found:
            weight = max((demand.weight for demand in photo.demands), default=settings.weight)
            if settings.background:
                logger.warning(
                    f"background={settings.background:g} has no effect: no part of the photo is referred to."
                )
            photo.weight_map = WeightMap.constant(weight, *photo.coded_size)
            if settings.refinement_steps:
                photo.pixel_weights = expand_to_pixels(photo.weight_map.values, *photo.coded_size)
            return
        levels, background = settings.levels, settings.background
        if background is None:
            background = choose_background(found, levels)
        for demand in found:
            if not stands_out(demand.weight, background, levels):
                logger.warning(
                    f"A demand of weight {demand.weight:g} has no effect: rounded to {levels} levels, it is not above "
                    f"the background, {background:g}."
                )
        make_map = weigh_pixels if settings.refinement_steps else make_weight_map
        result = make_map(
            *photo.size,
            found,
            background=background,
            levels=settings.levels,
            coded_size=photo.coded_size,
            locate=heat_maps.get,
            lambda_growth=self.hsvlc.config.lambda_growth,
        )
        photo.weight_map, photo.pixel_weights = result if settings.refinement_steps else (result, None)

    def _find_phrases(self, photo, settings) -> tuple[list[Demand], dict[str, np.ndarray]]:
        """The demands that can be met, and the heat map of each phrase."""
        found, heat_maps = [], {}
        for demand in photo.demands:
            try:
                if demand.phrase is not None:
                    heat_maps[demand.phrase] = self.locate(photo.image, demand.phrase, settings.fallback == "global")
                found.append(demand)
            except PhraseNotFoundError as error:
                logger.warning(f"{error} It is left out.")
        return found, heat_maps

    def prepare_caption(self, photo: PhotoJob, settings: EncoderSettings) -> None:
        """Ask the captioner where a photo comes without a caption."""
        if photo.caption is None and self.captioner is not None:
            fits = partial(
                fits_in_file,
                tokenizer=self.tokenizer,
                max_bytes=settings.caption_bytes,
                codec=settings.caption_codec,
            )
            picture = self.image_processor.postprocess(photo.image)[0]
            photo.caption = describe(self.captioner, picture, fits)
        photo.caption = photo.caption or ""

    def prepare_latents(self, photo: PhotoJob) -> None:
        """Bring the photo to its coded size, and encode it with the VAE."""
        photo.vae_input = resize(photo.image, photo.coded_size).to(self._execution_device, self.vae.dtype)
        latents = encode_to_finite(self.vae, photo.vae_input)  # (1, 4, ceil(h/8), ceil(w/8))
        photo.latents = latents.to(self.hsvlc.dtype)

    def encode_with_map(
        self, photo: PhotoJob, settings: EncoderSettings, on_step: Callable, weight_map: WeightMap
    ) -> EncodedFile:
        """Refine and code the latents with this M, and write the file."""
        values = torch.from_numpy(weight_map.values)[None, None]  # (1, 1, rows, columns)
        latents = photo.latents  # (1, 4, ceil(h/8), ceil(w/8))
        if settings.refinement_steps:
            weights = move_weights(photo.pixel_weights, photo.weight_map, weight_map)
            latents = refine_latents(
                self.vae, self.hsvlc, photo.vae_input, latents, values, weights, settings.refinement_steps, on_step
            )
        else:
            on_step()
        coded = self.hsvlc.compress(latents, values)
        height, width = photo.size
        file = Bitstream(
            width,
            height,
            weight_map,
            photo.caption,
            coded.data,
            self.hsvlc.fingerprint,
            photo.coded_side,
            caption_codec=settings.caption_codec,
        )
        breakdown = file.breakdown()
        bits = dict(zip(self.hsvlc.coded_scales, coded.bits_per_scale, strict=True))
        breakdown.update(share_bytes(breakdown.pop("codes"), bits))
        return EncodedFile(file.to_bytes(), breakdown, weight_map)

    def encode_within_budget(self, photo: PhotoJob, settings: EncoderSettings, on_step: Callable) -> EncodedFile:
        """Encode with M as asked for, or as much above or below it as fills the budget."""
        encode = partial(self.encode_with_map, photo, settings, on_step)
        budget = settings.budget(*photo.size)
        if budget is None:
            return encode(photo.weight_map)
        coded = fit_budget(photo.weight_map, encode, budget, self._rate_at if self.hsvlc.config.level_bpp else None)
        if coded.weight_map.values.min() == 1 and len(coded.data) < CLOSE_ENOUGH * budget:
            logger.warning(
                f"All of the photo is at M = 1, which takes {len(coded.data)} bytes of the {budget:.0f} allowed."
            )
        return coded

    def _rate_at(self, weights: np.ndarray) -> np.ndarray:
        return self.hsvlc.rate_at(torch.from_numpy(weights)).numpy()

    @own_torch_state()
    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image,
        caption: str | list[str] | None = None,
        referring=None,
        box=None,
        point=None,
        mask=None,
        weight: float = DEFAULT_WEIGHT,
        background: float | None = None,
        levels: int = MAX_LEVELS,
        mode: str | None = None,
        fallback: str | None = None,
        target_bytes: float | None = None,
        target_bpp: float | None = None,
        max_side: int | str | None = CHECKPOINT_MAX_SIDE,
        max_pixels: int | None = None,
        background_color: str | tuple[int, int, int] = DEFAULT_BACKGROUND_COLOR,
        caption_bytes: int = DEFAULT_CAPTION_BYTES,
        caption_codec: str = DEFAULT_CAPTION_CODEC,
        refinement_steps: int = 0,
        return_dict: bool = True,
    ) -> RSICEncoderOutput | tuple:
        """Encode a photo, or a batch of photos one after another. (All photos of a batch are read first, so that a bad
        one is found before any is encoded; they take 12 bytes a pixel. Of thousands of large ones give a few at once.)

        Args:
            image (`PIL.Image.Image`, `str` or path, `bytes`, file object, `np.ndarray`, `torch.Tensor`, or a list):
                The photo, at least 64 x 64 pixels. Files and PIL images are turned upright as their EXIF orientation
                says, and colour profiles are converted to sRGB. Arrays and tensors have shape (H, W, C), (C, H, W) or
                (H, W) and hold uint8, uint16, or floats in [0, 1]. A list, or an array with a batch dimension, is a
                batch: then `caption`, `referring`, `box`, `point` and `mask` are lists of as many (None for nothing).
            caption (`str`, *optional*): What the picture shows; the decoder imagines the rest by it. None: what the
                captioner says, or no caption without a captioner. Any string is used as it is; "" means no caption.
            referring: What must stay faithful: a phrase ("the lighthouse"), a [`Demand`] with a weight of its own, a
                dict of the fields of one, or a list of these. Phrases need a `referring_model`.
            box: (x0, y0, x1, y1) in pixels of the photo, or a list of boxes. Up to one pixel outside is clipped.
            point: (x, y) in pixels, or a list of points; each stands for a disc whose radius is 1/8 of the shorter
                side.
            mask: A picture of the photo's size, its path, or an array or tensor (H, W): it refers to the pixels whose
                number is not 0, see `read_mask`.
            weight (`float`): M where something is referred to, in [0, 1], for what brings no weight of its own; in
                global mode M everywhere.
            background (`float`, *optional*): M elsewhere, in [0, 1]. 0: the rest is imagined from next to nothing, as
                in the paper. Default: 2/7, which keeps the rest's large shapes for about 0.004 bpp, or one level of M
                below the least demand where that is lower.
            levels (`int`): L, the number of levels of M in referring mode, 2 to 8.
            mode (`str`, *optional*): "global" or "referring"; by default referring if anything is referred to.
            fallback (`str`, *optional*): "global" leaves out a phrase that is found nowhere, and codes the photo in
                global mode, at the largest weight, if nothing else was asked for. By default there is a warning, and
                M follows the model's best guess.
            target_bytes (`float`), target_bpp (`float`, *optional*): Budget for the whole file. All weights are moved
                up or down together until it is filled to a few percent, and never exceeded (see `fit_budget`). A photo
                that needs less even at M = 1 gets a smaller file.
            max_side (`int`, "auto" or None): A photo with a longer side is coded smaller, its long side at the next
                lower multiple of 128 (at most 2048), and the decoder enlarges the picture again: Stable Diffusion
                repeats and distorts things in pictures much larger than those it was trained on. Boxes, points and
                masks stay in pixels of the photo as given, and bpp is per pixel of it. "auto": the checkpoint's
                `default_max_side`, or 768. A long side of up to 4 pixels above a multiple of 128 is coded at that
                multiple too, for a tenth fewer bytes. None: code it at its own size.
            max_pixels (`int`, *optional*): Refuse photos with more pixels, files before they are decoded; a bound for
                services. None: the file format's own limits.
            background_color (`str` or tuple): Transparent pixels are composited on it: a name that Pillow knows,
                "#rrggbb" or (r, g, b) in 0 to 255.
            caption_bytes (`int`): Upper limit on the coded bytes of a caption that the captioner writes. It is also
                shortened to what the text encoder reads.
            caption_codec (`str`): "auto", "dictionary", "zlib", "brotli" or "raw".
            refinement_steps (`int`): Steps that refine the latents towards the pixels that matter before they are
                coded, see `refine_latents`; 4 bring most of what 8 do. Each takes the time and memory of a forward and
                a backward pass through codec and VAE decoder; with a budget, every try takes them all. 0: none.
            return_dict (`bool`): Return an output class, not a tuple.

        Examples:

        Returns:
            [`RSICEncoderOutput`], or a tuple of its values.

        Raises:
            ValueError: An argument or photo cannot be used; the message says why and what to do.
        """
        # 1. Check inputs and load the photos
        settings = EncoderSettings(
            weight, background, levels, mode, fallback, target_bytes, target_bpp, max_side, max_pixels,
            background_color, caption_bytes, caption_codec, refinement_steps,
        )  # fmt: skip
        photos, is_batch = self.prepare_photos(
            image, settings, caption=caption, referring=referring, box=box, point=point, mask=mask
        )

        # 2. Demands to weight maps M
        for photo in photos:
            self.prepare_weight_map(photo, settings)

        has_budget = target_bytes is not None or target_bpp is not None
        work = max(refinement_steps, 1) * (MAX_ENCODES if has_budget else 1)
        results = []
        with self.progress_bar(total=work * len(photos)) as progress_bar:
            for photo in photos:
                # 3. Caption
                self.prepare_caption(photo, settings)

                # 4. Photo to latents z_0
                self.prepare_latents(photo)

                # 5. Latents to a file
                encoded = self.encode_within_budget(photo, settings, progress_bar.update)
                results.append(self._result(photo, encoded))
                photo.vae_input = photo.latents = photo.pixel_weights = None  # of a batch they would fill the memory
                progress_bar.update(work * len(results) - progress_bar.n)

        # 6. Return one photo's values, or a list of each
        self.maybe_free_model_hooks()
        columns = tuple(list(column) for column in zip(*results, strict=True)) if is_batch else results[0]
        return RSICEncoderOutput(*columns) if return_dict else columns

    def _result(self, photo: PhotoJob, encoded: EncodedFile) -> tuple:
        """The values of [`RSICEncoderOutput`]."""
        height, width = photo.size
        picture: PIL.Image.Image = self.image_processor.postprocess(photo.image)[0]
        bpp = 8 * len(encoded.data) / (height * width)
        return encoded.data, bpp, encoded.breakdown, photo.caption, encoded.weight_map.values, picture
