"""``minipeft info``: what minipeft runs on."""

from __future__ import annotations

import argparse
import json
from typing import Any

from minipeft.cli.arguments import Subparsers, default_jobs, installed


def add_info(commands: Subparsers) -> None:
    """Add the command to the parser."""
    info = commands.add_parser(
        "info", help="show versions, threads and the cache", description="Show what minipeft runs on."
    )
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=run_info)


def run_info(args: argparse.Namespace) -> int:
    import platform

    import numpy as np
    from threadpoolctl import threadpool_info

    import minipeft
    from minipeft.data.fetch import cache_folder
    from minipeft.specialize import registered

    facts: dict[str, Any] = {
        "minipeft": minipeft.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cores": default_jobs(),
        "blas": [f"{p['internal_api']} {p.get('version')} ({p['num_threads']} threads)" for p in threadpool_info()],
        "cupy": installed("cupy"),
        "gpu": gpu_facts(),
        "cache": str(cache_folder()),
        "faster": {kind: sorted(page.__name__ for page, k, _ in registered() if k == kind) for kind in ("cpu", "cuda")},
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        for kind, pages in facts.pop("faster").items():
            facts[f"faster, {kind}"] = pages
        for name, value in facts.items():
            print(f"{name:<12} {', '.join(value) if isinstance(value, list) else value or 'not installed'}")
    return 0


def gpu_facts() -> str | None:
    """Describe the GPU in one line: name, memory, use of CuPy's pool, TF32. Without one say why; without CuPy, None."""
    from minipeft.accounting import readable_bytes
    from minipeft.backend import cuda

    if installed("cupy") is None:
        return None
    try:
        gpu = cuda.describe()
    except cuda.NoGpuError as error:
        return str(error)
    memory, used, held = (readable_bytes(gpu[f"{name} bytes"]) for name in ("memory", "pool used", "pool held"))
    tf32 = "on" if gpu["tf32"] else "off"
    return f"{gpu['name']} ({gpu['compute capability']}), {memory}; pool: {used} of {held} used; TF32 {tf32}"
