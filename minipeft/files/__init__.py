"""Files that hold arrays and configurations: names and arrays, no models."""

from minipeft.files.atomic import atomic_folder, atomic_path
from minipeft.files.config import dataclass_from_json, read_json, write_json
from minipeft.files.errors import FileError
from minipeft.files.gguf import GGUF, read_gguf
from minipeft.files.safetensors import read_safetensors, safetensors_header, write_safetensors

__all__ = [
    "GGUF",
    "FileError",
    "atomic_folder",
    "atomic_path",
    "dataclass_from_json",
    "read_gguf",
    "read_json",
    "read_safetensors",
    "safetensors_header",
    "write_json",
    "write_safetensors",
]
