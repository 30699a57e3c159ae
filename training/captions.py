"""Captions for photos that bring no more than a class name: the name, and the colours that the photo shows."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from rsic_diffusers.bitstream.caption_coding import caption_dictionary


COLOURS = {"red": 0.0, "orange": 0.08, "yellow": 0.15, "green": 0.33, "blue": 0.6, "purple": 0.77, "pink": 0.92}

# {name} is the label, {middle} and {border} are colours, {light} is "dark", "bright" or "clear" (neither).
WITH_LABEL = (
    "a photo of a {name}", "a {name}", "{name}", "a picture of a {name}", "a {name} in the middle of the picture",
    "a close up of a {name}", "an image of one {name}", "there is a {name} in this photo",
)  # fmt: skip
WITH_COLOURS = (
    "a {middle} {name}", "a photo of a {middle} {name}", "a {name} on a {border} background",
    "a {middle} {name} on a {border} background", "a {name} in front of something {border}",
    "a {light} photo of a {middle} {name}", "{border} all around a {middle} {name}", "a {name}, {middle} and {border}",
    "a {light} picture of a {name} with {border} behind it", "on {border} ground, a {name} of {middle} color",
)  # fmt: skip
WITHOUT_LABEL = (
    "a {light} photo", "a photo in {middle} and {border}", "something {middle} on a {border} background",
    "a {light} picture in {border} and {middle}",
)  # fmt: skip


# Of a photo's colours or light: put into a caption at random, they might contradict it.
WORDS_OF_COLOUR = {
    *COLOURS, "black", "white", "gray", "grey", "brown", "tan", "beige", "gold", "golden", "silver", "cream",
    "colorful", "dark", "bright", "light", "clear",
}  # fmt: skip
MAX_OTHER_WORDS = 6


def name_colour(rgb) -> str:
    """The everyday name of a colour given as three values in [0, 1]."""
    hue, saturation, value = colorsys.rgb_to_hsv(*map(float, rgb))
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.8 else "gray"
    if value < 0.6 and (hue < 0.12 or hue > 0.95):
        return "brown"
    return min(COLOURS, key=lambda name: min(abs(COLOURS[name] - hue), 1 - abs(COLOURS[name] - hue)))


def describe_colours(array: np.ndarray) -> dict[str, str]:
    """The commonest colour in the middle and at the border of an (H, W, 3) uint8 photo, and how light it is."""
    small = np.asarray(Image.fromarray(array).resize((16, 16), Image.Resampling.BOX), dtype=float) / 255
    names = np.array([[name_colour(rgb) for rgb in row] for row in small])
    is_middle = np.zeros((16, 16), bool)
    is_middle[4:12, 4:12] = True

    def commonest(which):
        words, counts = np.unique(names[which], return_counts=True)
        return str(words[counts.argmax()])

    mean = small.mean()
    light = "dark" if mean < 0.3 else "bright" if mean > 0.6 else "clear"
    return {"middle": commonest(is_middle), "border": commonest(~is_middle), "light": light}


def other_words(labels) -> list[str]:
    """Everyday words of captions that are in no label, and are neither colours nor of light."""
    words = {word.lower() for word in caption_dictionary().decode().split() if word.isalpha()}
    return sorted(words - WORDS_OF_COLOUR - {word for label in labels for word in label.lower().split()})


def make_caption(
    label: str,
    colours: dict[str, str],
    rng: np.random.Generator,
    dropout: float,
    label_dropout: float = 0,
    others: Sequence[str] = (),
) -> str:
    """A random sentence for a photo.

    Args:
        label (`str`): What the photo shows, or "".
        colours (`dict[str, str]`): What `describe_colours` gives.
        dropout (`float`): Chance of an empty caption, which classifier-free guidance needs in training.
        label_dropout (`float`): Chance that another caption does without the label.
        others (`Sequence[str]`): Words that say nothing about the photo. Up to six of them stand in half of the
            sentences, so that a model learns to pass over words that it does not know.
    """
    if rng.random() < dropout:
        return ""
    if rng.random() < label_dropout:
        label = ""
    templates = WITHOUT_LABEL if not label else WITH_COLOURS if rng.random() < 0.6 else WITH_LABEL
    words = templates[rng.integers(len(templates))].format(name=label, **colours).split()
    if others and rng.random() < 0.5:
        for _ in range(rng.integers(1, MAX_OTHER_WORDS + 1)):
            words.insert(rng.integers(len(words) + 1), others[rng.integers(len(others))])
    return " ".join(words)


def is_cut_out(array: np.ndarray) -> bool:
    """Whether a picture is a drawing or an object cut out on white: most of its border is (nearly) white."""
    rows, columns = (max(1, side // 20) for side in array.shape[:2])
    is_border = np.ones(array.shape[:2], bool)
    is_border[rows:-rows, columns:-columns] = False
    return float((array[is_border] >= 240).all(axis=-1).mean()) > 0.5
