"""What a sentence about a mistake names: how something is wrong (missing, twice, transposed), and what (the scale, dW).

The rule by which the self-test decides whether an explanation is right. It reads words only and shares nothing with the
code that explains: neither the sentences of `feedback` nor the formulas are known here. The truth is a mutant's own
hint, which a person wrote about a known change of the program.

Hints state the mistake or the rule that it breaks, so that "lacks" and "twice" cannot be told apart by words: a factor
that is said to be missing where it is there twice counts as right. (A formula that fits cannot do that.)

    right       some sentence names the way and the thing that the hint names, and none names another cause
    partly      some sentence names the way or the thing
    misleading  a sentence names a cause, and none of its words is one of the hint
    silent      nothing is named
"""

from __future__ import annotations

import re
from collections.abc import Iterable

RIGHT, PARTLY, MISLEADING, SILENT = "right", "partly", "misleading", "silent"

WAYS = {
    "missing": r"lacks?\b|missing|forg[eo]t|ignore|dropped|\blost\b|without|cut off|is none, though|not there\b|"
    r"not (added|used|asked|multiplied|divided|scaled|turned|applied|written|corrected|taken|looked|moved|trained)|"
    r"treated as (a )?constant|\bnever\b|stays? frozen|are left|less than",
    "too much": r"twice|too (often|much|many)|as well|, too\b|\balso\b|always|must be none|where no|does not belong|"
    r"whatever|multiplies the|on all|again|no term|has got into|beside",
    "sign": r"\bsigns?\b|subtract|minus|uphill|direction|negat|opposite|turns? back",
    "transposed": r"transpos|exchanged|swapped|interleav|another order|in order|reversed|reshape|halves|ᵀ|symmetric",
    "mean or sum": r"\bmeans?\b|averag|\bsum\b|summed|\bsums\b|length of axis|number of entries|"
    r"divided by their number",
    "scaled": r"scaled?\b|multipl|factor|times what",
    "instead": r"\bwhere .* belongs?\b|, not \b|not those|instead|itself|in place of|is given|not used|another",
    "none": r"\bnone\b|nonetype|dtype\('o'\)",
    "divided": r"divid|inverse|1/",
    "root": r"\broot|√|squar|varian|deviation",
    "type": r"float\d\d|dtype|promot|type of numbers",
    "written": r"writ(e|es|ten)\b|in place|read-only|same array|new array",
    "kept": r"\bkept\b|\bkeeps?\b|\bsaved?s?\b|memory|lean",
    "unwanted": r"wants? no|no gradient is wanted|must be none|though .* is frozen|for nothing|wanted",
    "overflow": r"overflow|\bnan\b|infinit|\binf\b|0/0|underflow|not finite",
    "axis": r"\baxis\b|\baxes\b|\bover (the|its) (rows|queries|keys|features|vocabulary|batch)|broadcast",
    "place": r"\bfirst\b|\blast\b|diagonal|shifted|one (row|key|layer|token) too|every .*-th|offset|"
    r"\bonly (at|in|where|for)",
    "refused": r"refus|\berrors?\b|accepted|raises?\b|valueerror|keyerror|typeerror|pefterror|mistake of the caller",
    "drawn": r"\bseed|generator|gauss|uniform|\bdr[ae]wn?|\bdraws\b|random|normal\b|spread|bound",
    "repeated": r"more than once|several times|repeat|occur",
    "shape": r"\bshape|\baxes\b",
    "start": r"starts?\b|at the start|zero everywhere|\bzeros?\b",
}

THINGS = {
    "scale": r"\bs\b|\bscales?\b|\bscaled\b|λ|lambda",
    "bias": r"\bb\b|\bbias(es)?\b|b_up\b|b_u\b|b_down\b|b_d\b|\bshifts?\b|\bbeta\b|β\b",
    "gain": r"γ|gamma|\bgains?\b",
    "base": r"w₀|\bw0\b|\bw\b|frozen (path|layer)|\bbase\b|e₀|θ₀|theta0",
    "low-rank": r"low-rank|the change\b|branch|a and b|δw|lora|h aᵀ|v σ",
    "a": r"\ba\b(?= (is|and|\(|x|,))|\baᵀ|\bda\b|lora_a",
    "b": r"\bdb\b|lora_b",
    "dx": r"\bdx\b|\bdh\b|\bds\b|\bdq\b|\bdp\b",
    "dk": r"\bdk\b|\bkeys?\b|key head",
    "dv": r"\bdv\b|\bvalues?\b",
    "dw": r"\bdw\w*|\bdu\b|dσ",
    "dgamma": r"dγ|dgamma|dβ|dbeta",
    "x": r"\bx\b|\bh\b|\binputs?\b|residual|skip",
    "dz": r"\bdz\b|cotangent|\bdl\b",
    "normalized": r"x̂|normaliz|layernorm|\bnorm\b|rmsnorm|mean\(dx|statistics|standard deviation|variance",
    "epsilon": r"ε|\beps\b|epsilon",
    "softmax": r"softmax|probabilit|scores|denominator|exponential|\bexp\b",
    "derivative": r"derivative|f'|slope|φ|density|activation|tanh|gelu|chain rule",
    "mask": r"mask|visible|causal|future|padding|hidden|\bseen\b",
    "head": r"\bheads?\b",
    "label": r"label|onehot|ignored|kept",
    "row": r"\brows?\b|\bbatch|examples?\b|tokens?\b|positions?\b",
    "block": r"\bblocks?\b",
    "momentum": r"μ|momentum|velocity|nesterov|look-ahead",
    "moments": r"\bm\b|\bv\b|v̂|m̂|correct|moment|β₁|β₂|beta[12]|\bt\b",
    "decay": r"decay",
    "rate": r"\brate\b|\blr\b|η",
    "rotation": r"\bcos\b|\bsin\b|turn(s|ed)?\b|rotat",
    "permutation": r"permut|π|order",
    "sign": r"\bsigns\b",
    "hadamard": r"hadamard|\bh\b is|1/√?l\b|transforms?\b|pass(es)?\b",
    "rank": r"\brank|\br\b|pattern",
    "root d": r"√(d|k|r|total|size)|1/d|total|\bd\b",
    "norm": r"\bnorms?\b",
    "prefix": r"prefix|prompt|in front",
    "generator": r"generator|seed",
    "state": r"\bstate\b|every step|each step",
    "copy": r"cop(y|ies)|\bbase\b",
    "option": r"option|unknown|configuration|asked for|refused",
    "names": r"\bnames?\b|parameters?\b|trained\b|layers?\b",
    "id": r"\bids?\b|\bindex\b|entries\b",
    "sigma": r"σ|sigma|\bu\b|\bc\b|\bp\b",
}

CLAIM = re.compile(
    r"lacks|once too often|as if|factor|term|transpose|order|sign|only where|sums? to|instead|mean|sum\b|twice|"
    r"promot|overflow|right to about|another ε|unchanged|has the values|\?",
    re.IGNORECASE,
)


def named(text: str, words: dict[str, str]) -> set[str]:
    """Return which of these words a text has."""
    low = text.lower()
    return {name for name, pattern in words.items() if re.search(pattern, low)}


def matches(hint: str, text: str) -> tuple[bool, bool]:
    """Return whether a text names the way, and the thing, that a hint names."""
    ways, things = named(hint, WAYS), named(hint, THINGS)
    return bool(ways & named(text, WAYS)), not things or bool(things & named(text, THINGS))


def judged(hint: str, told: Iterable[str]) -> str:
    """Return `RIGHT`, `PARTLY`, `MISLEADING` or `SILENT`, of what is told about a mistake whose hint is known."""
    found = [(text, *matches(hint, text)) for text in told]
    false = [text for text, way, thing in found if not way and not thing and CLAIM.search(text)]
    if any(way and thing for _, way, thing in found):
        return RIGHT if not false else PARTLY
    if false:
        return MISLEADING
    return PARTLY if any(way or thing for _, way, thing in found) else SILENT
