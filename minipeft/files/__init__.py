"""Files that hold arrays and configurations: names and arrays, no models."""

from minipeft.files.atomic import atomic_path, check_writable, new_folder
from minipeft.files.config import dataclass_from_json, read_json, write_json
from minipeft.files.errors import FileError
from minipeft.files.gguf import GGUF, read_gguf
from minipeft.files.log import append_row, read_rows
from minipeft.files.safetensors import read_safetensors, safetensors_header, write_safetensors
from minipeft.files.sets import current, file_set

__all__ = [
    "GGUF",
    "FileError",
    "append_row",
    "atomic_path",
    "check_writable",
    "current",
    "dataclass_from_json",
    "file_set",
    "new_folder",
    "read_gguf",
    "read_json",
    "read_rows",
    "read_safetensors",
    "safetensors_header",
    "write_json",
    "write_safetensors",
]
