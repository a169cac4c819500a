"""Parameter-efficient fine-tuning: one method, one file."""

from minipeft.peft.adapters import AdapterConfig
from minipeft.peft.bitfit import BitFitConfig
from minipeft.peft.combine import add_weighted_adapter
from minipeft.peft.config import PeftConfig, PeftError
from minipeft.peft.fact import FacTConfig
from minipeft.peft.huggingface import from_huggingface, to_huggingface
from minipeft.peft.ia3 import IA3Config
from minipeft.peft.intrinsic import IntrinsicConfig, IntrinsicDimension, intrinsic_dimension
from minipeft.peft.layernorm import LayerNormConfig
from minipeft.peft.lnlora import LNLoraConfig
from minipeft.peft.lora import LoraConfig
from minipeft.peft.merge import MergeReport
from minipeft.peft.mixed import mixed_adapters
from minipeft.peft.model import PeftModel, get_peft_model
from minipeft.peft.prefix import PrefixTuningConfig
from minipeft.peft.prompt import PromptTuningConfig
from minipeft.peft.saving import read_config
from minipeft.peft.top_layers import TopLayersConfig

__all__ = [
    "AdapterConfig",
    "BitFitConfig",
    "FacTConfig",
    "IA3Config",
    "IntrinsicConfig",
    "IntrinsicDimension",
    "LNLoraConfig",
    "LayerNormConfig",
    "LoraConfig",
    "MergeReport",
    "PeftConfig",
    "PeftError",
    "PeftModel",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "TopLayersConfig",
    "add_weighted_adapter",
    "from_huggingface",
    "get_peft_model",
    "intrinsic_dimension",
    "mixed_adapters",
    "read_config",
    "to_huggingface",
]
