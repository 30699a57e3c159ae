"""The page of `rsic app`: point at what matters in a photo, encode it, and see what is true and what is imagined."""

import os


# Read when gradio and the Hub's client are imported: nothing is reported to anybody.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
