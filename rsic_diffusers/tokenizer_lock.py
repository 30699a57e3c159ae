"""One lock for all calls of tokenizers."""

import threading


# A tokenizer keeps the padding of its last call, so two threads would spoil each other's tokens. Encoder, decoder and
# referring model may share one, hence a single lock.
TOKENIZING = threading.Lock()
