"""List the sentences that a student may read about a hidden case, and fill them with names that were known before.

A worker's reply decides which sentence is chosen and never what it says. `hidden_text` fills the slots of a sentence
and returns "" if a name is not among those that `known_names` collects from the cases. Text for public cases may
contain anything, because the student has their inputs and answers.
"""

from __future__ import annotations

import builtins
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath

from autograder.grading.check import Raised, Verdict

KNOWN_ERRORS = {name for name in dir(builtins) if name.endswith(("Error", "Exit", "Interrupt", "Exception", "Warning"))}
KNOWN_ERRORS |= {"LinAlgError", "AxisError", "TooLarge"}
NOT_WRITTEN = "NotImplementedError"
TRANSPOSED = "the transpose of what is expected"
QUESTION = "Could this be it? "
NO_EXPLANATION = "There is no explanation: making one failed. The points do not depend on it."


class Part(Enum):
    """A sentence, or a part of one. {0} is an output's name, {1} and {2} are names of other things."""

    # the call
    NOT_WRITTEN = "This is not written yet"
    LATE = "It takes more processor time than it may: a loop over entries, or differences in place of a formula?"
    MEMORY = "It takes more memory than it may: an array is made that is as large as the one that must not be formed"
    ENDED = "The process ended in the middle of the call"
    RAISES = "It raises {0}"
    RAISES_ITS_OWN = "It raises an exception of its own"
    # by kind of failure, if no cause is known
    PLAIN_RAISED = "{0} cannot be computed: the call raises"
    PLAIN_TIMEOUT = "{0} is not there in time"
    PLAIN_CRASH = "{0} cannot be computed: the call ends the process"
    PLAIN_MISSING = "{0} is missing"
    PLAIN_TYPE = "{0} is something else than an array or a number"
    PLAIN_SHAPE = "{0} has a wrong shape"
    PLAIN_DTYPE = "{0} has a wrong type of numbers"
    PLAIN_FINITE = "{0} is not finite"
    PLAIN_VALUE = "{0} has wrong values"
    # None, types, lists
    NO_GRADIENT = "{0} is None, though a gradient is wanted"
    NO_RESULT = "{0} is None, though a result is expected"
    GRADIENT_TOO_MUCH = "{0} must be None: no gradient is wanted for this input, and something came"
    RESULT_TOO_MUCH = "{0} must be None, and something came"
    PROMOTED = "{0} has another type of numbers than must stay: a NumPy scalar, such as np.sqrt(n), promotes"
    WRITES = "The call writes into one of its inputs"
    KEEPS = "Something is kept for the backward, though no gradient that is wanted uses it"
    OTHER_LIST = "{0} is another list than expected"
    # the right numbers, but
    ZERO = "{0} is zero everywhere"
    FALSE = "{0} is False everywhere"
    COMPLEMENT = "{0} is True where it must be False, and the other way round"
    INPUT = "{0} is {1}, unchanged"
    OTHER_OUTPUT = "{0} has the values that {1} must have"
    TRANSPOSE = "{0} is the transpose of what is expected"
    REVERSED = "{0} is in reversed order along an axis"
    SHIFTED = "{0} is shifted by one along an axis"
    REORDERED = "{0} holds the right numbers in another order: a reshape where axes must be transposed?"
    SIGNS = "{0} has the right absolute values, and some of the signs are wrong"
    TO_THE_BIT = "{0} is right up to rounding, and must be equal to the bit"
    HALF = "{0} has float16's accuracy"
    SINGLE = "{0} has float32's accuracy"
    NEARLY = "{0} is nearly right"
    # factors
    SIGN = "{0} has the wrong sign everywhere"
    FACTOR = "{0} is off by a constant factor"
    FACTOR_INVERSE = "{0} is off by the constant factor 1/{1}"
    FACTOR_NAMED = "{0} is off by the constant factor {1}"
    FACTOR_INVERSE_SQUARE = "{0} is off by the constant factor 1/{1}²"
    FACTOR_SQUARE = "{0} is off by the constant factor {1}²"
    FACTOR_INVERSE_ROOT = "{0} is off by the constant factor 1/√{1}"
    FACTOR_ROOT = "{0} is off by the constant factor √{1}"
    FACTOR_TWO = "{0} is off by a factor of 2: something is counted twice"
    FACTOR_HALF = "{0} is off by a factor of 1/2"
    FACTOR_LENGTH = "{0} is off by a constant factor made of the length of an axis"
    FACTOR_MEAN = "{0} is off by a constant factor made of the length of an axis (a mean where a sum belongs?)"
    FACTOR_SUM = "{0} is off by a constant factor made of the length of an axis (a sum where a mean belongs?)"
    LACKS_FACTOR = "{0} lacks the factor {1}"
    FACTOR_TOO_OFTEN = "{0} has the factor {1} once too often"
    DIVIDED = "{0} is divided by {1} where it must be multiplied"
    MULTIPLIED = "{0} is multiplied by {1} where it must be divided"
    FACTOR_ALONG = "{0} is off by a factor that is the same all along an axis and differs between its slices"
    SQUARE = "{0} is the square of what is expected"
    ROOT = "{0} is the square root of what is expected"
    INVERSE = "{0} is the inverse of what is expected, entry by entry"
    EXPONENTIAL = "{0} is the exponential of what is expected"
    LOGARITHM = "{0} is the logarithm of what is expected"
    # terms and sums
    LACKS_TERM = "{0} lacks the term {1}"
    TERM_TOO_OFTEN = "{0} has the term {1} once too often"
    MULTIPLE_OF_TERM = "{0} differs from what is expected by a multiple of {1}"
    SAME_AMOUNT = "{0} is off by the same amount in every entry"
    SAME_ALONG = "{0} is off by an amount that is the same all along an axis"
    SUMS_TO_ONE = "{0} sums to 1 along another axis than it must"
    NO_SUM_TO_ONE = "{0} must sum to 1 along an axis, and does not"
    NO_SUM_TO_ZERO = "The right {0} sums to 0 along an axis; this one does not"
    # shapes
    TRANSPOSED_SHAPE = "{0} has the shape of the transpose of what is expected"
    NOT_SUMMED = "{0} is not summed over the axes along which the input was broadcast or over the batch"
    OTHER_AXES = "{0} has the right number of entries in another shape: an axis too many, too few, or a reshape"
    SUMMED = "{0} is summed over an axis that must stay"
    AVERAGED = "{0} is averaged over an axis that must stay"
    SHAPE_OF = "{0} has the shape of {1}"
    SUM_THEM = "{0} has axes that must be summed: over a broadcast axis, or over the batch?"
    # where
    WRONG = "{0} is wrong"
    ZERO_HERE = "{0} is 0 where it must not be"
    NOT_ZERO_HERE = "{0} is not 0 where it must be"
    NAN = "{0} is NaN"
    INFINITE = "{0} is infinite"
    NOT_FINITE = "{0} is NaN or infinite"
    EVERYWHERE = " everywhere"
    SOMEWHERE = " in some entries"
    NOT_THE_FIRST = ", only behind the first entry of an axis (only the first example is right?)"
    FIRST = ", only in the first entries of an axis"
    LAST = ", only in the last entries of an axis"
    SOME = ", only at some entries of an axis"
    OFFSET = (
        ", only where i < j ≤ i + offset (rows i, columns j): the mask ignores the offset between rows and columns?"
    )
    ABOVE = ", only above a diagonal"
    BELOW = ", only below a diagonal"
    DIAGONAL = ", only on the diagonal"
    WHERE_FALSE = ", only where {1} is False"
    WHERE_TRUE = ", only where {1} is True"
    WHERE_NEGATIVE = ", only where {1} is negative"
    WHERE_POSITIVE = ", only where {1} is positive"
    WHERE_ZERO = ", only where {1} is 0"
    REPEATED = ", only for {1} that occur more than once"
    PRESENT = ", only for those that occur in {1}"
    ABSENT = ", only for those that do not occur in {1}"


PLAIN = {kind: Part[f"PLAIN_{kind.upper()}"] for kind in (
    "raised", "timeout", "crash", "missing", "type", "shape", "dtype", "finite", "value",
)}  # fmt: skip


@dataclass(frozen=True)
class Cause:
    """A cause of a wrong output.

    kind: its category. parts, names: the sentence for a hidden case, and what fills its slots. public: the text for a
    public case, which may contain sizes, values and the submission's own words.
    """

    kind: str
    parts: tuple[Part, ...]
    names: tuple[str, ...] = ()
    public: str = ""

    @property
    def text(self) -> str:
        """Return the text for a public case."""
        return self.public or filled(self.parts, self.names)


def filled(parts: Sequence[Part], names: Sequence[str]) -> str:
    """Return a sentence with its names."""
    return sentence("".join(part.value for part in parts).format(*names))


def sentence(text: str) -> str:
    """Return a text with a mark at its end."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def question(text: str) -> str:
    """Return a hint as a question, for what does not explain everything."""
    return f"{QUESTION}{sentence(text)}"


def hidden_text(parts: Sequence[Part], names: Sequence[str], known: Collection[str]) -> str:
    """Return the sentence of a hidden case; "" if a name is not known or a slot has none."""
    if not parts or not all(name in known for name in names):
        return ""
    try:
        return filled(parts, names)
    except IndexError:
        return ""


def called(name: str) -> str:
    """Return what an input is called: cotangents by their role."""
    return f"the cotangent {name}" if name.startswith("d") and len(name) < 4 else name


def entry_of(output: str) -> str:
    """Return what an entry of an output that is a list is called."""
    return f"an entry of {output}"


def known_names(verdict: Verdict) -> frozenset[str]:
    """Return the names that may go into a sentence: of the inputs, parameters and outputs of a problem's cases.

    All of them come from our cases and the reference; none from what a worker sent.
    """
    of_inputs = {*verdict.inputs, *map(called, verdict.inputs)}
    of_outputs = {*verdict.outputs, *map(entry_of, verdict.outputs)}
    return frozenset({*KNOWN_ERRORS, TRANSPOSED, *of_inputs, *of_outputs})


def raised(got: Raised, little: bool = False) -> Cause:
    """Return the cause for an exception: its type; in a public case also line and message. little: memory was short."""
    if little and got.error == "MemoryError":
        return Cause("memory", (Part.MEMORY,))
    if got.error == NOT_WRITTEN:
        return Cause("not written", (Part.NOT_WRITTEN,), public=f"{Part.NOT_WRITTEN.value} ({got.message}).")
    if got.kind == "timeout":
        return Cause("timeout", (Part.LATE,))
    if got.kind == "crash":
        return Cause("crash", (Part.ENDED,))
    where = f" in line {got.line}" if got.line else ""
    file = f" of {PurePath(got.file).name}" if got.file and got.line else ""
    message = f": {got.message}" if got.message else ""
    public = sentence(f"{got.error}{where}{file}{message}")
    if got.error in KNOWN_ERRORS:
        return Cause("raised", (Part.RAISES,), (got.error,), public)
    return Cause("raised", (Part.RAISES_ITS_OWN,), public=public)
