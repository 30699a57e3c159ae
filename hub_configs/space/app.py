"""The page of rsic-diffusers as a Hugging Face Space."""

import os
import sys

import torch

from rsic_diffusers.commands.rsic_cli import main


arguments = ["--model", os.environ.get("RSIC_MODEL", "rsic-tiny"), "--host", "0.0.0.0", "--port", "7860"]
if torch.cuda.is_available():
    arguments += ["--device", "cuda", "--dtype", "float16"]
sys.exit(main(["app", *arguments]))
