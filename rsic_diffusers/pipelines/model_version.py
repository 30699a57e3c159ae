"""Tells one version of a model from another, for those who keep what they made with it."""

import zlib


def model_version(decoder) -> list:
    """Of a decoder's codec, UNet and VAE, as JSON can hold it: another one where any of them was trained on.

    Further training changes every weight, so one of the UNet's and one of the VAE's stand for all.
    """
    some_weights = [decoder.unet.conv_out.weight, list(decoder.vae.parameters())[-1]]
    checksums = [zlib.crc32(weight.detach().float().cpu().numpy()) for weight in some_weights]
    return [decoder.hsvlc.fingerprint.hex(), *checksums]
