"""Bytes in, picture out: GGD, guided generative decoding (paper, section II-C, Algorithm 1)."""

import copy
from collections.abc import Callable
from inspect import signature
from typing import Any

import PIL.Image
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.loaders import IPAdapterMixin, StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils import (
    USE_PEFT_BACKEND,
    logging,
    replace_example_docstring,
    scale_lora_layers,
    unscale_lora_layers,
)
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ..bitstream import Bitstream, BitstreamError
from ..hub import FromPretrainedMixin
from ..models.hsvlc import HSVLC
from ..models.rans import CodeStreamError
from ..schedulers.guidance import DEFAULT_GUIDANCE_STRENGTH
from ..schedulers.scheduling_guided_self_recurrent_ddim import GuidedSelfRecurrentDDIMScheduler
from ..schedulers.settings import check_sampler_settings
from ..tokenizer_lock import TOKENIZING
from ..torch_state import own_torch_state, with_gradients
from .compatibility import check_complete, check_latent_space, check_scheduler, check_stable_diffusion_1
from .decoder_inputs import (
    check_callback,
    check_files,
    check_generator,
    check_output_type,
    check_text_inputs,
    read_files,
    returned_size,
    weight_maps,
)
from .latents import decode_to_finite, resize
from .noise_predictor import NoisePredictor
from .pipeline_output import RSICDecoderOutput
from .presets import PAPER, PRESETS
from .sampling import Codec, CodedLatents, SamplingPlan, plan_sampling
from .text_conditions import TextConditions


logger = logging.get_logger(__name__)

EXAMPLE_DOC_STRING = """
        Examples:
        ```py
        >>> from rsic_diffusers import RSICDecoderPipeline

        >>> dec = RSICDecoderPipeline.from_pretrained("rsic-tiny")
        >>> image = dec("photo.rsic").images[0]
        >>> image.save("photo.png")
        ```
"""


class RSICDecoderPipeline(
    FromPretrainedMixin,
    DiffusionPipeline,
    StableDiffusionMixin,
    TextualInversionLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    IPAdapterMixin,
):
    """Turns `.rsic` files back into pictures with a Stable Diffusion 1.x model that was never trained for it.

    Symbols, as in the paper: M, the weight map, is a number for each 64 x 64 pixels of the coded picture, from 0
    (imagined) to 1 (as close to the photo as the codec can). z_hat_0 are the latents that the file holds. C codes and
    decodes latents by HSVLC, and D(M) is its measured squared error. T are the steps of diffusion, T_r the recurrences
    of each, omega is the scale of classifier-free guidance.

    The pipeline also has diffusers' `load_textual_inversion`, `load_lora_weights`, `load_ip_adapter` and
    `enable_freeu`. Several threads may decode at once, each with its own settings. Shared are
    `cross_attention_kwargs={"scale": ...}`, for which diffusers changes the UNet's layers while it runs (in threads,
    set the scale by `set_adapters` before), and the attributes `interrupt` and `num_timesteps`. An offloaded pipeline
    is for one thread: offloading moves the networks that another thread is using.

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`]): Latents to pictures.
        text_encoder ([`CLIPTextModel`]), tokenizer ([`CLIPTokenizer`]): For the caption.
        unet ([`UNet2DConditionModel`]): The diffusion model, epsilon or v-prediction.
        hsvlc ([`HSVLC`]): Bytes to latents, and C in the guidance.
        scheduler ([`GuidedSelfRecurrentDDIMScheduler`]): The sampler. Its config holds the checkpoint's own preset:
            what `__call__` takes for the sampler's arguments that are not given.
        image_encoder ([`CLIPVisionModelWithProjection`], *optional*), feature_extractor ([`CLIPImageProcessor`],
            *optional*): For the image prompt of an IP-Adapter; `load_ip_adapter` sets them.
        default_max_side (`int`, *optional*): Kept in the saved config for the encoder, which reads the same repo.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->unet->vae"
    # In the sampling loop UNet and HSVLC take turns; HSVLC is small and stays.
    _exclude_from_cpu_offload = ["hsvlc"]
    _optional_components = ["image_encoder", "feature_extractor"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds", "coded_latents"]

    # Stable Diffusion's own methods, which need no more than the components that this pipeline has too.
    encode_prompt = StableDiffusionPipeline.encode_prompt
    encode_image = StableDiffusionPipeline.encode_image
    prepare_ip_adapter_image_embeds = StableDiffusionPipeline.prepare_ip_adapter_image_embeds

    def __init__(
        self,
        vae,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        hsvlc: HSVLC,
        scheduler: GuidedSelfRecurrentDDIMScheduler,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        default_max_side: int | None = None,
    ):
        super().__init__()
        check_complete(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, hsvlc=hsvlc, scheduler=scheduler
        )
        check_latent_space(vae, hsvlc)
        check_stable_diffusion_1(unet.config, text_encoder.config)
        check_scheduler(scheduler)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            hsvlc=hsvlc,
            scheduler=scheduler,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(default_max_side=default_max_side)
        self.image_processor = VaeImageProcessor()
        self._interrupt = False
        self._num_timesteps = 0

    @property
    def interrupt(self) -> bool:
        """Whether running calls are to stop early: after `pipeline._interrupt = True`, in a callback say, all running
        calls leave out the UNet evaluations still to come. Before the first step of denoising the picture is that of
        the coded latents. Each new call sets it to False, in all threads."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Denoising steps of the last call, which diffusers' `PipelineCallback`s read."""
        return self._num_timesteps

    # ------------------------------------------------------------------------------------------- files and settings

    def default_settings(self, preset: str | None = None) -> dict:
        """The sampler's settings by name: those of the preset, and for what it leaves open the scheduler config's."""
        if preset not in (None, *PRESETS):
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, or None; got {preset!r}.")
        check_scheduler(self.scheduler)  # another's config has none of them
        return {name: self.scheduler.config[name] for name in PAPER} | (PRESETS[preset] if preset else {})

    @own_torch_state()
    def count_unet_evaluations(self, bitstream, preset: str | None = None, **settings) -> int:
        """How often `__call__` would call the UNet for the same arguments. Reads the file, and runs no network.

        Args:
            bitstream (`bytes`, path, or a list of them): The file.
            preset (`str`, *optional*): As for `__call__`.
            settings: Other arguments of `__call__`. The sampler's settings count; upscale and max_pixels are checked.

        Raises:
            TypeError: `__call__` has no such argument.
            BitstreamError, ValueError: As by `__call__`.
        """
        unknown = settings.keys() - signature(self.__call__).parameters.keys()
        if unknown:
            raise TypeError(f"The decoder has no argument {', '.join(sorted(unknown))}.")
        files = read_files(bitstream)
        check_files(files, self.hsvlc.fingerprint, settings.get("upscale", True), settings.get("max_pixels"))
        settings = self._resolve_settings(preset, settings)
        check_sampler_settings(settings, self.scheduler.config.num_train_timesteps)
        _, latent_weight_map = weight_maps(files)
        plan = plan_sampling(copy.deepcopy(self.scheduler), self.hsvlc, settings, latent_weight_map)
        return plan.num_unet_evaluations

    def _resolve_settings(self, preset: str | None, given: dict) -> dict:
        """The sampler's settings by name, `given` (where not None) before those of `default_settings`."""
        defaults = self.default_settings(preset)
        settings = defaults | {name: given[name] for name in defaults if given.get(name) is not None}
        target = settings["guidance_target"]
        if target != defaults["guidance_target"] and given.get("guidance_strength") is None:
            settings["guidance_strength"] = None  # the default one belongs to another target
        if settings["guidance_strength"] is None:
            settings["guidance_strength"] = DEFAULT_GUIDANCE_STRENGTH.get(target)
        return settings

    def check_inputs(
        self, files, settings, prompts, output_type, upscale, max_pixels, generator, callback, callback_tensor_inputs
    ):
        check_files(files, self.hsvlc.fingerprint, upscale, max_pixels)
        check_sampler_settings(settings, self.scheduler.config.num_train_timesteps)
        check_output_type(output_type)
        check_generator(generator, len(files))
        check_text_inputs(self.unet, self.text_encoder, len(files), **prompts)
        check_callback(callback)
        if not isinstance(callback_tensor_inputs, list | tuple):
            raise ValueError(
                f"callback_on_step_end_tensor_inputs must be a list of names, got {callback_tensor_inputs!r}."
            )
        unknown = set(callback_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs may hold {self._callback_tensor_inputs}, not {sorted(unknown)}."
            )

    # --------------------------------------------------------------------------------------------------- preparation

    def decode_codes(self, files: list[Bitstream], device: torch.device) -> CodedLatents:
        """The latents that the files hold, z_hat_0, and their M."""
        weight_map, latent_weight_map = weight_maps(files)
        shape = tuple(latent_weight_map.shape[-2:])
        self.hsvlc.require_tables()
        try:
            with torch.autocast(device.type, enabled=False):
                latents = [
                    self.hsvlc.decompress(file.codes, m[None], shape)
                    for file, m in zip(files, weight_map, strict=True)
                ]
        except CodeStreamError as error:
            raise BitstreamError(str(error)) from None
        latents = torch.cat(latents).to(device, torch.float32)
        return CodedLatents(latents, weight_map.to(device), latent_weight_map.to(device))

    def prepare_codec(self, coded: CodedLatents) -> Codec:
        """C for the guidance."""
        hsvlc = with_gradients(self.hsvlc)
        with torch.autocast(coded.latents.device.type, enabled=False):
            return Codec(hsvlc, hsvlc.condition(coded.weight_map, *coded.latents.shape[-2:]))

    def encode_texts(
        self, texts: list[str], device: torch.device, clip_skip: int | None = None, lora_scale: float | None = None
    ) -> torch.Tensor:
        """Text embeddings of shape (B, 77, D), each distinct text embedded once. Long texts are cut with a warning."""
        distinct = list(dict.fromkeys(texts))
        with TOKENIZING:
            embeddings = self._skip_layers(distinct, device, clip_skip, lora_scale) if clip_skip else None
            embeddings, _ = self.encode_prompt(
                distinct, device, 1, False, prompt_embeds=embeddings, lora_scale=lora_scale
            )
        return embeddings[[distinct.index(text) for text in texts]]

    def _skip_layers(
        self, texts: list[str], device: torch.device, clip_skip: int, lora_scale: float | None
    ) -> torch.Tensor:
        """Text embeddings without the last `clip_skip` layers. `encode_prompt` looks for them in an attribute that the
        text encoders of transformers 5 do not have."""
        tokens = self.tokenizer(
            self.maybe_convert_prompt(texts, self.tokenizer),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        if lora_scale is not None and USE_PEFT_BACKEND:
            scale_lora_layers(self.text_encoder, lora_scale)
        output = self.text_encoder(tokens.input_ids.to(device), output_hidden_states=True)
        if lora_scale is not None and USE_PEFT_BACKEND:
            unscale_lora_layers(self.text_encoder, lora_scale)
        inner = getattr(self.text_encoder, "text_model", self.text_encoder)
        return inner.final_layer_norm(output.hidden_states[-(clip_skip + 1)])

    def prepare_text(
        self,
        captions: list[str],
        device: torch.device,
        negative_prompt: str | list[str] | None,
        prompt_embeds: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
        clip_skip: int | None,
        lora_scale: float | None,
        ip_adapter_image: PipelineImageInput | None,
        ip_adapter_image_embeds: list[torch.Tensor] | None,
    ) -> TextConditions:
        """Embeddings of captions, negative prompts and image prompts; those that are given are taken as they are."""
        negatives = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""] * len(captions)
        has_image = ip_adapter_image is not None or ip_adapter_image_embeds is not None
        given = prompt_embeds is not None or negative_prompt_embeds is not None or has_image
        if prompt_embeds is None:
            prompt_embeds = self.encode_texts(captions, device, clip_skip, lora_scale)
        if not given and captions == negatives:
            return TextConditions(prompt_embeds, prompt_embeds, alike=True)
        if negative_prompt_embeds is None:
            negative_prompt_embeds = self.encode_texts(negatives, device, lora_scale=lora_scale)
        image_embeds = None
        if has_image:  # after the texts: offloading sends each model away when the next of its sequence is called
            image_embeds = self.prepare_ip_adapter_image_embeds(
                ip_adapter_image, ip_adapter_image_embeds, device, len(captions), True
            )
        return TextConditions(prompt_embeds.to(device), negative_prompt_embeds.to(device), image_embeds)

    def prepare_latents(
        self, coded, plan, target, scheduler, predict, omega, progress_bar
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Where denoising starts from, and what each step is guided to.

        Returns:
            z_hat_T of shape (B, 4, h, w), inverted from z_hat_0 (Algorithm 1, lines 2 to 4), or z_hat_0 itself; and
            for each step z_hat_t for the target "noisy", z_hat_0 for others. No step follows an interrupted inversion.
        """
        latents, references = coded.latents, [coded.latents] * len(plan.timesteps)
        if not plan.inverts:
            return latents, references
        trajectory = []
        for t in plan.timesteps.flip(0):
            if self.interrupt:
                return coded.latents, []
            latents = scheduler.invert_step(predict(latents, t, omega), t, latents)
            trajectory.insert(0, latents)
            progress_bar.update()
        return latents, trajectory if target == "noisy" else references

    def prepare_guidance(self, coded: CodedLatents, plan: SamplingPlan, settings: dict) -> dict:
        """What the scheduler's `step` needs for the pull towards the coded latents."""
        target = settings["guidance_target"]
        return {
            "guidance_target": target,
            "guidance_strength": settings["guidance_strength"],
            "num_steps": plan.num_steps,
            "error": plan.error,
            "codec": self.prepare_codec(coded),
        }

    def call_back(self, callback, names, step, timestep, latents, coded, text) -> torch.Tensor:
        """Call `callback_on_step_end`; the latents that it returns, or those that there are."""
        tensors = {"latents": latents, "coded_latents": coded.latents, **vars(text)}
        changed = callback(self, step, int(timestep), {name: tensors[name] for name in names}) or {}
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            if changed.get(name, tensors[name]) is not tensors[name]:
                setattr(text, name, changed[name])
                text.alike = False
        returned = changed.get("latents", latents)
        if returned.shape != latents.shape:
            raise ValueError(
                f"The latents that a callback returns must keep their shape {tuple(latents.shape)}, got "
                f"{tuple(returned.shape)}."
            )
        return returned

    def make_images(self, latents: torch.Tensor, files: list[Bitstream], output_type: str, upscale: bool):
        """The pictures of z_0, or z_0 itself, as `output_type` says."""
        if output_type == "latent":
            return latents
        image = decode_to_finite(self.vae, latents, files[0].coded_size)  # (B, 3, H, W) in [-1, 1]
        size = returned_size(files[0], upscale)
        if output_type != "pil":
            return self.image_processor.postprocess(resize(image.float(), size), output_type=output_type)
        # Enlarged as 8-bit pictures: that of a small file may be so large that its floats would fill the memory.
        return [
            picture if picture.size == size[::-1] else picture.resize(size[::-1], PIL.Image.Resampling.BICUBIC)
            for picture in self.image_processor.postprocess(image.float(), output_type="pil")
        ]

    @own_torch_state()
    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
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
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        clip_skip: int | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        upscale: bool = True,
        max_pixels: int | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | tuple[str, ...] = ("latents",),
    ) -> RSICDecoderOutput | tuple:
        """Decode a file, or a list of files of pictures of one size.

        Args:
            bitstream (`bytes`, path, or a list of them): The file.
            preset (`str`, *optional*): "paper" is Algorithm 1 with the paper's settings, 450 UNet evaluations;
                "balanced" and "fast" leave the inversion out and take at most 50 and 8. Other arguments override the
                preset. What neither gives comes from the scheduler's config; with "balanced" and "fast" these are
                guidance_scale, referring_scale and start_noise_factors. A guidance_target other than the preset's (or
                the config's) brings its own guidance_strength.
            num_inference_steps (`int`, *optional*): T; 0 leaves diffusion out and gives the picture of z_hat_0.
            num_recurrence_steps (`int`, *optional*): T_r.
            guidance_scale, referring_scale (`float`, *optional*): omega = guidance_scale (1 - referring_scale M). A
                guidance_scale of 1 takes the caption's prediction alone, half of a pair's work. Fidelity-first
                decoders of this field use 1 to 1.5 rather than the paper's 3.
            guidance_strength (`float`, *optional*): The pull towards the coded latents, summed over the whole run, so
                that fewer steps take larger ones; see the scheduler. The paper's gamma = 1e3 is 1e3 * T * T_r here.
            guidance_target (`str`, *optional*): "noisy", "clean" or "posterior", see the scheduler.
            inversion_guidance_scale (`float`, *optional*): omega during inversion, if it is not that of denoising.
            strength (`float`, *optional*): Unlike img2img's, it multiplies the noise from which each position starts,
                see the scheduler's `start_timesteps`; 1 is the checkpoint's own level, 0 no diffusion. Only the steps
                below the highest start are run. Without one (in the preset and the scheduler's config as well) z_hat_0
                is inverted, as the paper does.
            negative_prompt (`str` or `list[str]`, *optional*): Used in place of the empty prompt in classifier-free
                guidance; ignored with guidance_scale 1.
            prompt_embeds, negative_prompt_embeds (`torch.Tensor` of shape (B, tokens, D), *optional*): In place of
                the embeddings of the files' captions and of the negative prompt.
            ip_adapter_image, ip_adapter_image_embeds (*optional*): An image prompt, or its embeddings, as for
                [`StableDiffusionPipeline`]: a list with a tensor for each adapter, whose first half is the negative
                one, with guidance_scale 1 too. The image is not part of the file: whoever decodes must have it.
            clip_skip (`int`, *optional*): Layers at the end of the text encoder to leave out for the captions.
            cross_attention_kwargs (`dict`, *optional*): For the UNet's attention processors; `{"scale": 0.5}` is a
                LoRA's scale.
            generator (`torch.Generator` or a list of one for each file, *optional*): Default: seeded by the file, so
                that the same file gives the same picture.
            output_type (`str`): "pil", "np", "pt" or "latent".
            upscale (`bool`): Enlarge a picture that was coded at a reduced size to that of the photo (by plain bicubic
                interpolation); False returns it as coded.
            max_pixels (`int`, *optional*): Refuse files of pictures that are coded or returned at more pixels, since
                they decide about time and memory. Default: what the format allows, 2^22 coded and 2^26 returned.
            return_dict (`bool`): False returns a tuple.
            callback_on_step_end (`Callable`, *optional*): Called as `f(pipeline, step, timestep, tensors)` after each
                denoising step, `tensors` being a dict of those that `callback_on_step_end_tensor_inputs` names; may
                return a dict with others in place of latents, prompt_embeds and negative_prompt_embeds. One of
                diffusers' `PipelineCallback`s does as well.
            callback_on_step_end_tensor_inputs (`list[str]`): Of "latents", "prompt_embeds", "negative_prompt_embeds"
                and "coded_latents" (z_hat_0).

        Examples:

        Returns:
            [`RSICDecoderOutput`], or the tuple (images, num_unet_evaluations, files).

        Raises:
            BitstreamError: The file is damaged, foreign, or made for another codec. Raised before any network runs;
                only a code stream that no encoder writes is found later, by HSVLC, but still before diffusion.
            ValueError: An argument is of the wrong type or out of range; or the networks gave NaN, in float32 too.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs

        # 1. Check inputs
        files = read_files(bitstream)
        settings = self._resolve_settings(
            preset,
            {
                "num_inference_steps": num_inference_steps,
                "num_recurrence_steps": num_recurrence_steps,
                "guidance_scale": guidance_scale,
                "referring_scale": referring_scale,
                "guidance_strength": guidance_strength,
                "guidance_target": guidance_target,
                "inversion_guidance_scale": inversion_guidance_scale,
                "strength": strength,
            },
        )
        prompts = {
            "negative_prompt": negative_prompt,
            "prompt_embeds": prompt_embeds,
            "negative_prompt_embeds": negative_prompt_embeds,
            "clip_skip": clip_skip,
            "ip_adapter_image": ip_adapter_image,
            "ip_adapter_image_embeds": ip_adapter_image_embeds,
        }
        texts = {**prompts, "cross_attention_kwargs": cross_attention_kwargs}
        callback = callback_on_step_end, callback_on_step_end_tensor_inputs
        self.check_inputs(files, settings, texts, output_type, upscale, max_pixels, generator, *callback)
        if generator is None:
            # On the CPU, so that the noise is the same on every machine.
            generator = [torch.Generator("cpu").manual_seed(file.noise_seed) for file in files]
        device = self._execution_device
        scheduler = copy.deepcopy(self.scheduler)  # of this call alone: another thread may be decoding too
        self._interrupt = False

        # 2. Decode the codes to z_hat_0, (B, 4, h, w), and plan the steps
        coded = self.decode_codes(files, device)
        plan = plan_sampling(scheduler, self.hsvlc, settings, coded.latent_weight_map)
        self._num_timesteps = len(plan.timesteps)
        _log_plan(plan, settings)

        # 3. Encode captions and prompts, (B, 77, D)
        lora_scale = (cross_attention_kwargs or {}).get("scale")
        text = self.prepare_text([file.caption for file in files], device, lora_scale=lora_scale, **prompts)
        predict = NoisePredictor(self.unet, text, cross_attention_kwargs)

        # 4. Prepare the guidance: omega, (B, 1, h, w) or a number, and the pull towards z_hat_0
        scales = settings["guidance_scale"], settings["referring_scale"]
        omega = scheduler.guidance_scale_map(coded.latent_weight_map, *scales)
        inversion_omega = settings["inversion_guidance_scale"]
        inversion_omega = omega if inversion_omega is None else inversion_omega
        guidance = self.prepare_guidance(coded, plan, settings)

        with self.progress_bar(total=plan.num_unet_evaluations) as progress_bar:
            # 5. Start from z_hat_0 inverted to z_hat_T (Algorithm 1, lines 2 to 4), or with noise of each position's
            # own level
            target = settings["guidance_target"]
            latents, references = self.prepare_latents(
                coded, plan, target, scheduler, predict, inversion_omega, progress_bar
            )
            noise = None if plan.inverts else plan.draw_start_noise(latents, generator)

            # 6. Guided, self-recurrent denoising (lines 6 to 11)
            steps_done = 0
            for i, (t, reference) in enumerate(zip(plan.timesteps, references, strict=False)):
                if self.interrupt:
                    break
                if noise is not None:
                    # Positions that did not start before this step are z_hat_0 with noise of its level.
                    noisy = scheduler.add_noise(coded.latents, noise, t)
                    latents = torch.where(plan.denoised_before(i), latents, noisy)
                for recurrence in range(plan.num_recurrence_steps):
                    if recurrence > 0:
                        if self.interrupt:
                            break
                        latents = scheduler.renoise(latents, t, generator)
                    noise_pred = predict(latents, t, omega)  # (B, 4, h, w)
                    latents = scheduler.step(noise_pred, t, latents, reference, **guidance).prev_sample
                    progress_bar.update()
                steps_done = i + 1
                if callback_on_step_end is not None:
                    names = callback_on_step_end_tensor_inputs
                    latents = self.call_back(callback_on_step_end, names, i, t, latents, coded, text)
        latents = plan.keep_coded(latents, coded.latents, steps_done)

        # 7. Decode the latents to pictures
        if not bool(torch.isfinite(latents).all()):
            raise ValueError("The latents became NaN or infinite; use another dtype, or a lower guidance_strength.")
        images = self.make_images(latents, files, output_type, upscale)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images, predict.num_evaluations, files)
        return RSICDecoderOutput(images=images, num_unet_evaluations=predict.num_evaluations, files=files)


def _log_plan(plan: SamplingPlan, settings: dict) -> None:
    logger.info(f"UNet evaluations planned: {plan.num_unet_evaluations}.")
    if settings["num_inference_steps"] and settings["strength"] != 0 and not plan.num_unet_evaluations:
        logger.warning(
            "No step of diffusion is run, and the picture is that of the coded latents: M is high everywhere, or the "
            "steps are few. A larger num_inference_steps= or strength= would change it."
        )
    if settings["inversion_guidance_scale"] is not None and not plan.inverts:
        logger.warning("inversion_guidance_scale has no effect: with a strength, nothing is inverted.")
