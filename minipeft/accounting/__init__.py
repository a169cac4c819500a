"""What a method costs, counted and not timed.

counting.py counts on a model and on the recorded graph of its loss. formulas.py gives the number of parameters of every
method and the FLOPs of a decoder in closed form; tests hold them equal to what is counted. peak.py measures the peak of
a step on few examples and extends it to many. published.py has formulas of the literature. timing.py is the
exception: it times several things in turn.
"""

from minipeft.accounting.counting import (
    Memory,
    ParameterCount,
    Report,
    bytes_of,
    count_flops,
    count_parameters,
    memory,
    readable_bytes,
    recorded_nodes,
    report,
    saved_buffers,
    saved_by,
)
from minipeft.accounting.formulas import (
    decoder_flops,
    decoder_parameters,
    linear_flops,
    same_layers,
    trained_parameters,
)
from minipeft.accounting.peak import Forecast
from minipeft.accounting.published import GPT3_SIZES, Gpt3Size, gpt3_parameters, zero_memory
from minipeft.backend.cuda import PeakMemory, peak_memory

__all__ = [
    "GPT3_SIZES",
    "Forecast",
    "Gpt3Size",
    "Memory",
    "ParameterCount",
    "PeakMemory",
    "Report",
    "bytes_of",
    "count_flops",
    "count_parameters",
    "decoder_flops",
    "decoder_parameters",
    "gpt3_parameters",
    "linear_flops",
    "memory",
    "peak_memory",
    "readable_bytes",
    "recorded_nodes",
    "report",
    "same_layers",
    "saved_buffers",
    "saved_by",
    "trained_parameters",
    "zero_memory",
]
