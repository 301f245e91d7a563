"""Where published weights lie (a folder, the hub's cache, the hub), and reading all of them."""

import hashlib
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

HUB_NAME = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(?P<sub>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?"
)
WEIGHTS = "diffusion_pytorch_model.safetensors"
ROWS = {  # diffusers' class -> the row that reads it
    "AutoencoderKL": "kl",
    "AutoencoderKLFlux2": "kl",
    "AutoencoderKLQwenImage": "kl",
    "AutoencoderDC": "dcae",
    "AutoencoderTiny": "taesd",
    "AutoencoderRAE": "rae",
}
SECONDS = 5.0  # that the hub may take to answer
BLOCK, BLOCKS = 4096, 64  # bytes; of a weights file that go into its digest


def file_of(path: str, name: str) -> Path:
    """A file of a codec: in a folder, or of a hub name (owner/name[/subfolder][@revision]).

    The hub's cache is asked first, then the hub, once. Raises FileNotFoundError that says how to
    fetch it and what works offline.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / name).is_file():
            raise FileNotFoundError(_lacking(folder, name))
        return folder / name
    hub = HUB_NAME.fullmatch(path)
    if hub is None:
        raise FileNotFoundError(
            f"codec.path={path}: there is no such folder, and it is no name on the hub "
            "(owner/name, owner/name/subfolder)."
        )
    return _from_hub(hub, name)


def _lacking(folder: Path, name: str) -> str:
    held = sorted(entry.name for entry in folder.iterdir())[:8]
    inner = [sub.name for sub in folder.iterdir() if (sub / name).is_file()]
    hint = f" Did you mean codec.path={folder / inner[0]}?" if inner else ""
    return f"The folder {folder} has no {name}; it holds {', '.join(held) or 'nothing'}.{hint}"


def _from_hub(hub: re.Match[str], name: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    repo, revision = hub["repo"], hub["revision"]
    inside = f"{hub['sub'].strip('/')}/{name}".lstrip("/")
    try:
        return Path(hf_hub_download(repo, inside, revision=revision, local_files_only=True))
    except OSError:
        pass  # not in the cache: asked for on the hub
    try:  # the look asks once, where the download would ask six times
        get_hf_file_metadata(hf_hub_url(repo, inside, revision=revision), timeout=SECONDS)
        return Path(hf_hub_download(repo, inside, revision=revision, etag_timeout=SECONDS))
    except Exception as error:  # httpx's errors, the hub's own and those of sockets
        raise FileNotFoundError(
            f"{inside} of {hub[0]} is neither on this machine nor can the hub give it "
            f"({type(error).__name__}: {_words(error)}). Where there is a network: "
            f"`hf download {repo} --local-dir DIR`; then codec.path=DIR{hub['sub']} works offline."
        ) from error


def config_of(path: str, row: str) -> tuple[dict[str, Any], Path]:
    """config.json of a diffusers folder and the folder; ValueError if another row reads it."""
    file = file_of(path, "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if ROWS.get(str(kind)) != row:
        hint = f"; codec={ROWS[str(kind)]} reads it" if kind in ROWS else ""
        wanted = ", ".join(name for name, reader in ROWS.items() if reader == row)
        raise ValueError(f"{file} is of a {kind}; codec={row} reads {wanted}{hint}.")
    return config, file.parent


def id_of(row: str, path: str, files: Iterable[Path], **settings: Any) -> str:
    """Row, hub name and revision or the weights' digest, and the settings that are not None.

    Where a folder lies and what it is called change no latent and are left out.
    """
    files = list(files)
    parts = files[0].parts
    if "snapshots" in parts and not Path(path).expanduser().exists():
        revision = parts[parts.index("snapshots") + 1][:12]
        mark = f":{path.partition('@')[0]}@{revision}"
    else:
        mark = f"@{digest(files)}"
    more = [f"{key}={value}" for key, value in settings.items() if value is not None]
    return ",".join([row + mark, *more])


def digest(files: Iterable[Path]) -> str:
    """12 hex digits of size and 64 blocks of each file; one that is missing is left out."""
    found = hashlib.sha256()
    for file in files:
        if file.is_file():
            size = file.stat().st_size
            found.update(f"{size} ".encode())
            with file.open("rb") as stream:
                for part in range(BLOCKS):
                    stream.seek(part * max(0, size - BLOCK) // (BLOCKS - 1))
                    found.update(stream.read(BLOCK))
    return found.hexdigest()[:12]


def diffusers() -> Any:
    """The package, with the line that installs it."""
    try:
        import diffusers as package
    except ImportError as error:
        raise ImportError("this codec needs diffusers: pip install 'pathline[codecs]'") from error
    return package


def pretrained(kind: str, path: str) -> nn.Module:
    """A model of diffusers in float32, every weight read and used."""
    folder = file_of(path, "config.json").parent
    if not list(folder.glob("*.safetensors*")):
        file_of(path, WEIGHTS)  # fetched into the same folder, or refused
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, then overwritten
        try:
            network, told = getattr(diffusers(), kind).from_pretrained(
                folder,
                torch_dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder} can't be read as {kind}: {_words(error)}") from error
    refuse_incomplete(folder, told)
    return network


def refuse_incomplete(where: Path | str, told: Mapping[str, Any]) -> None:
    """ValueError that names missing, unexpected and misshapen weights, if there are any."""
    found = []
    for kind in ("missing", "unexpected", "mismatched"):
        names = sorted(str(name) for name in told.get(f"{kind}_keys") or ())
        if names:
            rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
            found.append(f"{kind}: {', '.join(names[:3])}{rest}")
    if found:
        raise ValueError(f"The weights of {where} don't fit the codec; {'; '.join(found)}.")


def read_tensors(file: Path) -> dict[str, Any]:
    """The tensors of a .safetensors or .pth file; nothing else is unpacked from it."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file} can't be read as weights: {_words(error)}") from error


def _words(error: Exception) -> str:
    """The beginning of what a library says, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} …"


def fill(network: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> nn.Module:
    """The weights into a network of ours, all of them or ValueError."""
    own = network.state_dict()
    shapes = {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
    told = {
        "missing_keys": own.keys() - state.keys(),
        "unexpected_keys": state.keys() - own.keys(),
        "mismatched_keys": shapes,
    }
    refuse_incomplete(where, told)
    network.load_state_dict(dict(state))
    return network
