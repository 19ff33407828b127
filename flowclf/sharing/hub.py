"""Exchange with the Hugging Face Hub, by huggingface_hub (`flowclf[hub]`).

Not its PyTorchModelHubMixin: that records the arguments of a constructor and calls it again, but
models are built by name from settings; and it would be imported with every model. What lies in a
repository is named as the mixin names it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flowclf.sharing.folder import CARD, CONFIG, WEIGHTS, write_folder
from flowclf.support.errors import UserError, first_line

__all__ = ["download", "is_hub_id", "push"]

PART = r"[A-Za-z0-9][\w.-]*"
HUB_ID = re.compile(f"{PART}/{PART}")


def is_hub_id(source: str | Path) -> bool:
    """Return True for a string of the form OWNER/NAME that is no file or folder."""
    is_id = isinstance(source, str) and HUB_ID.fullmatch(source) is not None
    return is_id and not Path(source).exists()


def download(repo_id: str, revision: str | None = None) -> Path:
    """Download config.json and weights alone; return their folder in huggingface_hub's cache.

    Raises:
        UserError: no huggingface_hub, no such model, or no network.
    """
    hub = _import_hub(f"there is no folder {repo_id}; for the model of that name on the Hub")
    files = [CONFIG, WEIGHTS]
    with _explained(repo_id):
        folder = Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=files))
    if not (folder / CONFIG).is_file():
        raise UserError(f"{repo_id} on the Hub has no {CONFIG}: it is no model that flowclf saved")
    return folder


def push(repo_id: str, model: Any, *, private: bool = False) -> str:
    """Write the folder and upload it, with the login of `hf auth login`; return the address.

    Raises:
        UserError: not OWNER/NAME, no huggingface_hub, no permission, or no network.
    """
    if HUB_ID.fullmatch(repo_id) is None:
        raise UserError(f"expected OWNER/NAME of a model on the Hub, got {repo_id!r}")
    hub = _import_hub("to push a model to the Hub")
    with TemporaryDirectory() as folder, _explained(repo_id):
        write_folder(Path(folder), model, repo_id)
        api = hub.HfApi()
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=[CONFIG, WEIGHTS, CARD],
            commit_message=f"Save {model.info.title}",
        )
    return str(url)


def _import_hub(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{purpose}: pip install 'flowclf[hub]'") from None
    return huggingface_hub


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn errors between here and the Hub into one line."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise UserError(
            f"there is no folder {repo_id}, and no model of that name (and revision) on the Hub "
            "that you may see; correct the name, or log in with `hf auth login`"
        ) from None
    except errors.HFValidationError as error:
        reason = first_line(error).rstrip(".")
        raise UserError(f"{repo_id} is no name on the Hub: {reason}") from None
    except (OSError, errors.HTTPError) as error:
        reason = first_line(error).rstrip(".")
        raise UserError(
            f"cannot reach {repo_id} on the Hub: {reason}; check the network and "
            "`hf auth login`, or give the path of a folder"
        ) from None
