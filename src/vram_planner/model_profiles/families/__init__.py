"""
The register of model families: `model_type` of a config.json to the file that knows it.

Each file has one function, `build(config) -> Architecture`. Only the file that is needed is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from vram_planner.errors import ConfigError, UnsupportedArchitectureError

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

FAMILIES: Final[dict[str, str]] = {
    "bloom": "bloom",
    "cohere": "cohere",
    "cohere2": "cohere2",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "dots1": "dots1",
    "ernie4_5": "ernie4_5",
    "ernie4_5_moe": "ernie4_5_moe",
    "exaone4": "exaone4",
    "falcon": "falcon",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3_text",
    "glm": "glm",
    "glm4": "glm4",
    "glm4_moe": "glm4_moe",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "gpt_oss": "gpt_oss",
    "granite": "granite",
    "kimi_k2": "deepseek_v3",  # DeepSeek-V3's module under another name
    "llama": "llama",
    "minimax_m2": "minimax_m2",
    "mistral": "mistral",
    "mistral3": "mistral3",
    "mixtral": "mixtral",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmo3": "olmo3",
    "olmoe": "olmoe",
    "opt": "opt",
    "phi": "phi",
    "phi3": "phi3",
    "phimoe": "phimoe",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "seed_oss": "seed_oss",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
# Where a config names only its class.
_CLASSES: Final[dict[str, str]] = {
    "BloomForCausalLM": "bloom",
    "Cohere2ForCausalLM": "cohere2",
    "CohereForCausalLM": "cohere",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "Dots1ForCausalLM": "dots1",
    "Ernie4_5ForCausalLM": "ernie4_5",
    "Ernie4_5_MoeForCausalLM": "ernie4_5_moe",
    "Exaone4ForCausalLM": "exaone4",
    "FalconForCausalLM": "falcon",
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gpt_neox",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "Gemma3ForConditionalGeneration": "gemma3",
    "GemmaForCausalLM": "gemma",
    "Glm4ForCausalLM": "glm4",
    "Glm4MoeForCausalLM": "glm4_moe",
    "GlmForCausalLM": "glm",
    "GptOssForCausalLM": "gpt_oss",
    "GraniteForCausalLM": "granite",
    "LlamaForCausalLM": "llama",
    "MiniMaxM2ForCausalLM": "minimax_m2",
    "Mistral3ForConditionalGeneration": "mistral3",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "OPTForCausalLM": "opt",
    "Olmo2ForCausalLM": "olmo2",
    "Olmo3ForCausalLM": "olmo3",
    "OlmoForCausalLM": "olmo",
    "OlmoeForCausalLM": "olmoe",
    "Phi3ForCausalLM": "phi3",
    "PhiForCausalLM": "phi",
    "PhiMoEForCausalLM": "phimoe",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "SeedOssForCausalLM": "seed_oss",
    "SmolLM3ForCausalLM": "smollm3",
    "StableLmForCausalLM": "stablelm",
    "Starcoder2ForCausalLM": "starcoder2",
}


def build(config: Config) -> Architecture:
    """
    The architecture of a config, by the family that its `model_type` names.

    Raises UnsupportedArchitectureError for a family that is not in the register and ConfigError for a
    config that names none.
    """
    model_type = model_type_of(config)
    module = FAMILIES.get(model_type)
    if module is None:
        import difflib  # noqa: PLC0415  only for mistakes

        near = difflib.get_close_matches(model_type[:60], FAMILIES, n=3, cutoff=0.5)
        known = f"the nearest that we know: {', '.join(near)}; " if near else ""
        raise UnsupportedArchitectureError(
            f"the model family {model_type[:60]!r} is not supported",
            hint=f"{known}a new family is one small file: docs/how-to/add-a-model-family.md",
        )
    family = import_module(f"{__name__}.{module}")
    architecture: Architecture = family.build(config)
    return architecture


def model_type_of(config: Config) -> str:
    """`model_type`, or what the class in `architectures` stands for."""
    if config.raw("model_type") is not None:
        return config.text("model_type")
    classes = config.texts("architectures", default=())
    if not classes:
        raise ConfigError(
            "the config has neither model_type nor architectures",
            hint="is it the config.json of a language model? Add its 'model_type'",
        )
    return _CLASSES.get(classes[0], classes[0])
