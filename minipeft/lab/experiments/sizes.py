"""The sizes of the GPT-3 family (the lecture's table; Brown et al. 2020, Table 2.1), from their dimensions.

12 d² weights a layer carry nearly everything; the printed counts follow from n_layers and d_model alone. A linear layer
of the largest is 12,288 × 12,288: that is the matrix whose change LoRA learns with 2 r · 12,288 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minipeft.accounting import GPT3_SIZES, gpt3_parameters
from minipeft.lab.framework.experiment import Config, Experiment, Published, Row, Table, Verdict, outcome


def runs(mode: str, rows: Sequence[Row]) -> list[Config]:
    """Return one run for each model of the table."""
    return [{"model": size.name} for size in GPT3_SIZES]


def run(config: Config, folder: Path) -> Row:
    """Return the exact number of parameters, and what LoRA would train (r = 4 on W_q and W_v)."""
    size = next(s for s in GPT3_SIZES if s.name == config["model"])
    return {
        "n_layers": size.n_layers,
        "d_model": size.d_model,
        "printed": size.printed,
        "counted": gpt3_parameters(size.n_layers, size.d_model),
        "linear": size.d_model**2,
        "lora": 2 * size.n_layers * 2 * 4 * size.d_model,
    }


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the printed and the counted sizes side by side."""
    return [
        Table(
            "The GPT-3 family",
            ("model", "layers", "d", "printed", "counted", "difference %", "d × d", "LoRA r=4 on q, v", "of all %"),
            [
                (
                    r["model"],
                    r["n_layers"],
                    r["d_model"],
                    f"{r['printed'] / 1e6:,.0f} M",
                    f"{r['counted']:,}",
                    100 * (r["counted"] / r["printed"] - 1),
                    f"{r['linear']:,}",
                    f"{r['lora']:,}",
                    100 * r["lora"] / r["counted"],
                )
                for r in rows
            ],
            "Counted from layers and width alone, with biases, normalizations and the token and position tables.",
        )
    ]


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Say whether every count rounds to the printed one."""
    worst = max(rows, key=lambda r: abs(r["counted"] / r["printed"] - 1))
    off = abs(worst["counted"] / worst["printed"] - 1)
    return [
        Verdict(
            "The table's parameter counts follow from its numbers of layers and widths",
            outcome(off < 0.05),
            f"the largest difference is {100 * off:.1f} %, of {worst['model']}",
        )
    ]


EXPERIMENT = Experiment(
    name="sizes",
    title="How large are the models, and their linear layers?",
    claim="The parameter counts of the GPT-3 family follow from its layers and widths; a linear layer has 12k × 12k.",
    runs=runs,
    run=run,
    tables=tables,
    verdicts=verdicts,
    published=(
        Published(
            "Table 2.1",
            "Brown et al. 2020 (arXiv:2005.14165), as in the lecture",
            ("model", "parameters", "layers", "d"),
            tuple((s.name, f"{s.printed / 1e6:,.0f} M", s.n_layers, s.d_model) for s in GPT3_SIZES),
        ),
    ),
)
