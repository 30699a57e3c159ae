"""The tokenizer of rsic-tiny: CLIP's, with a vocabulary learnt from the labels and some everyday words."""

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer


COMMON_WORDS = """
a an the of in on at with and or to from by for near next under over behind above below beside between through into
its his her their is are was has have two three four five several many some one person people man woman child boy girl
group photo picture image view scene close up background front side top left right middle red orange yellow green blue
purple pink brown black white gray grey dark light bright colorful large small big little long short tall old new young
wooden metal glass stone brick grass tree trees leaf leaves flower flowers water sea ocean lake river beach sand rock
rocks mountain mountains hill sky cloud clouds sun sunset night day snow ice rain field forest garden street road city
building buildings house wall window door roof floor table chair room kitchen boat ship car truck bus train bike
bicycle motorcycle plane horse dog cat bird fish cow sheep elephant bear animal animals head face eyes hand hands hair
hat shirt standing sitting walking running flying swimming riding holding wearing looking lying eating playing smiling
parked covered filled made lit clear calm
""".split()

TEMPLATES = ("a photo of a {}", "a {}")


def train_tokenizer(labels, vocab_size):
    """Learn a byte-level BPE vocabulary; any text can be tokenised with it.

    Args:
        labels (`list[str]`): Labels of the training photos.
        vocab_size (`int`): At most this many tokens.
    """
    words = COMMON_WORDS * 20
    texts = [template.format(label) for label in labels for template in TEMPLATES] + words
    tokenizer = CLIPTokenizer().train_new_from_iterator(
        texts, vocab_size, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.model_max_length = 77
    return tokenizer
