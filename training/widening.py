"""Weights of a smaller model put into a larger one, which then starts out as the same function."""

import torch
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock

from rsic_diffusers.models.layers import SFT


QUIET_INDEX = 4.0  # a small Gaussian of the table, and not so low that the clamp at 0 stops its gradient


@torch.no_grad()
def widen_vae(small, large) -> None:
    """Copy the weights of a narrower or shallower `AutoencoderTiny` into `large`.

    Weights from new channels to old ones are set to zero, so the old channels compute what they did. Weights that make
    the new channels stay random, so that they can learn. A block that `small` lacks adds zero to its input.

    Raises:
        ValueError: `small` is larger somewhere.
    """
    for part in ("encoder", "decoder"):
        layers = list(getattr(small, part).layers)
        for layer in getattr(large, part).layers:
            is_new = not layers or not isinstance(layers[0], AutoencoderTinyBlock)
            if isinstance(layer, AutoencoderTinyBlock) and is_new:
                layer.conv[-1].weight.zero_()
                layer.conv[-1].bias.zero_()
                continue
            _widen_layer(layers.pop(0), layer)
        if layers:
            raise ValueError(f"The {part} of the smaller model has {len(layers)} layers that the larger one lacks.")


def _widen_layer(small, large):
    state = large.state_dict()
    for name, value in small.state_dict().items():
        if name not in state or any(a > b for a, b in zip(value.shape, state[name].shape, strict=True)):
            raise ValueError(f"{name} of {tuple(value.shape)} does not fit into the larger model.")
        copy_into(value, state[name], [range(side) for side in value.shape[:2]])
    large.load_state_dict(state)


@torch.no_grad()
def copy_into(value: torch.Tensor, larger: torch.Tensor, places) -> None:
    """Write `value` into `larger`, and zeros into those weights that lead from new inputs to old outputs.

    Args:
        places: For the first dimension (outputs) and the second (inputs), where the entries of `value` go in `larger`.
    """
    rows = torch.tensor(list(places[0]))
    if value.dim() == 1:
        larger[rows] = value.to(larger)
        return
    widened = torch.zeros(len(rows), *larger.shape[1:], dtype=larger.dtype, device=larger.device)
    widened[:, torch.tensor(list(places[1]))] = value.to(larger)
    larger[rows] = widened


@torch.no_grad()
def widen_codec(small, large) -> None:
    """Copy the weights of an [`HSVLC`] with fewer channels into `large`; gates and lambda may differ.

    `large` decodes what `small` would, until training gives its new codes a meaning.

    Raises:
        ValueError: `small` has more channels somewhere, or another structure.
    """
    state = large.state_dict()
    trained = dict(small.named_parameters())  # the tables and integer weights are made anew by `update`
    own = dict(large.named_parameters())
    if own.keys() != trained.keys():
        raise ValueError("The trained codec has other layers than the new one, so its weights cannot be taken over.")
    for name, value in trained.items():
        if any(a > b for a, b in zip(value.shape, own[name].shape, strict=True)):
            raise ValueError(
                f"The trained codec is wider than the new one: {name} has shape {tuple(value.shape)}, "
                f"here {tuple(own[name].shape)}. Give at least its code_channels, hidden_channels and prior_channels."
            )
        copy_into(value, state[name], _codec_places(name, value.shape, own[name].shape, small, large))
    for k, i in enumerate(large.coded_scales):
        _quiet_new_codes(state, k, i, small.config.code_channels[i], large.config.code_channels[i])
    large.load_state_dict(state)


def _quiet_new_codes(state, k, i, old, new):
    """Let new channels of f_i, the k-th coded scale, start near zero, with a prior that expects it: at few bits."""
    for name in ("weight", "bias"):
        state[f"code_in.{i}.{name}"][old:] *= 0.1
    means, indices = slice(old, new), slice(new + old, None)
    for name in ("weight", "bias"):
        state[f"prior.head.{k}.{name}"][means] = 0
    state[f"prior.head.{k}.weight"][indices] = 0
    state[f"prior.head.{k}.bias"][indices] = QUIET_INDEX


@torch.no_grad()
def stretch_weights(hsvlc, factor: float) -> None:
    """Make an [`HSVLC`] do at M what it did at factor x M, as far as that is at most 1, and extrapolate above.

    A codec whose `lambda_growth` is raised by this factor starts out as good as it was. Its gates must be divided by
    the factor too; `make_codec` does so.
    """
    for module in hsvlc.modules():
        if isinstance(module, SFT):
            module.modulation[0].weight.mul_(factor)  # its only input is M
    for first, *_ in hsvlc.prior.body:
        first.weight[:, 0].mul_(factor)
    for i, gain in zip(hsvlc.coded_scales, hsvlc.gain, strict=True):
        # exp(gain (factor M - 1)) is exp(factor gain (M - 1)) times a constant, which goes into the convolutions.
        constant = torch.exp(gain * (factor - 1))  # (C, 1, 1)
        hsvlc.code_in[i].weight.mul_(constant[..., None])
        hsvlc.code_in[i].bias.mul_(constant.flatten())
        hsvlc.code_out[i].weight.div_(constant)
        gain.mul_(factor)


def _codec_places(name, shape, larger_shape, small, large):
    """Where the outputs and inputs of one of the codec's weights go in the wider codec."""
    rows = range(shape[0])
    columns = range(shape[1]) if len(shape) > 1 else None
    if "sft.modulation.2" in name or name.startswith("prior.head"):
        # Two things in one output: scale and shift, or mean and index of the Gaussian's scale.
        rows = _halves(shape[0], larger_shape[0])
    if name.startswith("code_in") and columns is not None:
        columns = _halves(shape[1], larger_shape[1])  # features of the encoder, then of the decoder
    if name.startswith("prior.body") and name.endswith(".0.weight") and shape[1] > 1:
        # M, the codes of the scale above, the hidden features of its prior.
        hidden, wide_hidden = small.config.prior_channels, large.config.prior_channels
        columns = [*range(shape[1] - hidden), *range(larger_shape[1] - wide_hidden, larger_shape[1])[:hidden]]
    return rows, columns


def _halves(length, larger):
    return [*range(length // 2), *range(larger // 2, larger // 2 + length // 2)]
