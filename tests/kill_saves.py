"""Kill a process that saves an adapter at random moments: ``python tests/kill_saves.py [N] [SEED]``.

The folder holds foreign files and the base model. After every kill the foreign files are byte for byte as before, the
base loads, and the adapter loads and equals the one before or the one that was being saved. The methods alternate, so
that sets with and without Hugging Face's files follow each other. Prints how often each was found, and raises
AssertionError if anything else was.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.files.sets import COMMITTED
from minipeft.models import DecoderConfig, DecoderLM, Model
from minipeft.peft import AdapterConfig, LoraConfig, PeftModel, get_peft_model

FOREIGN = {"data.csv": b"1,2\r\n" * 1000, "thesis/chapter1.tex": b"\\section{\xff}", "notes.json": b"not JSON"}


def base() -> DecoderLM:
    return DecoderLM(DecoderConfig.gpt2(vocab_size=101, d_model=64, n_layers=2, n_heads=4, context=16), rng=0)


def adapter(seed: int) -> PeftModel:
    configs = (LoraConfig(r=4, lora_alpha=float(seed + 1), target_modules="all-linear"), AdapterConfig(r=8))
    peft = get_peft_model(base(), configs[seed % 3 == 2], rng=0)
    rng = np.random.default_rng(seed)
    for p in peft.trained().values():
        p.data[...] = rng.normal(size=p.shape)
    return peft


def state(peft: PeftModel) -> Any:
    return peft.peft_config, {name: p.data.tobytes() for name, p in peft.trained().items()}


def seconds_of_a_save(folder: Path) -> float:
    """Return the median time of a save of the adapter 0, in seconds."""
    times = []
    for _ in range(9):
        start = time.perf_counter()
        adapter(0).save_pretrained(folder)
        times.append(time.perf_counter() - start)
    return sorted(times)[4]


def killed_save(peft: PeftModel, folder: Path, after: float) -> bool:
    """Save in a process of its own and kill that ``after`` seconds; True if it was still running."""
    ready, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.write(write, b"x")
        peft.save_pretrained(folder)
        os._exit(0)
    os.read(ready, 1)
    time.sleep(after)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(ready)
    os.close(write)
    return os.WIFSIGNALED(status)


def main(trials: int = 200, seed: int = 0) -> Counter[str]:
    """Run the trials in a temporary folder; return how often each outcome was found."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in FOREIGN.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(content)
        base().save_pretrained(folder)
        whole = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}  # the base's files and the foreign ones
        span = 1.2 * seconds_of_a_save(folder)
        before = state(adapter(0))
        for trial in range(1, trials + 1):
            peft = adapter(trial)
            found["killed"] += killed_save(peft, folder, rng.uniform(0.0, span))
            found["staged files left"] += any(p.name.endswith(".part") for p in folder.iterdir())
            found["rolled forward"] += (folder / COMMITTED).exists()
            after = state(PeftModel.from_pretrained(Model.from_pretrained(folder), folder))
            assert after in (before, state(peft)), f"trial {trial}: neither the old adapter nor the new one"
            assert all(p.read_bytes() == content for p, content in whole.items()), f"trial {trial}: a file has changed"
            found["new" if after == state(peft) else "old"] += 1
            before = after
        adapter(0).save_pretrained(folder)
        saved = {p.name for p in folder.rglob("*") if p.is_file() and p not in whole}
        pairs = {f"{kind}_{part}" for kind in ("adapter", "minipeft") for part in ("config.json", "model.safetensors")}
        assert saved == pairs, f"{sorted(saved)} are left"
    return found


if __name__ == "__main__":
    print(dict(main(*map(int, sys.argv[1:]))))
