"""What went wrong, as one sentence: the same on the command line and from Python."""

import re

DONE, FAILED, USAGE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes of the command line

# What takes memory, by command; docs/troubleshooting.md has the same list with its costs.
TRAINING = (
    "raise train.accumulate (the same update in smaller parts); set backbone.checkpoint=true; "
    "lower train.batch, data.size or the backbone's size, width or depth"
)
SAMPLING = "lower the number of images sampled at once (sample.batch), or their size"
LOWER = {
    "quickstart": TRAINING,
    "train": f"{TRAINING}; for sample grids {SAMPLING}",
    "bench": f"{TRAINING}; to sample, {SAMPLING}",
    "generate": SAMPLING,
    "eval": "lower --batch, --n or --size",
    "caption": "lower --batch, --pixels or --max-new-tokens, or take a smaller --model or dtype",
    "preprocess": "lower --batch or data.size",
    "codec": "lower train.batch or data.size; of codec check --batch or --size",
}
OUT_OF_MEMORY = re.compile(
    r"out of memory|(can't|cannot) allocate memory|not enough memory", re.IGNORECASE
)


class PathlineError(Exception):
    """Something that the caller can put right; the message says what is wrong and what to do.

    The functions of `import pathline` raise it with the sentence that the command line prints.
    `code` is what the command line would exit with: 2 for a wrong setting, path or prompt or too
    little memory, 3 for a network whose loss or weights are not finite.
    """

    def __init__(self, text: str, code: int = USAGE):
        super().__init__(text)
        self.code = code


def describe(error: Exception, command: str) -> str | None:
    """The sentence for an error of a command; None for a fault of pathline itself."""
    if isinstance(error, PathlineError):
        return str(error)
    if is_out_of_memory(error):
        return _memory_advice(error, command)
    if not isinstance(error, ValueError | OSError | ImportError):
        return None
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}."
    if isinstance(error, ImportError) and error.__cause__:  # cyclopts hides what is missing
        return f"{error.__cause__}. `pathline doctor` lists what is installed."
    return str(error) or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computer's or a card's memory was too small; recognised without importing torch."""
    if isinstance(error, RuntimeError | OSError):  # torch.OutOfMemoryError is a RuntimeError
        return bool(OUT_OF_MEMORY.search(str(error)))
    return isinstance(error, MemoryError)


def _memory_advice(error: BaseException, command: str) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"Out of memory: {reason}\nTo need less, {LOWER.get(command, TRAINING)}. `pathline bench` "
        "measures the largest batch that fits; docs/troubleshooting.md lists what each of these "
        "costs."
    )
