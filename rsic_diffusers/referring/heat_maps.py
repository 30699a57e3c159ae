"""Phrases to heat maps: where in a picture a referring model sees a phrase."""

import copy
from math import sqrt

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers.utils import logging

from ..tokenizer_lock import TOKENIZING
from ..torch_state import loading_alone
from .gem import PROMPT, gem_scores


logger = logging.get_logger(__name__)

KINDS = ("CLIPModel", "CLIPSegForImageSegmentation")
GEM_SIDE = 448  # as the authors have it
CLIPSEG_SIDE = 352  # as it was trained
# A phrase whose highest score is below this is taken to be absent. CLIPSeg's score is a probability, with the border
# between foreground and background at 0.5. GEM's is a cosine and not calibrated: OpenAI's CLIPs give pictures and
# captions that have nothing to do with each other about 0.1 to 0.2.
GEM_MIN_PEAK = 0.2
CLIPSEG_MIN_PEAK = 0.5


class PhraseNotFoundError(ValueError):
    """The referring model does not see the phrase anywhere in the picture."""


class ReferringModel:
    """A CLIP or CLIPSeg of transformers with its own tokenizer, for pipelines whose tokenizer is a different one.

    It is not a `torch.nn.Module`, so `save_pretrained` of a pipeline leaves it out. `to` of a pipeline takes it along;
    while the pipeline is offloaded it runs on the CPU, unless it was loaded to a device of its own.

    Args:
        model ([`CLIPModel`] or [`CLIPSegForImageSegmentation`]).
        tokenizer ([`CLIPTokenizer`]): The model's.
        follows_pipeline (`bool`): Move to a pipeline's device with it.
    """

    def __init__(self, model, tokenizer, follows_pipeline: bool = True):
        self.model, self.tokenizer, self.follows_pipeline = model, tokenizer, follows_pipeline

    def __call__(self, image: PIL.Image.Image, phrase: str) -> np.ndarray:
        return heat_map(self.model, self.tokenizer, image, phrase)

    @classmethod
    @loading_alone()
    def from_pretrained(cls, name, device=None, **kwargs) -> "ReferringModel":
        """Load from a folder or the Hub, in float32.

        Args:
            name (`str` or path): Of a CLIP or CLIPSeg.
            device (*optional*): Where the model is and stays. By default it is loaded to the CPU, and follows the
                pipeline that it is given to.
            kwargs: Of transformers' `from_pretrained`, for model and tokenizer: revision, token, cache_dir, ...

        Raises:
            ValueError: The model is of another kind, or its file lacks weights.
            OSError: There is no such model, or no way to it.
        """
        import transformers  # takes long, and boxes and masks need none of it

        architecture = (transformers.AutoConfig.from_pretrained(name, **kwargs).architectures or ["?"])[0]
        if architecture not in KINDS:
            raise ValueError(f"{name} is a {architecture}; phrases are found by a {' or a '.join(KINDS)}.")
        model, report = getattr(transformers, architecture).from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **kwargs
        )
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise ValueError(
                f"The weights of {name} lack {len(missing)} tensors of a {architecture}, {missing[0]} for example, so "
                "it cannot find phrases."
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **kwargs)
        return cls(model.eval().to(device or "cpu"), tokenizer, follows_pipeline=device is None)

    def to(self, device) -> "ReferringModel":
        self.model.to(device)
        return self


@torch.no_grad()
def heat_map(
    referring_model, tokenizer, image: PIL.Image.Image, phrase: str, must_be_found: bool = False
) -> np.ndarray:
    """Score how likely each part of a picture shows what a phrase names (paper, section II-B).

    The scores are on the referring model's own scale; `min_max` brings them to [0, 1]. The referring model may be:

    - A [`~transformers.CLIPModel`] (ViT-B/16, ViT-L/14, ...) localises by GEM, see `gem_scores`: cosine similarities
      with "a photo of a {phrase}.". The picture keeps its proportions and gets about 448 x 448 pixels, so that every
      shape takes the same time.
    - A [`~transformers.CLIPSegForImageSegmentation`]: probabilities, at 352 x 352 pixels whatever the proportions.
    - A [`ReferringModel`] is one of these with a tokenizer of its own.
    - Any callable `(image, phrase) -> scores`: an array or tensor (H', W') of any scale and resolution.

    CLIP and CLIPSeg compute in float32, in a copy if their weights have another dtype: bfloat16 is too coarse for the
    differences between patches.

    Args:
        referring_model: See above. It is not changed.
        tokenizer ([`~transformers.CLIPTokenizer`] or `None`): CLIP's, which Stable Diffusion 1.x has too. A callable
            needs none.
        image (`PIL.Image.Image`): The picture, of any size.
        phrase (`str`): What to look for, best as a noun without an article: "red car".
        must_be_found (`bool`): Raise where otherwise a warning says that the phrase seems to be nowhere.

    Returns:
        `np.ndarray` of shape (H', W'), float32: Scores over the whole picture, higher where the phrase is more likely.
        H' and W' are those of the model's input. A warning says so if even the highest is low, or if all are equal.

    Raises:
        PhraseNotFoundError: See `must_be_found`.
        ValueError: The phrase is empty or too long, the tokenizer is missing or has another vocabulary, the model is
            of another kind, or a callable did not return a heat map.
    """
    if not isinstance(phrase, str):
        raise ValueError(f"A phrase must be a string, got {type(phrase).__name__}.")
    if not phrase.strip():
        raise ValueError('The phrase is empty; say what matters, "red car" for example.')
    import transformers

    image = image.convert("RGB")
    if isinstance(referring_model, ReferringModel):
        return heat_map(referring_model.model, referring_model.tokenizer, image, phrase, must_be_found)
    if isinstance(referring_model, transformers.CLIPModel):
        scores, min_peak = _gem(referring_model, tokenizer, image, phrase), GEM_MIN_PEAK
    elif isinstance(referring_model, transformers.CLIPSegForImageSegmentation):
        scores, min_peak = _clipseg(referring_model, tokenizer, image, phrase), CLIPSEG_MIN_PEAK
    elif callable(referring_model) and not isinstance(referring_model, transformers.PreTrainedModel):
        scores, min_peak = _as_scores(referring_model(image, phrase)), -np.inf
    else:
        raise ValueError(
            f"{type(referring_model).__name__} cannot find phrases; the referring model must be a CLIPModel, a "
            "CLIPSegForImageSegmentation or a callable (image, phrase) -> heat map."
        )
    peak = scores.max()
    message = f"The phrase {phrase!r} seems to be nowhere in the picture: its "
    if peak < min_peak:
        message += f"peak score is {peak:.3f}, where {min_peak:g} is expected at least."
    elif peak == scores.min():
        message += f"score is {peak:.3f} everywhere."
    else:
        return scores
    if must_be_found:
        raise PhraseNotFoundError(message)
    logger.warning(f"{message} The map shows where it is the least unlikely.")
    return scores


def min_max(scores: np.ndarray) -> np.ndarray:
    """Bring a heat map to [0, 1]: 0 where its score is lowest, 1 where highest. A flat one becomes 0 everywhere."""
    scores = scores.astype(np.float32)
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def _gem(clip, tokenizer, image, phrase):
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    patch = clip.config.vision_config.patch_size
    scale = GEM_SIDE / sqrt(image.width * image.height) / patch
    height, width = (patch * max(1, round(side * scale)) for side in (image.height, image.width))
    pixel_values = _pixel_values(image, height, width, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PIL.Image.Resampling.BICUBIC)
    input_ids = _input_ids(clip, tokenizer, PROMPT.format(phrase.strip()))
    scores = gem_scores(_in_float32(clip), pixel_values.to(clip.device), input_ids)
    # As the authors: to the input's pixels before min-max, since interpolation lowers the peaks a little.
    scores = F.interpolate(scores[:, None], size=(height, width), mode="bilinear")
    return scores[0, 0].cpu().numpy()


def _clipseg(clipseg, tokenizer, image, phrase):
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    mean, std, resample = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PIL.Image.Resampling.BILINEAR
    pixel_values = _pixel_values(image, CLIPSEG_SIDE, CLIPSEG_SIDE, mean, std, resample)
    input_ids = _input_ids(clipseg, tokenizer, phrase.strip())
    logits = _in_float32(clipseg)(input_ids=input_ids, pixel_values=pixel_values.to(clipseg.device)).logits
    # One picture's logits come with a batch dimension or without, as transformers' version has it.
    return logits.sigmoid().reshape(logits.shape[-2:]).cpu().numpy()


def _as_scores(result):
    """What a callable returned, checked."""
    scores = result.detach().float().cpu().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)
    if scores.ndim != 2 or scores.size == 0 or scores.dtype.kind not in "bfiu":
        raise ValueError(
            f"The referring model returned {type(result).__name__} of shape {scores.shape} and dtype {scores.dtype}; "
            "a heat map is an array of numbers with 2 dimensions, (height, width)."
        )
    scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        raise ValueError("The referring model returned a heat map with NaN or infinite scores; give finite ones.")
    return scores


def _pixel_values(image, height, width, mean, std, resample):
    """(1, 3, height, width), normalised by each channel's mean and standard deviation."""
    pixels = np.asarray(image.resize((width, height), resample), np.float32) / 255
    pixels = (pixels - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _input_ids(model, tokenizer, text):
    """Tokens of `text`, (1, T), on the model's device."""
    config = model.config.text_config
    if tokenizer is None:
        raise ValueError(f"{type(model).__name__} reads phrases through a tokenizer; give CLIP's.")
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"The tokenizer knows {tokenizer.vocab_size} tokens, {type(model).__name__} {config.vocab_size}; give its "
            "own: as referring model, ReferringModel(model, CLIPTokenizer.from_pretrained(...))."
        )
    with TOKENIZING:
        input_ids = tokenizer(text, return_tensors="pt").input_ids
    if input_ids.shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"The phrase makes {input_ids.shape[1]} tokens, {type(model).__name__} reads "
            f"{config.max_position_embeddings}; make it shorter."
        )
    return input_ids.to(model.device)


def _in_float32(model):
    return model if model.dtype == torch.float32 else copy.deepcopy(model).float()
