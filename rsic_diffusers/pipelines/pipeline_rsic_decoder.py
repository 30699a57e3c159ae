"""Bytes in, picture out: GGD, guided generative decoding (paper, section II-C, Algorithm 1)."""

import copy
from typing import Callable

import numpy as np
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import logging
from transformers import CLIPTextModel, CLIPTokenizer

from ..bitstream import Bitstream, BitstreamError
from ..hub import FromPretrainedMixin
from ..models.hsvlc import HSVLC, expand_to_latents
from ..schedulers.scheduling_guided_self_recurrent_ddim import GuidedSelfRecurrentDDIMScheduler, draw_noise
from ..schedulers.settings import check_sampler_settings
from .compatibility import check_latent_space, check_scheduler, check_stable_diffusion_1
from .latents import decode_latents, resize
from .pipeline_output import RSICDecoderOutput
from .presets import PAPER, PRESETS


logger = logging.get_logger(__name__)

EXAMPLE_DOC_STRING = """
        Examples:
        ```py
        >>> import torch
        >>> from rsic_diffusers import RSICDecoderPipeline

        >>> dec = RSICDecoderPipeline.from_pretrained("rsic-tiny")
        >>> image = dec("photo.rsic").images[0]
        >>> image.save("photo.png")
        ```
"""


class RSICDecoderPipeline(FromPretrainedMixin, DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """Turns `.rsic` files back into pictures with a Stable Diffusion 1.x model that was never trained for it.

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`]): Latents to pictures.
        text_encoder ([`CLIPTextModel`]), tokenizer ([`CLIPTokenizer`]): For the caption.
        unet ([`UNet2DConditionModel`]): The diffusion model, epsilon or v-prediction.
        hsvlc ([`HSVLC`]): Bytes to latents, and C in the guidance.
        scheduler ([`GuidedSelfRecurrentDDIMScheduler`]): The sampler, with the defaults of `__call__`.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    # In the sampling loop UNet and HSVLC take turns; HSVLC is small and stays.
    _exclude_from_cpu_offload = ["hsvlc"]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        vae,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        hsvlc: HSVLC,
        scheduler: GuidedSelfRecurrentDDIMScheduler,
    ):
        super().__init__()
        check_latent_space(vae, hsvlc)
        check_stable_diffusion_1(unet.config, text_encoder.config)
        check_scheduler(scheduler)
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, hsvlc=hsvlc, scheduler=scheduler
        )
        self.image_processor = VaeImageProcessor()

    def check_inputs(self, files, output_type, callback_on_step_end_tensor_inputs, settings, generator, upscale):
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f'output_type must be "pil", "np", "pt" or "latent", got {output_type!r}.')
        check_scheduler(self.scheduler)
        check_sampler_settings(settings, self.scheduler.config.num_train_timesteps)
        generators = generator if isinstance(generator, list) else [generator]
        if generator is not None and not all(isinstance(made, torch.Generator) for made in generators):
            raise ValueError(
                f"generator must be a torch.Generator, a list of them, or None, got {generator!r}; for a seed, write "
                "torch.Generator().manual_seed(seed)."
            )
        if isinstance(generator, list) and len(generator) != len(files):
            raise ValueError(f"{len(files)} files need as many generators, got {len(generator)}.")
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs may hold {self._callback_tensor_inputs}, not {sorted(unknown)}."
            )
        if not files:
            raise ValueError("There is nothing to decode: the list is empty.")
        if len({file.coded_size if not upscale else (file.coded_size, file.width, file.height) for file in files}) > 1:
            raise ValueError("Files decoded together must hold pictures of one size; decode these one after another.")
        for file in files:
            if file.fingerprint != self.hsvlc.fingerprint:
                raise BitstreamError(
                    f"The file was made for the codec {file.fingerprint.hex()}, this model's is "
                    f"{self.hsvlc.fingerprint.hex()}; load the model that encoded it."
                )

    def default_settings(self, preset: str | None = None) -> dict:
        """What `__call__` takes for the sampler's arguments that are not given."""
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, or None; got {preset!r}.")
        return {name: self.scheduler.config[name] for name in PAPER} | (PRESETS[preset] if preset else {})

    def encode_prompt(self, captions: list[str]) -> torch.Tensor:
        """Text embeddings of shape (B, 77, D). What the text encoder cannot read is cut, with a warning."""
        limit = self.tokenizer.model_max_length
        tokens = self.tokenizer(captions, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        for caption in captions:
            whole = self.tokenizer(caption, truncation=False).input_ids
            if len(whole) > limit:
                cut = self.tokenizer.decode(whole[limit - 1 :], skip_special_tokens=True)
                logger.warning(f"The caption is longer than the text encoder's {limit} tokens; not read: {cut!r}")
        embeddings = self.text_encoder(tokens.input_ids.to(self._execution_device)).last_hidden_state
        # Loaded without a dtype, transformers' models keep that of their file and diffusers' do not.
        return embeddings.to(self.unet.dtype)

    @torch.no_grad()
    def __call__(
        self,
        bitstream,
        preset: str | None = None,
        num_inference_steps: int | None = None,
        num_recurrence_steps: int | None = None,
        guidance_scale: float | None = None,
        referring_scale: float | None = None,
        guidance_strength: float | None = None,
        guidance_target: str | None = None,
        inversion_guidance_scale: float | None = None,
        strength: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        upscale: bool = True,
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],
    ) -> RSICDecoderOutput | tuple:
        """Decode a file, or a list of files of pictures of one size.

        Args:
            bitstream (`bytes`, path, or a list of them): The file.
            preset (`str`, *optional*): "paper" is Algorithm 1 with the paper's settings, 450 UNet evaluations;
                "balanced" and "fast" leave the inversion out and take at most 50 and 8. Other arguments override it;
                what neither gives comes from the scheduler's config, with "balanced" and "fast" guidance_scale,
                referring_scale and start_noise_factors.
            num_inference_steps (`int`, *optional*): T; 0 leaves diffusion out and gives the picture of z_hat_0.
            num_recurrence_steps (`int`, *optional*): T_r.
            guidance_scale, referring_scale (`float`, *optional*): omega = guidance_scale (1 - referring_scale M). A
                guidance_scale of 1 takes the caption's prediction alone, half of a pair's work. Fidelity-first
                decoders of this field use 1 to 1.5 rather than the paper's 3.
            guidance_strength (`float`, *optional*): The pull towards the coded latents, summed over the whole run; see
                the scheduler.
            guidance_target (`str`, *optional*): "noisy", "clean" or "posterior", see the scheduler.
            inversion_guidance_scale (`float`, *optional*): omega during inversion, if it is not that of denoising.
            strength (`float`, *optional*): Multiplies the noise from which each position starts, see the scheduler's
                `start_timesteps`; 1 is the checkpoint's own level, 0 no diffusion. Only the steps below the highest
                start are run. Without one (in the preset and the scheduler's config as well) z_hat_0 is inverted, as
                the paper does.
            generator (`torch.Generator`, *optional*): Default: seeded by the file, so that the same file gives the
                same picture.
            output_type (`str`): "pil", "np", "pt" or "latent".
            upscale (`bool`): Enlarge a picture that was coded at a reduced size to that of the photo (by plain bicubic
                interpolation); False returns it as coded.
            callback_on_step_end (`Callable`, *optional*): Called as `f(pipeline, step, timestep, {"latents": ...})`
                after each denoising step; may return changed latents.

        Returns:
            [`RSICDecoderOutput`], or the tuple (images, num_unet_evaluations).

        Raises:
            BitstreamError: The file is damaged, foreign, or made for another codec; raised before any network runs,
                but for a code stream that no encoder writes, which its decoding finds, before diffusion.
        {example}
        """
        # 1. Check inputs
        sources = list(bitstream) if isinstance(bitstream, (list, tuple)) else [bitstream]
        files = [Bitstream.read(source) for source in sources]
        settings = {
            "num_inference_steps": num_inference_steps,
            "num_recurrence_steps": num_recurrence_steps,
            "guidance_scale": guidance_scale,
            "referring_scale": referring_scale,
            "guidance_strength": guidance_strength,
            "guidance_target": guidance_target,
            "inversion_guidance_scale": inversion_guidance_scale,
            "strength": strength,
        }
        settings = self.default_settings(preset) | {name: one for name, one in settings.items() if one is not None}
        self.check_inputs(files, output_type, callback_on_step_end_tensor_inputs, settings, generator, upscale)
        device = self._execution_device
        num_inference_steps, num_recurrence_steps = settings["num_inference_steps"], settings["num_recurrence_steps"]
        scheduler = copy.deepcopy(self.scheduler)  # of this call alone: another thread may be decoding too
        if generator is None:
            # On the CPU, so that the noise is the same on every machine.
            generator = [torch.Generator("cpu").manual_seed(file.noise_seed) for file in files]

        # 2. Codes to latents, z_hat_0, and M at two resolutions
        size = files[0].coded_size
        shape = tuple(-(-side // 8) for side in size)
        weight_map = torch.from_numpy(np.stack([file.weight_map.values for file in files]))[:, None]
        self.hsvlc.require_tables()
        try:
            coded = torch.cat(
                [self.hsvlc.decompress(file.codes, one[None], shape) for file, one in zip(files, weight_map)]
            )
        except ValueError as error:
            raise BitstreamError(str(error)) from None
        coded = coded.to(device, torch.float32)  # (B, 4, h, w)
        weight_map = weight_map.to(device)
        level_map = expand_to_latents(weight_map, shape)
        conditions = self.hsvlc.condition(weight_map, *shape)

        def codec(latents):
            return self.hsvlc(latents.to(self.hsvlc.dtype), conditions).sample

        # 3. Captions to embeddings, each distinct text once
        captions = [file.caption for file in files]
        texts = list(dict.fromkeys([*captions, ""] if any(captions) else captions))
        embeddings = self.encode_prompt(texts)
        with_caption = embeddings[[texts.index(caption) for caption in captions]]
        without_caption = embeddings[[texts.index("")] * len(files)] if any(captions) else with_caption
        pair = torch.cat([without_caption, with_caption])
        # Without a caption in the batch both predictions of a pair would be the same.
        omega = inversion_omega = 1
        if any(captions):
            omega = scheduler.guidance_scale_map(level_map, settings["guidance_scale"], settings["referring_scale"])
            inversion_omega = settings["inversion_guidance_scale"]
            inversion_omega = omega if inversion_omega is None else inversion_omega
        evaluations = 0

        def predict(latents, timestep, omega):
            """eps(z_t) + omega (eps(z_t, c) - eps(z_t)), a pair of predictions being one call."""
            nonlocal evaluations
            evaluations += 1
            latents = latents.to(self.unet.dtype)
            if not torch.is_tensor(omega) and omega in (0, 1):
                embeddings = with_caption if omega else without_caption
                return self.unet(latents, timestep, embeddings).sample.float()
            without, with_ = self.unet(torch.cat([latents] * 2), timestep, pair).sample.float().chunk(2)
            return without + omega * (with_ - without)

        # 4. Where to start: z_hat_0 inverted to z_hat_T, keeping the trajectory (Algorithm 1, lines 2 to 4), or
        # z_hat_0 with noise of each position's own level
        inverts = settings["strength"] is None
        error = None  # D(M), (B, 1, h, w)
        if not inverts or settings["guidance_target"] == "posterior":
            error = self.hsvlc.error_at(level_map)
        timesteps = torch.empty(0)
        num_steps = num_inference_steps * num_recurrence_steps
        latents, trajectory = coded, []
        if inverts and num_inference_steps:
            scheduler.set_timesteps(num_inference_steps, device)
            timesteps = scheduler.timesteps  # used as they lie on the device, which the loops need not wait for
        elif not inverts:
            # The list of timesteps is that of M = 0, whatever the files hold: each starts from somewhere along it.
            nothing = torch.zeros(1, 1, 1, 1)
            highest = scheduler.start_timesteps(self.hsvlc.error_at(nothing), nothing, settings["strength"])
            scheduler.set_timesteps(num_inference_steps, device, start=float(highest))
            timesteps = scheduler.timesteps
            start = scheduler.start_timesteps(error, level_map, settings["strength"])  # (B, 1, h, w)
            num_steps = (timesteps[:, None] <= start.amax((1, 2, 3)).to(timesteps.device)).sum(0)
            skipped = len(timesteps) - int(num_steps.max())
            num_steps = num_recurrence_steps * num_steps.view(-1, 1, 1, 1)  # (B, 1, 1, 1), of each file
            timesteps = timesteps[skipped:]
            noise = draw_noise(coded, generator)
            for _ in range(skipped * (num_recurrence_steps - 1)):
                # What the steps left out would have drawn: a file's noise is not to depend on its company in a batch.
                draw_noise(coded, generator)
            if num_inference_steps and settings["strength"] and not len(timesteps):
                logger.warning(
                    "M is so high everywhere that no step of diffusion is run: the picture is that of the coded "
                    "latents. More steps (num_inference_steps) or noise (strength) would change it."
                )
        with self.progress_bar(total=len(timesteps) * (num_recurrence_steps + inverts)) as progress_bar:
            for t in timesteps.flip(0) if inverts else ():
                latents = scheduler.invert_step(predict(latents, t, inversion_omega), t, latents)
                trajectory.append(latents)
                progress_bar.update()

            # 5. Guided, self-recurrent denoising (lines 3 to 11)
            for i, t in enumerate(timesteps):
                reference = trajectory.pop() if settings["guidance_target"] == "noisy" else coded
                if not inverts:
                    # Positions that did not start before this step have their coded latents, with its level's noise.
                    noisy = scheduler.add_noise(coded, noise, t)
                    latents = noisy if i == 0 else torch.where(start >= timesteps[i - 1], latents, noisy)
                for recurrence in range(num_recurrence_steps):
                    previous = scheduler.step(
                        predict(latents, t, omega),
                        t,
                        latents,
                        reference=reference,
                        codec=codec,
                        error=error,
                        guidance_strength=settings["guidance_strength"],
                        guidance_target=settings["guidance_target"],
                        num_steps=num_steps,
                    ).prev_sample
                    progress_bar.update()
                    if recurrence < num_recurrence_steps - 1:
                        latents = scheduler.renoise(previous, t, generator)
                latents = previous
                if callback_on_step_end is not None:
                    callback_outputs = callback_on_step_end(self, i, int(t), {"latents": latents})
                    latents = (callback_outputs or {}).get("latents", latents)
            if not inverts and len(timesteps):
                latents = torch.where(start >= timesteps[-1], latents, coded)

        # 6. Latents to pictures
        if not bool(torch.isfinite(latents).all()):
            raise ValueError("The latents became NaN or infinite; use another dtype, or a lower guidance_strength.")
        if output_type == "latent":
            images = latents
        else:
            images = decode_latents(self.vae, latents.to(self.vae.dtype), size)
            images = resize(images, (files[0].height, files[0].width) if upscale else size)
            images = self.image_processor.postprocess(images.float(), output_type=output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images, evaluations)
        return RSICDecoderOutput(images=images, num_unet_evaluations=evaluations, files=files)

    __call__.__doc__ = __call__.__doc__.replace("{example}", EXAMPLE_DOC_STRING)
