"""`rsic app`: the page, on this computer."""

import sys

from . import BaseRSICCommand
from .arguments import base_model_arguments, model_arguments
from .loading import load_helpers, load_pipeline


class AppCommand(BaseRSICCommand):
    @staticmethod
    def register_subcommand(subparsers) -> None:
        parser = subparsers.add_parser(
            "app",
            parents=[model_arguments(), base_model_arguments()],
            help="a page in the browser: point at what matters, encode, decode",
            description="Serve a page on which photos are encoded and files decoded. Only this computer reaches it, "
            'unless --host says otherwise. Needs pip install "rsic-diffusers[app]".',
        )
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1); 0.0.0.0 for all")
        parser.add_argument("--port", type=int, help="the first free one from 7860 by default")
        parser.add_argument("--captioner", metavar="MODEL", help="describes photos on request; see rsic encode")
        parser.add_argument("--referring-model", metavar="MODEL", help="finds phrases; see rsic encode")
        parser.set_defaults(command_class=AppCommand)

    def run(self) -> int | None:
        args = self.args
        try:
            from ..app.page import build_page, launch
        except ModuleNotFoundError as error:
            if error.name not in ("gradio", "gradio_image_annotation"):
                raise
            raise ValueError(f'The page needs the package {error.name}; pip install "rsic-diffusers[app]".') from None
        encoder, decoder = _load_pipelines(args)
        print("Press Ctrl+C to stop.", file=sys.stderr)
        launch(build_page(encoder, decoder, args.model), args.host, args.port)
        return 0


def _load_pipelines(args):
    """Encoder and decoder that share VAE and codec."""
    decoder = load_pipeline("RSICDecoderPipeline", args)
    from ..pipelines.pipeline_rsic_encoder import RSICEncoderPipeline

    encoder = RSICEncoderPipeline.from_pipe(decoder, **load_helpers(args, decoder.dtype, decoder.device))
    encoder.set_progress_bar_config(disable=True)
    return encoder, decoder
