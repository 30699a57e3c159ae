"""Tells one version of a model from another, for those who keep what they made with it."""

import zlib


def model_version(pipeline) -> list:
    """Of a pipeline's codec and of the networks beside it, as JSON can hold it: another one where any was trained on.

    Further training changes every weight, so one of each network stands for all: of a decoder's UNet and VAE, and of
    the encoding half of an encoder's VAE.
    """
    if "unet" in pipeline.components:
        some_weights = [pipeline.unet.conv_out.weight, list(pipeline.vae.parameters())[-1]]
    else:
        some_weights = [next(pipeline.vae.encoder.parameters())]
    checksums = [zlib.crc32(weight.detach().float().cpu().numpy()) for weight in some_weights]
    return [pipeline.hsvlc.fingerprint.hex(), *checksums]
