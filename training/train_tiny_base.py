"""Train the text encoder and UNet of rsic-tiny on the latents of a VAE that `train_tiny_vae.py` made.

    accelerate launch training/train_tiny_base.py --vae runs/vae/vae --train_data_dir photos --output_dir runs/base

Runs on CPU or GPU; `--resume_from_checkpoint latest` goes on after an interruption. The end of a run is the folder
`<output_dir>/rsic-tiny` with vae, unet, text_encoder, tokenizer and scheduler: a small Stable Diffusion 1.x. Captions
are made of the labels and of the colours in the photos; drawings and objects cut out on white are left out.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from captions import describe_colours, is_cut_out, make_caption, other_words
from checkpoints import find_checkpoint
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import compute_snr
from latent_cache import load_latents
from loop import train
from options import add_training_arguments, make_accelerator
from PIL import Image
from text_start import forget_captions, teach_text_encoder
from tiny_tokenizer import train_tokenizer
from training_photos import FitPhoto, find_photos, random_crop
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


LARGEST_ENLARGEMENT = 1.5
TEXT_BATCH = 64
LARGEST_LOSS_WEIGHT = 20.0  # the last timesteps are all noise, and would drown the others
DEFAULTS = {"max_train_steps": 4000, "train_batch_size": 16, "learning_rate": 1e-3}
DEFAULTS |= {"ema_decay": 0.998, "checkpointing_steps": 500}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", required=True, help="Folder of the trained VAE.")
    parser.add_argument("--train_data_dir", nargs="+", required=True, help="Folders of photos, with labels.tsv.")
    parser.add_argument(
        "--pretrained_base",
        help="Folder of a base made before, to go on from; its widths and its vocabulary stay.",
    )
    parser.add_argument("--block_out_channels", type=int, nargs=3, default=(48, 96, 192))
    parser.add_argument(
        "--text_steps",
        type=int,
        default=1500,
        help="Steps in which a new text encoder learns the photos' coarse colours from captions, before the UNet uses "
        "it. Default: 1500.",
    )
    parser.add_argument(
        "--new_text_encoder",
        action="store_true",
        help="With --pretrained_base: keep its UNet, but start with a new text encoder and with cross-attentions that "
        "ignore captions.",
    )
    parser.add_argument("--text_width", type=int, default=128, help="Width of the text encoder.")
    parser.add_argument("--vocab_size", type=int, default=3000)
    parser.add_argument("--resolution", type=int, default=256, help="Side of the training crops, in pixels.")
    parser.add_argument(
        "--loss_weighting",
        choices=["v", "epsilon"],
        default="v",
        help="Weigh timesteps as the loss of v-prediction does, which counts high noise more, where "
        "large structures are learnt. epsilon: all alike. The UNet predicts the noise either way. Default: v.",
    )
    parser.add_argument(
        "--caption_dropout",
        type=float,
        default=0.4,
        help="Share of captions left empty: for classifier-free guidance, and so that the UNet is good without a "
        "caption too. Default: 0.4.",
    )
    parser.add_argument(
        "--label_dropout",
        type=float,
        default=0.8,
        help="Share of the other captions, those of --text_steps too, that do without the label. Where few photos "
        "share a label, a UNet learns it as the name of one photo, and its captions do harm on others. Default: 0.8.",
    )
    parser.add_argument(
        "--focus_below",
        type=int,
        default=1000,
        help="Four of five timesteps are drawn below this one. Decoders start below a timestep that depends on the "
        "codec's error, about 800 for rsic-tiny. Default: all alike.",
    )
    parser.add_argument(
        "--compile_unet", action="store_true", help="With torch.compile, which saves a third of its time on a CPU."
    )
    add_training_arguments(parser, cpu=DEFAULTS)
    args = parser.parse_args()
    if not 1 <= args.focus_below <= 1000:
        parser.error(f"--focus_below must be a timestep from 1 to 1000, got {args.focus_below}.")
    for name in ("caption_dropout", "label_dropout"):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f"--{name} must be a share from 0 to 1, got {getattr(args, name)}.")
    if args.new_text_encoder and not args.pretrained_base:
        parser.error("--new_text_encoder needs --pretrained_base; without it all is new.")
    return args


def build_models(args, tokenizer):
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=args.text_width,
            intermediate_size=4 * args.text_width,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=args.resolution // 8,
        block_out_channels=tuple(args.block_out_channels),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=args.text_width,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    return text_encoder, unet


def make_base(args, labels):
    """Tokenizer, text encoder and UNet: new ones, or those of `--pretrained_base`."""
    if not args.pretrained_base:
        tokenizer = train_tokenizer(labels, args.vocab_size)
        return tokenizer, *build_models(args, tokenizer)
    tokenizer = CLIPTokenizer.from_pretrained(args.pretrained_base, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(args.pretrained_base, subfolder="text_encoder").float()
    unet = UNet2DConditionModel.from_pretrained(args.pretrained_base, subfolder="unet").float()
    if args.new_text_encoder:
        with torch.no_grad():
            states = text_encoder(tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids)
        forget_captions(unet, states.last_hidden_state)
        text_encoder = CLIPTextModel(text_encoder.config)
    return tokenizer, text_encoder, unet


@dataclass(frozen=True)
class CaptionedPhoto:
    """Prepares a photo for `load_latents`: large enough for a crop of `resolution` pixels, with its colours beside it.

    A smaller photo is enlarged by at most 1.5, and then padded by reflection. Drawings and cut-outs are left out.
    """

    resolution: int
    max_side: int

    def __call__(self, image):
        array = FitPhoto(64, self.max_side)(image)
        if is_cut_out(array):
            return None
        scale = min(LARGEST_ENLARGEMENT, max(1, self.resolution / min(array.shape[:2])))
        if scale > 1:
            size = [round(side * scale) for side in (array.shape[1], array.shape[0])]
            enlarged = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BICUBIC))
        else:
            enlarged = array
        missing = [max(0, self.resolution - side) for side in enlarged.shape[:2]]
        padded = np.pad(enlarged, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
        return padded, {"colours": describe_colours(array)}


def loss_weight(noise_scheduler, timesteps, weighting):
    """Weight of the squared error of the predicted noise at each timestep, shape (B,)."""
    if weighting == "epsilon":
        return torch.ones(len(timesteps), device=timesteps.device)
    # The error of v is that of the noise times 1 + 1 / SNR.
    return (1 + 1 / compute_snr(noise_scheduler, timesteps)).clamp_max(LARGEST_LOSS_WEIGHT)


class TinyBase(torch.nn.Module):
    """Text encoder and UNet as one module, so that one optimiser, EMA and checkpoint hold both."""

    def __init__(self, text_encoder, unet):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, latents, timesteps, input_ids):
        return self.unet(latents, timesteps, self.text_encoder(input_ids).last_hidden_state).sample


def main():
    args = parse_args()
    accelerator = make_accelerator(args)
    vae = AutoencoderTiny.from_pretrained(args.vae).to(accelerator.device, memory_format=torch.channels_last).eval()
    cache = Path(args.output_dir) / "latents"
    prepare = CaptionedPhoto(args.resolution, args.max_side)
    photos = find_photos(args.train_data_dir)
    latents = load_latents(vae, photos, prepare, cache, accelerator, args.dataloader_num_workers, mirror=True)
    labels = sorted({label for _, label in latents.entries if label})
    others = other_words(labels)
    tokenizer, text_encoder, unet = make_base(args, labels)
    unet.to(memory_format=torch.channels_last)
    if accelerator.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # torch's fused attention is slow backwards there: 1.4 times a step
        text_encoder.set_attn_implementation("eager")  # likewise
    if args.compile_unet:
        unet.compile()
    # Stable Diffusion's schedule.
    noise_scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )

    areas = latents.areas()
    chances = areas / areas.sum()  # a large photo holds more crops than a small one

    def random_batch(rng, size, dropout):
        """Crops of latents (size, 4, h, w) in bfloat16, and token ids of captions (size, 77)."""
        crops, captions = [], []
        for i in rng.choice(len(latents), size, p=chances):
            whole, label, about = latents[i]
            crops.append(random_crop(whole, args.resolution // 8, rng))
            captions.append(make_caption(label, about["colours"], rng, dropout, args.label_dropout, others))
        tokens = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        return torch.stack(crops), tokens.input_ids

    has_new_text_encoder = args.new_text_encoder or not args.pretrained_base
    goes_on = find_checkpoint(Path(args.output_dir), args.resume_from_checkpoint) is not None
    if args.text_steps and has_new_text_encoder and not goes_on:
        rng = np.random.default_rng(args.seed)

        def lesson(step):
            crops, input_ids = random_batch(rng, TEXT_BATCH, 0.0)
            return crops.to(accelerator.device).float(), input_ids.to(accelerator.device)

        explained = teach_text_encoder(text_encoder.to(accelerator.device), lesson, args.text_steps)
        print(f"Captions explain {100 * explained:.0f} % of the variance of the photos' coarse latents.", flush=True)

    def batch_of(rng):
        return random_batch(rng, args.train_batch_size, args.caption_dropout)

    def loss_of(model, batch, rng, step):
        clean, input_ids = batch
        clean = clean.to(torch.float32, memory_format=torch.channels_last)
        below = np.where(rng.random(len(clean)) < 0.8, args.focus_below, noise_scheduler.config.num_train_timesteps)
        timesteps = torch.from_numpy(rng.integers(below)).to(accelerator.device)
        noise = torch.randn_like(clean)
        noisy = noise_scheduler.add_noise(clean, noise, timesteps)
        predicted = model(noisy, timesteps, input_ids)
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        weight = loss_weight(noise_scheduler, timesteps, args.loss_weighting)
        return (error * weight).mean(), {"mse": error.mean().detach()}

    def export(model, step):
        folder = Path(args.output_dir) / "rsic-tiny"
        for name, component in (("vae", vae), ("unet", model.unet), ("text_encoder", model.text_encoder)):
            component.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / "tokenizer")
        noise_scheduler.save_pretrained(folder / "scheduler")

    train(args, accelerator, TinyBase(text_encoder, unet), batch_of, loss_of, export, weight_decay=1e-2)


if __name__ == "__main__":
    main()
