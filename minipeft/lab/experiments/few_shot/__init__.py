"""A few examples: in the prompt, or to fine-tune on? (the lecture's table; Mosbach et al. 2023, arXiv:2305.16938)

Each seed draws k examples, as many of each label. In context they stand before the question; fine-tuning takes steps on
the same k. Both are asked by the same pattern (`minipeft.few_shot`), where the examples come from and out of there.

Two tasks. ``lines``: models of characters of our own, "tiny" and "small", pretrained on documentation and source code,
tell a line of code from a line of prose; elsewhere the prose is comments. ``reviews``: SmolLM2-135M tells praise
from blame in sentences about films, elsewhere about goods and restaurants.
"""

from minipeft.lab.experiments.few_shot.findings import draw, tables, verdicts
from minipeft.lab.experiments.few_shot.training import prepare, run, runs
from minipeft.lab.framework.experiment import Experiment, Published

EXPERIMENT = Experiment(
    name="few_shot",
    title="A few examples: in the prompt, or to fine-tune on?",
    claim="With the same few examples fine-tuning beats in-context learning; a prompt of N tokens costs O(N²).",
    runs=runs,
    run=run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    prepare=prepare,
    published=(
        Published(
            "GPT-3, validation accuracy in %",
            "Hu et al. 2021 and Brown et al. 2020, as in the lecture",
            ("method", "MNLI-m", "RTE"),
            (("few-shot", 40.6, 69.0), ("fine-tuned", 89.5, 85.4)),
        ),
        Published(
            "OPT 125M to 30B, 16 examples, 10 seeds",
            "Mosbach et al. 2023 (arXiv:2305.16938), abstract",
            ("finding",),
            (("both ways generalize similarly out of the domain, with a large variation",),),
        ),
    ),
    data=(
        "lines: lines of Python's source code, documentation and comments, models of our own pretrained on another "
        "part of them; reviews: sentences of at most 16 tokens about films, goods and restaurants "
        "(Kotzias et al. 2015), SmolLM2-135M with weights in 4 bits."
    ),
    needs=("smollm2", "sentiment"),
)
