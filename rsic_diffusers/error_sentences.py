"""Errors as one sentence."""


def plain_sentence(error: BaseException) -> str:
    """What went wrong in one sentence that ends with a full stop; the operating system's errors in plain words."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"There is no file {error.filename}."
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename} may not be read or written ({error.strerror})."
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else text + "."
