"""What the tests of captioners share: configurations of tiny models, and functions in their place."""

from transformers import LlamaConfig

from rsic_diffusers.description.captioners import PROMPT, SHORT_PROMPT


CHAT_TEMPLATE = (
    "A chat. {% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
PLAIN = f"USER: <image>\n{PROMPT} ASSISTANT:"
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# Weights this large make random answers that differ between images and prompts.
LLAMA = LlamaConfig(**LAYERS, bos_token_id=1, eos_token_id=2, pad_token_id=3, initializer_range=1.0)


def save(model_and_processor, folder):
    for part in model_and_processor:
        part.save_pretrained(folder)
    return folder


def shorter_than(number):
    return lambda text: len(text) < number


class Answers:
    """A captioner that says what it is told to, and remembers what it was asked."""

    def __init__(self, answer, short_answer=""):
        self.answers, self.asked = {None: answer, SHORT_PROMPT: short_answer}, []

    def __call__(self, image, prompt=None):
        self.asked.append(prompt)
        return self.answers[prompt]
