"""What a file or folder probably is that cannot be read as what was expected: the likely cause, for error messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from minipeft.files.errors import FileError
from minipeft.files.sets import current

PICKLE = "a pickle or an archive of pickles, as PyTorch writes it, which is never loaded"
STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer instead of the file itself: run `git lfs pull` in its repository"),
    (b"GGUF", "a GGUF file"),
    (b"PK\x03\x04", PICKLE),
    (b"\x80\x02\x8a\nl\xfc", PICKLE),
    (b"\x80\x04\x95", PICKLE),
    (b"\xff\xfe", "UTF-16 text, as `>` in PowerShell writes it: save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text: save it as UTF-8"),
)
HEAD = 64  # bytes that are enough to tell
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB = (
    "minipeft downloads nothing from a hub, only what `minipeft fetch` lists: download it with another program and "
    "give its folder"
)
CONVERT = (
    "convert it with PyTorch: import torch, safetensors.torch as st; st.save_file({{k: v.contiguous().clone() for k, v "
    "in torch.load({old!r}, 'cpu', weights_only=True).items()}}, {new!r}, {{'format': 'pt'}})"
)


def likely_kind(head: bytes) -> str:
    """Return what a file with this beginning (`HEAD` bytes) is, as words that follow "it is"; "" if it is not known."""
    for start, kind in STARTS:
        if head.startswith(start):
            return kind
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page instead of the file: download the file itself"
    if head[5:9] == b"\0\0\0{":
        return "a safetensors file"
    return ""


def otherwise(head: bytes, default: str) -> str:
    """Return "it is …" for a file with this beginning, or ``default``."""
    kind = likely_kind(head)
    return f"it is {kind}" if kind else default


def no_weights(folder: Path, wanted: str) -> FileError:
    """Return the error of a folder without its file of tensors; it names a file of another format that is there."""
    old = (
        sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if folder.is_dir()
        else []
    )
    if not old:
        return FileError(f"{folder}: expected {wanted}; there is no such file")
    convert = CONVERT.format(old=old[0], new=f"{Path(old[0]).stem.replace('pytorch_', '')}.safetensors")
    return FileError(f"{folder}: expected {wanted}, but there is only {old[0]}. A pickle is never loaded; {convert}")


def no_folder(source: str | Path, expected: str) -> FileError:
    """Return the error of a path where nothing is; a name as a hub has them is told apart."""
    hub = f". {HUB}" if HUB_NAME.fullmatch(str(source).replace("\\", "/")) else ""
    return FileError(f"{source}: expected {expected}; there is no such folder or file{hub}")


def wrong_folder(folder: Path, wanted: Sequence[str], others: Sequence[tuple[str, str]], call: str) -> FileError:
    """Return the error of a folder that holds none of the files ``wanted``.

    Args:
        folder: a folder that exists, or a file.
        wanted: the names of which one should be there.
        others: (name, what it means that this file is there), for what else the folder may be.
        call: how the right folder is loaded, with {} for the folder.
    """
    expected = " or ".join(wanted)
    if not folder.is_dir():
        return FileError(f"{folder}: expected a folder with {expected}, this is a file; give its folder")
    for name, meaning in others:
        if current(folder / name).exists():
            return FileError(f"{folder}: expected {expected}, but it has {name}: {meaning}")
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and any(current(p / name).exists() for name in wanted))
    steps = {int(m[1]): p for p in inside if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))}
    if steps:
        newest = steps[max(steps)]
        return FileError(
            f"{folder}: expected {expected}, which only the checkpoints in it have; load the newest with "
            f"{call.format(newest)}"
        )
    if inside:
        names = ", ".join(p.name for p in inside[:5])
        return FileError(
            f"{folder}: expected {expected}, which only the folders in it have ({names}); load one of them, for "
            f"example with {call.format(inside[0])}"
        )
    return FileError(f"{folder}: expected {expected}; there is no such file")
