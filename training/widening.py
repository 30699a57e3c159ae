"""Weights of a smaller model put into a larger one, which then starts out as the same function."""

import torch
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock


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
        if name not in state or any(a > b for a, b in zip(value.shape, state[name].shape)):
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
