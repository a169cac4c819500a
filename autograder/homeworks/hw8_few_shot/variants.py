"""Other ways to be right in hw8_few_shot."""

from autograder.homeworks.variant import programs

VARIANTS = programs("""
=== texts by loops
== minipeft.few_shot:Pattern.question
before, after = self.template.split("{text}", 1)
return before + text + after

== minipeft.few_shot:Pattern.demonstrations
text = ""
for t, label in examples:
    text += self.question(t)
    text += self.labels[label]
    text += self.separator
return text

=== logaddexp
== minipeft.few_shot:continuation_scores
B, T = ids.shape
if start < 1 or start > T - 1:
    raise ValueError("start")
out = np.zeros(B)
for b in range(B):
    for t in range(start, T):
        row = logits[b, t - 1]
        out[b] += row[ids[b, t]] - np.logaddexp.reduce(row)
return out

=== fancy indices
== minipeft.few_shot:continuation_scores
B, T = ids.shape
if not 0 < start <= T - 1:
    raise ValueError(f"start {start}")
top = logits.max(-1, keepdims=True)
log_z = (top + np.log(np.sum(np.exp(logits - top), -1, keepdims=True)))[..., 0]
t = np.arange(start, T)
rows = np.arange(B)[:, None]
return np.sum(logits[rows, t - 1, ids[:, start:]] - log_z[:, start - 1 : T - 1], axis=-1)

=== scores in float32 lists
== minipeft.few_shot:predict
best = []
for row in scores:
    values = [float(s) for s in row] if neutral is None else [float(s - n) for s, n in zip(row, neutral)]
    best.append(values.index(max(values)))
return np.array(best)

=== predict by sorting
== minipeft.few_shot:predict
x = scores.copy()
if neutral is not None:
    x = x - np.asarray(neutral)[None, :]
return np.argsort(-x, axis=1, kind="stable")[:, 0]

=== a cache copied for each label
== minipeft.few_shot:label_scores
from copy import deepcopy
if [] in [list(ids) for ids in (*questions, *labels)]:
    raise ValueError("empty")
scores = np.zeros((len(questions), len(labels)))
with no_grad():
    first = new_cache(len(model.stack.layers))
    if len(before) > 0:
        model(_row(before), cache=first)
    for i, q in enumerate(questions):
        asked = deepcopy(first)
        last = model(_row(q), cache=asked).data[0, -1].astype(np.float64)
        for j, label in enumerate(labels):
            cache, logits = deepcopy(asked), last
            for t, token in enumerate(label):
                scores[i, j] += logits[token] - np.logaddexp.reduce(logits)
                if t + 1 < len(label):
                    logits = model(_row([token]), cache=cache).data[0, -1].astype(np.float64)
return scores

=== the question read with each label
== minipeft.few_shot:label_scores
scores = np.empty((len(questions), len(labels)))
cache = new_cache(len(model.stack.layers))
with no_grad():
    if before:
        model.hidden(_row(before), cache=cache)
    n = _length(cache)
    for i, q in enumerate(questions):
        for j, label in enumerate(labels):
            ids = _row([*q, *label])
            logits = to_numpy(model(ids, cache=cache).data).astype(np.float64)
            scores[i, j] = continuation_scores(logits, ids, len(q))[0]
            _rewind(cache, n)
return scores

=== batch by lists
== minipeft.few_shot:pattern_batch
ids, labels, mask = [], [], []
for text, label in examples:
    q, a = list(encode(pattern.question(text))), list(encode(pattern.labels[label]))
    ids.append(q + a[:-1])
    labels.append([-100] * (len(q) - 1) + a)
T = max(map(len, ids))
mask = [[1] * len(row) + [0] * (T - len(row)) for row in ids]
ids = [row + [5] * (T - len(row)) for row in ids]
labels = [row + [-100] * (T - len(row)) for row in labels]
return {"labels": np.array(labels), "mask": np.array(mask, dtype=bool), "ids": np.array(ids)}

=== Welch by hand
== minipeft.lab.framework.welch:welch_statistic
x, y = [float(v) for v in a], [float(v) for v in b]
n, m = len(x), len(y)
if n < 2 or m < 2:
    raise ValueError("too few")
mx, my = sum(x) / n, sum(y) / m
u = sum((v - mx) ** 2 for v in x) / (n - 1) / n
v = sum((w - my) ** 2 for w in y) / (m - 1) / m
if u == 0 and v == 0:
    return (float("nan") if mx == my else float("inf") * (1 if mx > my else -1)), n + m - 2.0
return (mx - my) / (u + v) ** 0.5, (u + v) ** 2 / (u * u / (n - 1) + v * v / (m - 1))

=== Welch by np.std
== minipeft.lab.framework.welch:welch_statistic
x, y = np.array(a, dtype=float), np.array(b, dtype=float)
if x.size < 2 or y.size < 2:
    raise ValueError("two values at least")
ex, ey = np.std(x, ddof=1) / np.sqrt(x.size), np.std(y, ddof=1) / np.sqrt(y.size)
with np.errstate(all="ignore"):
    t = (np.mean(x) - np.mean(y)) / np.hypot(ex, ey)
    nu = (ex**2 + ey**2) ** 2 / (ex**4 / (x.size - 1) + ey**4 / (y.size - 1))
return t, (x.size + y.size - 2.0 if np.isnan(nu) else nu)

=== Holm by a loop
== minipeft.lab.framework.welch:holm
m = len(ps)
out, largest = [0.0] * m, 0.0
for rank, i in enumerate(sorted(range(m), key=lambda i: ps[i])):
    largest = max(largest, min(1.0, (m - rank) * ps[i]))
    out[i] = largest
return np.array(out)

=== a column more
== minipeft.few_shot:pattern_batch
- max(len(ids) for ids, _ in rows) - 1
+ max(len(ids) for ids, _ in rows)
- ids[i, :n] = row[:-1]
- mask[i, :n] = True
+ ids[i, : n + 1] = row
+ mask[i, : n + 1] = True

=== the last token, not attended
== minipeft.few_shot:pattern_batch
- max(len(ids) for ids, _ in rows) - 1
+ max(len(ids) for ids, _ in rows)
- ids[i, :n] = row[:-1]
+ ids[i, : n + 1] = row

=== three columns more, ids of padding one
== minipeft.few_shot:pattern_batch
- max(len(ids) for ids, _ in rows) - 1
+ max(len(ids) for ids, _ in rows) + 2
- np.zeros((len(rows), T), dtype=np.int64)
+ np.ones((len(rows), T), dtype=np.int64)
""")
