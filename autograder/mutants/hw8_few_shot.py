"""Mistakes in hw8_few_shot."""

from autograder.mutants import Mutant

FEW, WELCH = "minipeft.few_shot", "minipeft.lab.framework.welch"

MUTANTS = [
    Mutant(
        "question-format",
        f"{FEW}:Pattern.question",
        "8.1",
        "str.format reads every brace of the template and fails on others; only {text} is to be replaced.",
        old='self.template.replace("{text}", text)',
        new='self.template.replace("{text}", text).format(text=text)',
    ),
    Mutant(
        "answer-number",
        f"{FEW}:Pattern.answered",
        "8.1",
        "The number of the label stands there in place of its word.",
        old="self.labels[label]",
        new='f" {label}"',
    ),
    Mutant(
        "answer-space",
        f"{FEW}:Pattern.answered",
        "8.1",
        "The space in front of the label is lost.",
        old="self.labels[label]",
        new="self.labels[label].strip()",
    ),
    Mutant(
        "separator-between",
        f"{FEW}:Pattern.demonstrations",
        "8.1",
        "The last example lacks its separator: the question would run on from its answer.",
        old='"".join(self.answered(text, label) + self.separator for text, label in examples)',
        new="self.separator.join(self.answered(text, label) for text, label in examples)",
    ),
    Mutant(
        "demonstrations-reversed",
        f"{FEW}:Pattern.demonstrations",
        "8.1",
        "The examples stand in another order than they were given in.",
        old="(self.answered(text, label) + self.separator for text, label in examples)",
        new="(self.answered(text, label) + self.separator for text, label in reversed(examples))",
    ),
    Mutant(
        "not-shifted",
        f"{FEW}:continuation_scores",
        "8.2",
        "logits[:, t] predicts the token at t + 1, not the token at t.",
        old="s = logits[:, start - 1 : T - 1]",
        new="s = logits[:, start:T]",
    ),
    Mutant(
        "whole-row",
        f"{FEW}:continuation_scores",
        "8.2",
        "The sum runs over the tokens from start on alone, not over the prompt.",
        old="log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))",
        new="""log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))
s = logits[:, :T - 1] - logits[:, :T - 1].max(axis=-1, keepdims=True)
log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))
start = 1""",
    ),
    Mutant(
        "mean-for-sum",
        f"{FEW}:continuation_scores",
        "8.2",
        "The log probabilities of the tokens are summed, not averaged.",
        old="np.take_along_axis(log_p, ids[:, start:, None], axis=-1)[..., 0].sum",
        new="np.take_along_axis(log_p, ids[:, start:, None], axis=-1)[..., 0].mean",
    ),
    Mutant(
        "no-log",
        f"{FEW}:continuation_scores",
        "8.2",
        "Logarithms are summed; these are the probabilities themselves.",
        old="log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))",
        new="log_p = np.exp(s) / np.exp(s).sum(axis=-1, keepdims=True)",
    ),
    Mutant(
        "log-two",
        f"{FEW}:continuation_scores",
        "8.2",
        "The unit is the nat: the natural logarithm, not that to base 2.",
        old="np.take_along_axis(log_p, ids[:, start:, None], axis=-1)",
        new="np.take_along_axis(log_p / np.log(2.0), ids[:, start:, None], axis=-1)",
    ),
    Mutant(
        "logits-for-log-p",
        f"{FEW}:continuation_scores",
        "8.2",
        "Logits were summed without normalizing them over the vocabulary.",
        old="log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))",
        new="log_p = s",
    ),
    Mutant(
        "overflow",
        f"{FEW}:continuation_scores",
        "8.2",
        "exp of large logits overflows: subtract the maximum first.",
        old="s = s - s.max(axis=-1, keepdims=True)",
        new="s = s + 0.0",
    ),
    Mutant(
        "max-over-all",
        f"{FEW}:continuation_scores",
        "8.2",
        "The softmax runs over the vocabulary, the last axis, not over the tokens.",
        old="log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))",
        new="log_p = s - np.log(np.exp(s).sum(axis=1, keepdims=True))",
    ),
    Mutant(
        "logits-written",
        f"{FEW}:continuation_scores",
        "8.2",
        "The logits that were passed in are written.",
        old="s = s - s.max(axis=-1, keepdims=True)",
        new="s -= s.max(axis=-1, keepdims=True)",
    ),
    Mutant(
        "start-unchecked",
        f"{FEW}:continuation_scores",
        "8.2",
        "A start outside of 1 … T - 1 must raise ValueError.",
        old="not 1 <= start < T",
        new="start >= T + 1",
    ),
    Mutant(
        "argmin",
        f"{FEW}:predict",
        "8.3",
        "The likeliest label has the largest score.",
        old="(scores if neutral is None else scores - neutral).argmax",
        new="(scores if neutral is None else scores - neutral).argmin",
    ),
    Mutant(
        "wrong-axis",
        f"{FEW}:predict",
        "8.3",
        "Each question has one answer: the largest score over the labels, not over the questions.",
        old="(scores if neutral is None else scores - neutral).argmax(axis=1)",
        new="(scores if neutral is None else scores - neutral).argmax(axis=0)",
    ),
    Mutant(
        "neutral-added",
        f"{FEW}:predict",
        "8.3",
        "The neutral scores are subtracted, so that what is preferred anyway loses its advantage.",
        old="scores - neutral",
        new="scores + neutral",
    ),
    Mutant(
        "neutral-ignored",
        f"{FEW}:predict",
        "8.3",
        "The neutral scores are not used.",
        old="(scores if neutral is None else scores - neutral)",
        new="scores",
    ),
    Mutant(
        "neutral-divided",
        f"{FEW}:predict",
        "8.3",
        "Scores are logarithms: dividing probabilities is subtracting their scores.",
        old="scores - neutral",
        new="scores / neutral",
    ),
    Mutant(
        "not-rewound",
        f"{FEW}:label_scores",
        "8.4",
        "The cache is not set back after a label: the next label continues from the one before.",
        old="_rewind(cache, asked)",
        new="",
    ),
    Mutant(
        "question-not-rewound",
        f"{FEW}:label_scores",
        "8.4",
        "The cache is not set back after a question: the next question follows the one before.",
        old="_rewind(cache, shared)",
        new="",
    ),
    Mutant(
        "first-token-only",
        f"{FEW}:label_scores",
        "8.4",
        "Only the first token of a label is scored.",
        old="continuation_scores(padded, ids, 1)[0]",
        new="continuation_scores(padded[:, :2], ids[:, :2], 1)[0]",
    ),
    Mutant(
        "label-mean",
        f"{FEW}:label_scores",
        "8.4",
        "A label's score is the sum over its tokens; it is not divided by their number.",
        old="continuation_scores(padded, ids, 1)[0]",
        new="continuation_scores(padded, ids, 1)[0] / len(label)",
    ),
    Mutant(
        "no-demonstrations",
        f"{FEW}:label_scores",
        "8.4",
        "The demonstrations are not in front of the question.",
        old="""if before:
    model.hidden(_row(before), cache=cache)""",
        new="""if False:
    model.hidden(_row(before), cache=cache)""",
    ),
    Mutant(
        "no-cache",
        f"{FEW}:label_scores",
        "8.4",
        "The demonstrations are read again for every label; their keys and values can be kept.",
        body="""
scores = np.empty((len(questions), len(labels)))
with no_grad():
    for i, question in enumerate(questions):
        for j, label in enumerate(labels):
            ids = _row([*before, *question, *label])
            logits = to_numpy(model(ids).data).astype(np.float64)
            scores[i, j] = continuation_scores(logits, ids, ids.shape[1] - len(label))[0]
return scores
""",
    ),
    Mutant(
        "labels-everywhere",
        f"{FEW}:pattern_batch",
        "8.5",
        "Tokens of the question have a label, too: only the answer is asked for.",
        old="labels[i, start - 1 : n] = row[start:]",
        new="labels[i, :n] = row[1:]",
    ),
    Mutant(
        "labels-unshifted",
        f"{FEW}:pattern_batch",
        "8.5",
        "labels[:, t] is the token after ids[:, t], not the token at t.",
        old="labels[i, start - 1 : n] = row[start:]",
        new="labels[i, start:n] = row[start:-1]",
    ),
    Mutant(
        "padding-seen",
        f"{FEW}:pattern_batch",
        "8.5",
        "The mask is True at padding.",
        old="mask[i, :n] = True",
        new="mask[i] = True",
    ),
    Mutant(
        "padding-labelled",
        f"{FEW}:pattern_batch",
        "8.5",
        "Rows without an answer have label 0 in place of -100: token 0 would be learned there.",
        old="np.full((len(rows), T), IGNORED, dtype=np.int64)",
        new="np.zeros((len(rows), T), dtype=np.int64)",
    ),
    Mutant(
        "first-answer-token-missing",
        f"{FEW}:pattern_batch",
        "8.5",
        "The first token of the answer is predicted from the last of the question; it lacks its label.",
        old="labels[i, start - 1 : n] = row[start:]",
        new="labels[i, start:n] = row[start + 1 :]",
    ),
    Mutant(
        "biased-variance",
        f"{WELCH}:welch_statistic",
        "8.6",
        "The variance of a sample divides by n - 1, not by n.",
        old="float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)",
        new="float(x.var()) / len(x), float(y.var()) / len(y)",
    ),
    Mutant(
        "pooled",
        f"{WELCH}:welch_statistic",
        "8.6",
        "This is Student's test with one pooled variance; Welch's keeps the two apart.",
        old="""if u + v == 0.0:
    return (math.copysign(math.inf, difference) if difference else math.nan, float(len(x) + len(y) - 2))""",
        new="""if u + v == 0.0:
    return (math.copysign(math.inf, difference) if difference else math.nan, float(len(x) + len(y) - 2))
s2 = (x.var(ddof=1) * (len(x) - 1) + y.var(ddof=1) * (len(y) - 1)) / (len(x) + len(y) - 2)
return (difference / math.sqrt(s2 * (1 / len(x) + 1 / len(y))), float(len(x) + len(y) - 2))""",
    ),
    Mutant(
        "sd-for-variance",
        f"{WELCH}:welch_statistic",
        "8.6",
        "Standard deviations are added where variances are.",
        old="float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)",
        new="float(x.std(ddof=1)) / len(x), float(y.std(ddof=1)) / len(y)",
    ),
    Mutant(
        "n-not-divided",
        f"{WELCH}:welch_statistic",
        "8.6",
        "Each variance is divided by the size of its group: the error of a mean shrinks with n.",
        old="float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)",
        new="float(x.var(ddof=1)), float(y.var(ddof=1))",
    ),
    Mutant(
        "no-root",
        f"{WELCH}:welch_statistic",
        "8.6",
        "t divides by the root of the summed variances.",
        old="math.sqrt(u + v)",
        new="u + v",
    ),
    Mutant(
        "t-negated",
        f"{WELCH}:welch_statistic",
        "8.6",
        "t has the sign of m₁ - m₂, the first group's mean less the second's.",
        old="float(x.mean() - y.mean())",
        new="float(y.mean() - x.mean())",
    ),
    Mutant(
        "nu-not-squared",
        f"{WELCH}:welch_statistic",
        "8.6",
        "The terms in the denominator of ν are squared.",
        old="(u**2 / (len(x) - 1) + v**2 / (len(y) - 1))",
        new="(u / (len(x) - 1) + v / (len(y) - 1))",
    ),
    Mutant(
        "nu-n",
        f"{WELCH}:welch_statistic",
        "8.6",
        "The denominator of ν has n - 1, not n.",
        old="(u**2 / (len(x) - 1) + v**2 / (len(y) - 1))",
        new="(u**2 / len(x) + v**2 / len(y))",
    ),
    Mutant(
        "variance-by-squares",
        f"{WELCH}:welch_statistic",
        "8.6",
        "The mean of the squares less the square of the mean loses its digits where the values are large.",
        body="""
x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
n, m = len(x), len(y)
u = float(((x * x).mean() - x.mean() ** 2) * n / (n - 1)) / n
v = float(((y * y).mean() - y.mean() ** 2) * m / (m - 1)) / m
difference = float(x.mean() - y.mean())
if u + v <= 0.0:
    return (math.copysign(math.inf, difference) if difference else math.nan), float(n + m - 2)
return difference / math.sqrt(u + v), (u + v) ** 2 / (u**2 / (n - 1) + v**2 / (m - 1))
""",
    ),
    Mutant(
        "spread-zero",
        f"{WELCH}:welch_statistic",
        "8.6",
        "Two groups without any spread divide 0 by 0.",
        old="u + v == 0.0",
        new="False",
    ),
    Mutant(
        "bonferroni",
        f"{WELCH}:holm",
        "8.7",
        "This is Bonferroni's correction: every p times m. Holm's factor falls from m to 1.",
        old="np.arange(len(p), 0, -1)",
        new="len(p)",
    ),
    Mutant(
        "not-monotone",
        f"{WELCH}:holm",
        "8.7",
        "A corrected p may not fall below one before it in the order.",
        old="np.maximum.accumulate(scaled)",
        new="scaled",
    ),
    Mutant(
        "above-one",
        f"{WELCH}:holm",
        "8.7",
        "A p-value exceeds 1.",
        old="np.minimum(np.maximum.accumulate(scaled), 1.0)",
        new="np.maximum.accumulate(scaled)",
    ),
    Mutant(
        "left-sorted",
        f"{WELCH}:holm",
        "8.7",
        "The corrected values are returned in sorted order, not in that of the input.",
        old="corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)",
        new="corrected[:] = np.minimum(np.maximum.accumulate(scaled), 1.0)",
    ),
    Mutant(
        "factor-rising",
        f"{WELCH}:holm",
        "8.7",
        "The smallest p is multiplied by m, the largest by 1, not the other way round.",
        old="np.arange(len(p), 0, -1)",
        new="np.arange(1, len(p) + 1)",
    ),
    Mutant(
        "benjamini-hochberg",
        f"{WELCH}:holm",
        "8.7",
        "This is Benjamini and Hochberg's step-up: it bounds the share of false findings, not the chance of any.",
        body="""
p = np.asarray(ps, dtype=np.float64)
m = len(p)
order = np.argsort(p)
scaled = p[order] * m / np.arange(1, m + 1)
out = np.empty_like(p)
out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
return out
""",
    ),
]
