"""The experiments of the lecture, one a file, and `load` to get one by its name."""

from __future__ import annotations

from importlib import import_module

from minipeft.files.names import unknown_name
from minipeft.lab.framework.experiment import Experiment
from minipeft.lab.framework.runner import LabError

NAMES = (  # in the order of the lecture
    *("few_shot", "adapters", "sizes", "intrinsic_dimension", "latency", "which_weights", "rank", "low_data"),
    *("memory", "throughput", "vision"),
)


def load(name: str) -> Experiment:
    """Return the experiment of that name.

    Raises LabError, with the known names, if there is none.
    """
    if name not in NAMES:
        raise LabError(unknown_name("experiment", name, NAMES))
    experiment: Experiment = import_module(f"minipeft.lab.experiments.{name}").EXPERIMENT
    return experiment
