"""Train the text encoder and UNet of rsic-tiny on the latents of a VAE that `train_tiny_vae.py` made.

    accelerate launch training/train_tiny_base.py --vae runs/vae/vae --train_data_dir photos --output_dir runs/base

Runs on CPU or GPU; `--resume_from_checkpoint latest` goes on after an interruption. The end of a run is the folder
`<output_dir>/rsic-tiny` with vae, unet, text_encoder, tokenizer and scheduler: a small Stable Diffusion 1.x. Captions
are made of the labels ("a photo of a ..."); photos without a label train the unconditional model.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from checkpoints import add_checkpoint_arguments, averaged_weights, resume
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from latents import load_latents
from photos import random_crop
from tiny_tokenizer import TEMPLATES, train_tokenizer
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", required=True, help="Folder of the trained VAE.")
    parser.add_argument("--train_data_dir", nargs="+", required=True, help="Folders of photos, with labels.tsv.")
    parser.add_argument("--max_photos", type=int, help="At most this many photos, evenly picked.")
    parser.add_argument("--block_out_channels", type=int, nargs=3, default=(48, 96, 192))
    parser.add_argument("--text_width", type=int, default=128, help="Width of the text encoder.")
    parser.add_argument("--vocab_size", type=int, default=3000)
    parser.add_argument("--resolution", type=int, default=256, help="Side of the training crops, in pixels.")
    parser.add_argument("--train_batch_size", type=int, default=16)
    parser.add_argument("--max_train_steps", type=int, default=2000)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--caption_dropout", type=float, default=0.15, help="For classifier-free guidance.")
    add_checkpoint_arguments(parser, checkpointing_steps=500)
    return parser.parse_args()


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


def make_caption(label, rng, dropout):
    if not label or rng.random() < dropout:
        return ""
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(label)


class TinyBase(torch.nn.Module):
    """Text encoder and UNet as one module, so that one optimiser, EMA and checkpoint hold both."""

    def __init__(self, text_encoder, unet):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, latents, timesteps, input_ids):
        return self.unet(latents, timesteps, self.text_encoder(input_ids).last_hidden_state).sample


def main():
    args = parse_args()
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    set_seed(args.seed)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    vae = AutoencoderTiny.from_pretrained(args.vae).to(accelerator.device).eval()
    with accelerator.main_process_first():
        train = load_latents(vae, args.train_data_dir, args.resolution, output_dir / "latents.pt", args.max_photos)
    train = [(tensor.permute(1, 2, 0).numpy(), label) for tensor, label in train]
    tokenizer = train_tokenizer(sorted({label for _, label in train if label}), args.vocab_size)
    # Stable Diffusion's schedule.
    noise_scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )

    model = TinyBase(*build_models(args, tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=1e-2)
    lr_scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=100, num_training_steps=args.max_train_steps)
    ema = EMAModel(model.parameters(), decay=0.998)
    model, optimizer, lr_scheduler = accelerator.prepare(model, optimizer, lr_scheduler)

    step = resume(accelerator, ema, output_dir, args.resume_from_checkpoint)

    model.train()
    progress = tqdm(range(step, args.max_train_steps), initial=step, total=args.max_train_steps, mininterval=20)
    running = None
    for step in progress:
        # Seeded by step and process, so that a resumed run sees the crops that the uninterrupted one would have.
        rng = np.random.default_rng((args.seed, step, accelerator.process_index))
        crops, captions = [], []
        for _ in range(args.train_batch_size):
            latents, label = train[rng.integers(len(train))]
            crops.append(random_crop(latents, args.resolution // 8, rng))
            captions.append(make_caption(label, rng, args.caption_dropout))
        latents = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous().to(accelerator.device)
        tokens = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        timesteps = torch.from_numpy(rng.integers(noise_scheduler.config.num_train_timesteps, size=len(latents)))
        timesteps = timesteps.to(accelerator.device)
        noise = torch.randn_like(latents)
        noisy = noise_scheduler.add_noise(latents, noise, timesteps)

        with accelerator.autocast():
            loss = F.mse_loss(model(noisy, timesteps, tokens.input_ids.to(accelerator.device)).float(), noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        if step % 10 == 0:
            running = loss.item() if running is None else 0.9 * running + 0.1 * loss.item()
            progress.set_postfix(loss=f"{running:.4f}", refresh=False)

        done = step + 1
        if accelerator.is_main_process and (done % args.checkpointing_steps == 0 or done == args.max_train_steps):
            accelerator.save_state(output_dir / f"checkpoint-{done}")
            with averaged_weights(ema, model):
                folder = output_dir / "rsic-tiny"
                base = accelerator.unwrap_model(model)
                for name, component in (("vae", vae), ("unet", base.unet), ("text_encoder", base.text_encoder)):
                    component.save_pretrained(folder / name)
                tokenizer.save_pretrained(folder / "tokenizer")
                noise_scheduler.save_pretrained(folder / "scheduler")


if __name__ == "__main__":
    main()
