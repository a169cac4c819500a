"""Parameter-efficient fine-tuning: one method, one file."""

from minipeft.peft.adapters import AdapterConfig
from minipeft.peft.base import PeftConfig, PeftError, PeftModel, get_peft_model
from minipeft.peft.bitfit import BitFitConfig
from minipeft.peft.lora import LoraConfig
from minipeft.peft.prefix import PrefixTuningConfig
from minipeft.peft.prompt import PromptTuningConfig
from minipeft.peft.top_layers import TopLayersConfig

__all__ = [
    "AdapterConfig",
    "BitFitConfig",
    "LoraConfig",
    "PeftConfig",
    "PeftError",
    "PeftModel",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "TopLayersConfig",
    "get_peft_model",
]
