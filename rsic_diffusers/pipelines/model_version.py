"""Tells one version of a model from another, for those who keep what they made with it."""

import zlib


def model_version(pipeline) -> list:
    """Of a pipeline's codec and of the networks beside it, as JSON can hold it: another one where any was trained on.

    Further training changes every weight of a network, so one of each stands for all: of a decoder's UNet and VAE, and
    of both halves of an encoder's VAE (refinement uses the decoding one). Of a decoder's sampler, what no argument of
    a call gives.
    """
    used = pipeline.unet.conv_out if "unet" in pipeline.components else pipeline.vae.encoder
    some_weights = [next(used.parameters()), list(pipeline.vae.parameters())[-1]]
    checksums = [zlib.crc32(weight.detach().float().cpu().numpy()) for weight in some_weights]
    sampler = list(pipeline.scheduler.config.start_noise_factors) if "scheduler" in pipeline.components else []
    return [pipeline.hsvlc.fingerprint.hex(), *checksums, *sampler]
