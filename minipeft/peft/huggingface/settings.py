"""adapter_config.json of Hugging Face PEFT: the options that are read, those that cannot matter, and the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from minipeft.files.config import dataclass_from_json, is_off, shown
from minipeft.peft.config import PeftError
from minipeft.peft.select import ends_in

WITHOUT_EFFECT = {
    *("auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    # The tensors say which modules are adapted, and the base model how they are stored.
    *("target_modules", "exclude_modules", "feedforward_modules", "layers_to_transform", "layers_pattern"),
    *("fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config", "init_ia3_weights"),
    # How the first values were found; whether that changed the base is said by init_lora_weights.
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    # Of prompts and prefixes: sizes that the tensor has, and where its first values came from.
    *("token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers", "encoder_hidden_size"),
    *("prefix_projection", "init_weights", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path"),
    "tokenizer_kwargs",
}
BIASES = ("none", "all", "lora_only")
# The others (PiSSA and its like) subtract the first B A from the base weights, which the file does not hold.
KEEP_THE_BASE = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterSettings:
    """The options that are read, with PEFT's names, types and defaults."""

    peft_type: str
    task_type: str | None = None
    modules_to_save: list[str] | None = None
    num_virtual_tokens: int | None = None
    r: int | None = None
    lora_alpha: float = 8
    lora_dropout: float | None = 0.0
    bias: str = "none"
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = field(default_factory=dict)
    alpha_pattern: dict[str, float] | None = field(default_factory=dict)
    init_lora_weights: bool | str | None = True
    ensure_weight_tying: bool = False

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any], path: Path, known: Mapping[str, Any]) -> AdapterSettings:
        """Return the options in the object of an adapter_config.json.

        known: the values of peft_type that are implemented.
        Raises FileError or PeftError, with the name of the option, for a wrong type, a value that is not implemented,
        or an option that is not known and not off.
        """
        kind = mapping.get("peft_type")
        if not isinstance(kind, str) or kind not in known:
            raise PeftError(f"{path}: peft_type {shown(kind)} is not implemented; expected one of {sorted(known)}")
        own = {f.name for f in fields(cls)}
        for name, value in mapping.items():
            if name not in own | WITHOUT_EFFECT and not is_off(value):
                raise PeftError(
                    f"{path}: {name} is {shown(value)}; only its absence is implemented. If it cannot change what the "
                    "adapter computes, remove it from the file"
                )
        settings = dataclass_from_json(cls, {name: value for name, value in mapping.items() if name in own}, path)
        settings.check(path)
        return settings

    def check(self, path: Path) -> None:
        """Raise PeftError for a value that is not implemented or makes no adapter."""
        if self.bias not in BIASES:
            raise PeftError(f"{path}: bias is {self.bias!r}; expected one of {BIASES}")
        if self.lora_dropout is not None and not 0 <= self.lora_dropout < 1:
            raise PeftError(f"{path}: lora_dropout is {self.lora_dropout}; expected a number from 0 up to 1")
        if self.init_lora_weights not in KEEP_THE_BASE:
            raise PeftError(
                f"{path}: init_lora_weights is {self.init_lora_weights!r}, which also changed the base weights; "
                "convert the adapter to a plain LoRA there (path_initial_model_for_weight_conversion when saving)"
            )
        for name in ("rank_pattern", "alpha_pattern"):
            for pattern in getattr(self, name) or {}:
                try:
                    ends_in(pattern, "")
                except PeftError as error:
                    raise PeftError(f"{path}: {name}: {error}") from None

    def rank(self, module: str) -> int | None:
        """Return the rank that the file claims for a module, None if it claims none."""
        return _first(self.rank_pattern, module, self.r)

    def alpha(self, module: str) -> float:
        """Return lora_alpha of a module."""
        return _first(self.alpha_pattern, module, self.lora_alpha)


def _first(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first pattern that the module's name ends in, or the default."""
    return next((value for pattern, value in (patterns or {}).items() if ends_in(pattern, module)), default)
