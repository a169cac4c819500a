"""Write the golden files: what transformers computes in float64 from the weights and inputs of tests/reference.py.

`python tests/golden/make.py` writes them all (minilm.json only where `minipeft fetch minilm` has been run).
Needs PyTorch and transformers; tests/parity checks that the files are what this script would write.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import GOLDEN, MASK, REFERENCES, uniform, weights

from minipeft.files.cache import cached

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

MINILM = {  # "a man is eating food." and "the girl is carrying a baby.", as WordPiece makes them
    "ids": [[101, 1037, 2158, 2003, 5983, 2833, 1012, 102, 0], [101, 1996, 2611, 2003, 4755, 1037, 3336, 1012, 102]],
    "mask": [[1, 1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]],
}


def their_model(name):
    """The model of transformers with the seeded weights, in float64."""
    reference = REFERENCES[name]
    model_class = getattr(transformers, reference.theirs)
    model = model_class(model_class.config_class(**reference.settings)).double().eval()
    state = model.state_dict()
    shared = {}  # a tied tensor stands under several names, and is drawn under the first
    for key, x in state.items():
        first = shared.setdefault(x.data_ptr(), key)
        if x.is_floating_point():
            x.copy_(torch.tensor(weights(first, tuple(x.shape))))
    return model, {key: tuple(state[key].shape) for key in shared.values() if state[key].is_floating_point()}


def their_inputs(batch):
    names = {"ids": "input_ids", "mask": "attention_mask", "token_types": "token_type_ids", "images": "pixel_values"}
    names["target_ids"] = "decoder_input_ids"
    tensors = {theirs: torch.tensor(batch[ours]) for ours, theirs in names.items() if ours in batch}
    if "pixel_values" in tensors:
        tensors["pixel_values"] = tensors["pixel_values"].double()
    return tensors


def their_output(model, batch):
    """Logits, or the last hidden states of a model without a head."""
    out = model(**their_inputs(batch))
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def their_loss(output, labels):
    return torch.nn.functional.cross_entropy(output.flatten(0, -2), torch.tensor(labels).flatten())


def made(name):
    """The content of one golden file."""
    reference = REFERENCES[name]
    model, shapes = their_model(name)
    output = their_output(model, reference.batch)
    gradients = {}
    result = {"transformers": transformers.__version__}
    if name != "bert":  # the bare encoder has no loss
        loss = their_loss(output, reference.batch["labels"])
        loss.backward()
        result["loss"] = short(loss.item())
        for key, p in model.named_parameters():
            if p.grad is not None:
                u = torch.tensor(uniform(f"direction of {key}", tuple(p.shape)))
                gradients[key] = short((p.grad * u).sum().item())
    real = output[torch.tensor(MASK)] if output.shape[:2] == MASK.shape else output
    result["tensors"] = {key: [shape, gradients.get(key)] for key, shape in shapes.items()}
    result["output"] = [short(v) for v in real.detach().flatten().tolist()]
    return result


def made_minilm(folder):
    """Some hidden states of the real MiniLM: of the first and last real token of two sentences, sixteen each."""
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).double().eval()
    ids, mask = torch.tensor(MINILM["ids"]), torch.tensor(MINILM["mask"])
    x = model(input_ids=ids, attention_mask=mask).last_hidden_state.detach()
    values = {f"{row},{t}": [short(v) for v in x[row, t, ::24].tolist()] for row, t in ((0, 0), (0, 7), (1, 0), (1, 8))}
    return {"transformers": transformers.__version__, **MINILM, "every": 24, "hidden": values}


def short(value):
    return float(f"{value:.8g}")


def main():
    files = {name: made(name) for name in REFERENCES}
    folder = cached("minilm")
    if folder is not None:
        files["minilm"] = made_minilm(folder)
    for name, content in files.items():
        text = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in content.items())
        (GOLDEN / f"{name}.json").write_text("{\n" + text + "\n}\n", encoding="utf-8")
        print(name, (GOLDEN / f"{name}.json").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
