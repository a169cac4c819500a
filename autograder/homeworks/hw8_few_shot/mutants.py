"""Mistakes in hw8_few_shot."""

from autograder.homeworks.mutant import mistakes

MUTANTS = mistakes("""
== minipeft.few_shot:Pattern.question 8.1

question-format
str.format reads every brace of the template and fails on others; only {text} is to be replaced.
- self.template.replace("{text}", text)
+ self.template.replace("{text}", text).format(text=text)

== minipeft.few_shot:Pattern.answered 8.1

answer-number
The number of the label stands there in place of its word.
- self.labels[label]
+ f" {label}"

answer-space
The space in front of the label is lost.
- self.labels[label]
+ self.labels[label].strip()

== minipeft.few_shot:Pattern.demonstrations 8.1

separator-between
The last example lacks its separator: the question would run on from its answer.
- "".join(self.answered(text, label) + self.separator for text, label in examples)
+ self.separator.join(self.answered(text, label) for text, label in examples)

demonstrations-reversed
The examples stand in another order than they were given in.
- (self.answered(text, label) + self.separator for text, label in examples)
+ (self.answered(text, label) + self.separator for text, label in reversed(examples))

== minipeft.few_shot:continuation_scores 8.2

not-shifted
logits[:, t] predicts the token at t + 1, not the token at t.
- s = logits[:, start - 1 : T - 1]
+ s = logits[:, start:T]

whole-row
The sum runs over the tokens from start on alone, not over the prompt.
- log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))
+ log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))
+ s = logits[:, :T - 1] - logits[:, :T - 1].max(axis=-1, keepdims=True)
+ log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))
+ start = 1

mean-for-sum
The log probabilities of the tokens are summed, not averaged.
- np.take_along_axis(log_p, ids[:, start:, None], axis=-1)[..., 0].sum
+ np.take_along_axis(log_p, ids[:, start:, None], axis=-1)[..., 0].mean

no-log
Logarithms are summed; these are the probabilities themselves.
- log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))
+ log_p = np.exp(s) / np.exp(s).sum(axis=-1, keepdims=True)

log-two
The unit is the nat: the natural logarithm, not that to base 2.
- np.take_along_axis(log_p, ids[:, start:, None], axis=-1)
+ np.take_along_axis(log_p / np.log(2.0), ids[:, start:, None], axis=-1)

logits-for-log-p
Logits were summed without normalizing them over the vocabulary.
- log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))
+ log_p = s

overflow
exp of large logits overflows: subtract the maximum first.
- s = s - s.max(axis=-1, keepdims=True)
+ s = s + 0.0

max-over-all
The softmax runs over the vocabulary, the last axis, not over the tokens.
- log_p = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))
+ log_p = s - np.log(np.exp(s).sum(axis=1, keepdims=True))

logits-written
The logits that were passed in are written.
- s = s - s.max(axis=-1, keepdims=True)
+ s -= s.max(axis=-1, keepdims=True)

start-unchecked
A start outside of 1 … T - 1 must raise ValueError.
- not 1 <= start < T
+ start >= T + 1

== minipeft.few_shot:predict 8.3

argmin
The likeliest label has the largest score.
- (scores if neutral is None else scores - neutral).argmax
+ (scores if neutral is None else scores - neutral).argmin

wrong-axis
Each question has one answer: the largest score over the labels, not over the questions.
- (scores if neutral is None else scores - neutral).argmax(axis=1)
+ (scores if neutral is None else scores - neutral).argmax(axis=0)

neutral-added
The neutral scores are subtracted, so that what is preferred anyway loses its advantage.
- scores - neutral
+ scores + neutral

neutral-ignored
The neutral scores are not used.
- (scores if neutral is None else scores - neutral)
+ scores

neutral-divided
Scores are logarithms: dividing probabilities is subtracting their scores.
- scores - neutral
+ scores / neutral

== minipeft.few_shot:label_scores 8.4

not-rewound
The cache is not set back after a label: the next label continues from the one before.
- _rewind(cache, asked)

question-not-rewound
The cache is not set back after a question: the next question follows the one before.
- _rewind(cache, shared)

first-token-only
Only the first token of a label is scored.
- continuation_scores(padded, ids, 1)[0]
+ continuation_scores(padded[:, :2], ids[:, :2], 1)[0]

label-mean
A label's score is the sum over its tokens; it is not divided by their number.
- continuation_scores(padded, ids, 1)[0]
+ continuation_scores(padded, ids, 1)[0] / len(label)

no-demonstrations
The demonstrations are not in front of the question.
- if before:
-     model.hidden(_row(before), cache=cache)
+ if False:
+     model.hidden(_row(before), cache=cache)

no-cache
The demonstrations are read again for every label; their keys and values can be kept.
+ scores = np.empty((len(questions), len(labels)))
+ with no_grad():
+     for i, question in enumerate(questions):
+         for j, label in enumerate(labels):
+             ids = _row([*before, *question, *label])
+             logits = to_numpy(model(ids).data).astype(np.float64)
+             scores[i, j] = continuation_scores(logits, ids, ids.shape[1] - len(label))[0]
+ return scores

== minipeft.few_shot:pattern_batch 8.5

labels-everywhere
Tokens of the question have a label, too: only the answer is asked for.
- labels[i, start - 1 : n] = row[start:]
+ labels[i, :n] = row[1:]

labels-unshifted
labels[:, t] is the token after ids[:, t], not the token at t.
- labels[i, start - 1 : n] = row[start:]
+ labels[i, start:n] = row[start:-1]

padding-seen
The mask is True at padding.
- mask[i, :n] = True
+ mask[i] = True

padding-labelled
Rows without an answer have label 0 in place of -100: token 0 would be learned there.
- np.full((len(rows), T), IGNORED, dtype=np.int64)
+ np.zeros((len(rows), T), dtype=np.int64)

first-answer-token-missing
The first token of the answer is predicted from the last of the question; it lacks its label.
- labels[i, start - 1 : n] = row[start:]
+ labels[i, start:n] = row[start + 1 :]

== minipeft.lab.framework.welch:welch_statistic 8.6

biased-variance
The variance of a sample divides by n - 1, not by n.
- float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
+ float(x.var()) / len(x), float(y.var()) / len(y)

pooled
This is Student's test with one pooled variance; Welch's keeps the two apart.
- if u + v == 0.0:
-     return (math.copysign(math.inf, difference) if difference else math.nan, float(len(x) + len(y) - 2))
+ if u + v == 0.0:
+     return (math.copysign(math.inf, difference) if difference else math.nan, float(len(x) + len(y) - 2))
+ s2 = (x.var(ddof=1) * (len(x) - 1) + y.var(ddof=1) * (len(y) - 1)) / (len(x) + len(y) - 2)
+ return (difference / math.sqrt(s2 * (1 / len(x) + 1 / len(y))), float(len(x) + len(y) - 2))

sd-for-variance
Standard deviations are added where variances are.
- float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
+ float(x.std(ddof=1)) / len(x), float(y.std(ddof=1)) / len(y)

n-not-divided
Each variance is divided by the size of its group: the error of a mean shrinks with n.
- float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
+ float(x.var(ddof=1)), float(y.var(ddof=1))

no-root
t divides by the root of the summed variances.
- math.sqrt(u + v)
+ u + v

t-negated
t has the sign of m₁ - m₂, the first group's mean less the second's.
- float(x.mean() - y.mean())
+ float(y.mean() - x.mean())

nu-not-squared
The terms in the denominator of ν are squared.
- (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
+ (u / (len(x) - 1) + v / (len(y) - 1))

nu-n
The denominator of ν has n - 1, not n.
- (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
+ (u**2 / len(x) + v**2 / len(y))

variance-by-squares
The mean of the squares less the square of the mean loses its digits where the values are large.
+ x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
+ n, m = len(x), len(y)
+ u = float(((x * x).mean() - x.mean() ** 2) * n / (n - 1)) / n
+ v = float(((y * y).mean() - y.mean() ** 2) * m / (m - 1)) / m
+ difference = float(x.mean() - y.mean())
+ if u + v <= 0.0:
+     return (math.copysign(math.inf, difference) if difference else math.nan), float(n + m - 2)
+ return difference / math.sqrt(u + v), (u + v) ** 2 / (u**2 / (n - 1) + v**2 / (m - 1))

spread-zero
Two groups without any spread divide 0 by 0.
- u + v == 0.0
+ False

== minipeft.lab.framework.welch:holm 8.7

bonferroni
This is Bonferroni's correction: every p times m. Holm's factor falls from m to 1.
- np.arange(len(p), 0, -1)
+ len(p)

not-monotone
A corrected p may not fall below one before it in the order.
- np.maximum.accumulate(scaled)
+ scaled

above-one
A p-value exceeds 1.
- np.minimum(np.maximum.accumulate(scaled), 1.0)
+ np.maximum.accumulate(scaled)

left-sorted
The corrected values are returned in sorted order, not in that of the input.
- corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
+ corrected[:] = np.minimum(np.maximum.accumulate(scaled), 1.0)

factor-rising
The smallest p is multiplied by m, the largest by 1, not the other way round.
- np.arange(len(p), 0, -1)
+ np.arange(1, len(p) + 1)

benjamini-hochberg
This is Benjamini and Hochberg's step-up: it bounds the share of false findings, not the chance of any.
+ p = np.asarray(ps, dtype=np.float64)
+ m = len(p)
+ order = np.argsort(p)
+ scaled = p[order] * m / np.arange(1, m + 1)
+ out = np.empty_like(p)
+ out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
+ return out
""")

MUTANTS += mistakes("""
== minipeft.few_shot:Pattern.question 8.1

question-plain-format
str.format replaces every brace of the template, not only {text}.
- self.template.replace("{text}", text)
+ self.template.format(text=text)

== minipeft.few_shot:continuation_scores 8.2

continuation-float32
float64 is computed in float32 in between.
- s - s.max(axis=-1, keepdims=True)
+ (s - s.max(axis=-1, keepdims=True)).astype("float32")

== minipeft.few_shot:label_scores 8.4

labels-empty
An empty question or label is not refused.
- not all(map(len, questions)) or not all(map(len, labels))
+ False

== minipeft.lab.framework.welch:welch_statistic 8.6

welch-one-value
A group of one value is accepted.
- min(len(x), len(y)) < 2
+ min(len(x), len(y)) < 1

welch-never-nan
Two groups without spread whose means agree have t = nan, not an infinity.
- math.copysign(math.inf, difference) if difference else math.nan
+ math.copysign(math.inf, difference)

welch-one-flat
Only if both groups are without spread, t is infinite; one such group has a t as usual.
- u + v == 0.0
+ u * v == 0.0

== minipeft.lab.framework.welch:holm 8.7

holm-none
No test at all is an error.
- order = np.argsort(p, kind="stable")
+ p.max()
+ order = np.argsort(p, kind="stable")
""")
