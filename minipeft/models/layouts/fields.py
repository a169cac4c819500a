"""The fields of a Hugging Face config.json: those that change no output, those that must have one value.

Sources: the configuration classes of transformers 4 and 5, and the files of well-known models.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minipeft.files.config import FLOAT32_MAX, is_off, shown, spelled, typed
from minipeft.files.errors import FileError

NO_EFFECT = {  # on the outputs of a model in evaluation mode, in exact arithmetic
    # where the file came from, and how it is loaded and run
    *("architectures", "model_type", "transformers_version", "_name_or_path", "_commit_hash", "name_or_path"),
    *("torch_dtype", "dtype", "attn_implementation", "_attn_implementation", "_attn_implementation_autoset"),
    *("_flash_attn_2_enabled", "torchscript", "use_bfloat16", "tf_legacy_loss", "transformers.js_config"),
    *("is_llama_config", "unsloth_version", "unsloth_fixed", "use_cache", "gradient_checkpointing", "output_past"),
    *("chunk_size_feed_forward", "pretraining_tp", "reorder_and_upcast_attn", "n_ctx"),
    *("return_dict", "output_hidden_states", "output_attentions", "output_scores", "return_dict_in_generate"),
    # training
    *("initializer_range", "initializer_factor", "init_std", "dropout", "attention_dropout", "activation_dropout"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "classif_dropout", "problem_type"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout", "encoder_layerdrop", "decoder_layerdrop"),
    # tokens, generation and tasks
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "tokenizer_class"),
    *("forced_bos_token_id", "forced_eos_token_id", "force_bos_token_to_be_generated", "prefix", "max_length"),
    *("min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature"),
    *("top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "bad_words_ids"),
    *("encoder_no_repeat_ngram_size", "num_return_sequences", "remove_invalid_values", "suppress_tokens"),
    *("begin_suppress_tokens", "exponential_decay_length_penalty", "task_specific_params", "finetuning_task"),
    *("id2label", "label2id", "num_labels", "_num_labels", "n_special", "predict_special_tokens"),
    # heads that are not read; the models whose head is tied ask for tie_word_embeddings
    *(
        "tie_word_embeddings",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "encoder_stride",
    ),
    *("pooler_act", "pooler_output_size", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    *("pooler_size_per_head", "pooler_type", "directionality", "replacing_rate", "tie_word_embeddings"),
}
# Factors and switches that some models have; a field that is not listed anywhere must be off.
ONLY = {
    **dict.fromkeys(
        ("logit_scale", "logits_scaling", "residual_multiplier", "embedding_multiplier", "attention_in_multiplier"),
        (1, None),
    ),
    **dict.fromkeys(("use_rope", "use_position_embeddings", "use_absolute_embeddings"), (True, None)),
}


class Unsupported(ValueError):
    """A choice in somebody's configuration that is not implemented here; the message names it."""


class Asked(dict[str, Any]):
    """The settings of a file, which note the fields that were asked for."""

    def __init__(self, settings: Mapping[str, Any]):
        super().__init__(settings)
        self.names: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.names.append(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field, or ``default`` if it is missing."""
        self.names.append(name)
        return super().get(name, default)

    def told(self, names: list[str]) -> str:
        """Return the values of ``names`` for a message."""
        return ", ".join(f"{name} = {shown(super(Asked, self).get(name))}" for name in dict.fromkeys(names))


def values_of(
    fields: Mapping[str, str | Callable[[Any], Any]], hints: Mapping[str, Any], settings: Asked, path: Path
) -> dict[str, Any]:
    """Return minipeft's settings.

    Args:
        fields: by setting, the name of the file's field, or a function of all of them.
        hints: by setting, its type.
        settings: the file's fields.
        path: the file, for messages.

    Raises:
        FileError: a field is missing, of another type or not implemented; the message names it as the file does.
    """
    values: dict[str, Any] = {}
    for setting, field in fields.items():
        start = len(settings.names)
        try:
            value = field(settings) if callable(field) else settings[field]
        except KeyError as error:
            raise FileError(f"{path}: the field {error.args[0]!r} is missing") from None
        except Unsupported as error:
            raise FileError(f"{path}: {error}") from None
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            told = settings.told(settings.names[start:])
            raise FileError(f"{path}: cannot make {setting} from {told} ({error})") from None
        asked = settings.names[start:]
        if isinstance(field, str):
            check_number(value, hints[setting], field, path, is_id=field.endswith("_id"))
        else:
            check_number(value, hints[setting], f"{setting} (from {settings.told(asked)})", path)
        values[setting] = typed(value, hints[setting])
    return values


def check_number(value: Any, hint: Any, name: str, path: Path, is_id: bool = False) -> None:
    """Raise FileError for a value of another type, a number that is not finite, or a size below 1.

    Args:
        value: the value in the file.
        hint: the type that it must have.
        name: what it is called there, for messages.
        path: the file, for messages.
        is_id: it is an id, which may be 0.
    """
    try:
        typed(value, hint)
    except TypeError:
        raise FileError(f"{path}: {name} must be {spelled(hint)}, got {shown(value)}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    least = 1 if int in (hint, *typing.get_args(hint)) and not is_id else 0
    if not least <= value <= (FLOAT32_MAX if isinstance(value, float) else math.inf):
        raise FileError(f"{path}: {name} must be a number from {least} on, got {shown(value)}")


def check_fields(settings: Asked, fixed: Mapping[str, tuple[Any, ...]], same: Mapping[str, str], path: Path) -> None:
    """Raise FileError for a field that may change the outputs and is not implemented with the value that it has.

    A field that is not known must be off, as `is_off` says: what it would change is not known either.

    Args:
        settings: all fields of the file, after those that the model is made of have been asked for.
        fixed: by field, the values that are implemented, the default first.
        same: by field, the field that it is another name of, so that both must be equal.
        path: the file, for messages.
    """
    for name, other in same.items():
        if name in settings and dict.get(settings, other) != dict.get(settings, name):
            raise FileError(f"{path}: {name} and {other} are the same size, but {settings.told([name, other])}")
    for name, accepted in {**ONLY, **fixed}.items():
        value = dict.get(settings, name, accepted[0])
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in accepted):
            known = " or ".join(map(repr, accepted))
            raise FileError(f"{path}: {name} is {shown(value)}; only {known} is implemented")
    known_names = NO_EFFECT | ONLY.keys() | fixed.keys() | same.keys() | set(settings.names)
    for name, value in settings.items():
        if name not in known_names and not is_off(value):
            raise FileError(
                f"{path}: {name} is {shown(value)}, which may change what the model computes; only its absence is "
                "implemented. If you know that it changes nothing, remove it from the file"
            )


def rope(settings: Any) -> dict[str, Any]:
    """Return the rotary settings. Newer files keep them together; in older ones only the scaling has its own place."""
    found = {name: settings.get(name) for name in ("rope_parameters", "rope_scaling")}
    for name, value in found.items():
        if not isinstance(value, (dict, type(None))):
            raise Unsupported(f"{name} must be an object, got {shown(value)}")
    place = "rope_parameters" if found["rope_parameters"] else "rope_scaling"
    inside = found[place] or {}
    kind = inside.get("rope_type", inside.get("type", "default"))
    if kind != "default":
        raise Unsupported(
            f"rope_type is {shown(kind)} in {place}; only 'default' is implemented, rotary positions without scaling"
        )
    values = {"rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    for name in values:
        outside = settings.get(name)
        values[name] = inside.get(name, values[name] if outside is None else outside)
    if values["partial_rotary_factor"] != 1.0:
        raise Unsupported(f"partial_rotary_factor is {values['partial_rotary_factor']!r}; only 1.0 is implemented")
    for name, value in inside.items():
        if name not in (*values, "rope_type", "type") and not (is_off(value) or value == 1.0):
            raise Unsupported(f"{place} has {name} = {shown(value)}; only its absence is implemented")
    theta = values["rope_theta"]
    if isinstance(theta, bool) or not isinstance(theta, (int, float)) or theta <= 0:
        raise Unsupported(f"rope_theta must be a number above 0, got {theta!r}")
    return values


def full_context(field: str) -> Callable[[Any], Any]:
    """Return a reader of the context's length that refuses attention to less than all of it."""

    def read(settings: Any) -> Any:
        window, kinds, size = settings.get("sliding_window"), settings.get("layer_types"), settings[field]
        wide = isinstance(window, int) and isinstance(size, int) and window >= size
        if not (is_off(window) or wide or settings.get("use_sliding_window") is False):
            raise Unsupported(f"sliding_window is {window!r}; only full attention is implemented")
        if not is_off(kinds) and (not isinstance(kinds, list) or any(k != "full_attention" for k in kinds)):
            raise Unsupported(f"layer_types is {kinds!r}; only 'full_attention' is implemented")
        return size

    return read


ACTIVATIONS = {
    **{"gelu": "gelu", "gelu_python": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"},
    **{"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"},
}


def activation(field: str) -> Callable[[Any], str]:
    """Return a reader of minipeft's name of the activation in ``field``."""

    def read(settings: Any) -> str:
        if settings[field] not in ACTIVATIONS:
            raise Unsupported(f"{field} is {settings[field]!r}; only {', '.join(ACTIVATIONS)} are implemented")
        return ACTIVATIONS[settings[field]]

    return read


def n_classes(settings: Any) -> Any:
    """Return how many classes the classifier has, two if the settings do not say."""
    labels = settings.get("id2label")
    if labels and not isinstance(labels, dict):
        raise Unsupported(f"id2label must be an object, got {labels!r}")
    return len(labels) if labels else settings.get("num_labels", 2)
