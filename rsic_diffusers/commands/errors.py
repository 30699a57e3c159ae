"""Errors as one sentence."""


def as_sentence(error) -> str:
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"There is no file {error.filename}."
    text = " ".join(str(error).split())
    return text if text.endswith(".") else text + "."
