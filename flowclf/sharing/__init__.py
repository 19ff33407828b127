"""Models as folders that explain themselves: model.safetensors, config.json, README.md; no pickle.

Such a folder is what the Hugging Face Hub calls a model repository, so that it can be pushed there
and loaded from there.
"""

from flowclf.settings import ModelInfo
from flowclf.sharing.folder import Saved, check_settings, is_saved, read_folder, write_folder
from flowclf.sharing.hub import download, is_hub_id, push

__all__ = [
    "ModelInfo",
    "Saved",
    "check_settings",
    "download",
    "is_hub_id",
    "is_saved",
    "push",
    "read_folder",
    "write_folder",
]
