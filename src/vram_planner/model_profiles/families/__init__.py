"""
The register of model families: `model_type` of a config.json to the file that knows it.

Each file has one function, `build(config) -> Architecture`. Only the file that is needed is imported.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Final

from vram_planner.architecture.model import Vision
from vram_planner.errors import ConfigError, UnsupportedArchitectureError

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.config import Config

FAMILIES: Final[dict[str, str]] = {
    "afmoe": "afmoe",
    "apertus": "apertus",
    "arcee": "arcee",
    "aria_text": "aria_text",
    "axk1": "axk1",
    "axk2": "axk2",
    "aya_vision": "aya_vision",
    "baichuan": "baichuan",
    "bailing_hybrid": "bailing_hybrid",
    "bamba": "bamba",
    "bart": "seq2seq_decoder",
    "beam": "beam",
    "bigbird_pegasus": "seq2seq_decoder",
    "biogpt": "biogpt",
    "bitnet": "bitnet",
    "blenderbot": "seq2seq_decoder",
    "blenderbot-small": "seq2seq_decoder",
    "bloom": "bloom",
    "blt": "blt",
    "chatglm": "chatglm",
    "codegen": "codegen",
    "cohere": "cohere",
    "cohere2": "cohere2",
    "cohere2_moe": "cohere2_moe",
    "cohere_compass_text": "cohere_compass_text",
    "cpmant": "cpmant",
    "ctrl": "ctrl",
    "cwm": "cwm",
    "dbrx": "dbrx",
    "deepseek": "deepseek",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "deepseek_v32": "deepseek_v32",
    "deepseek_v4": "deepseek_v4",
    "deepseek_vl_v2": "deepseek_vl_v2",
    "diffllama": "diffllama",
    "doge": "doge",
    "dots1": "dots1",
    "dots3_note": "dots3_note",
    "dots3_note_text": "dots3_note_text",
    "eagle3": "eagle3",
    "emu3": "emu3",
    "emu3_text_model": "emu3_text_model",
    "ernie4_5": "ernie4_5",
    "ernie4_5_moe": "ernie4_5_moe",
    "ernie4_5_vl_moe": "ernie4_5_vl_moe",
    "exaone": "exaone",
    "exaone4": "exaone4",
    "exaone_moe": "exaone_moe",
    "falcon": "falcon",
    "falcon_h1": "falcon_h1",
    "falcon_mamba": "mamba",
    "flex_olmo": "flex_olmo",
    "flint": "flint",
    "fuyu": "fuyu",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3_text",
    "gemma3n": "gemma3n",
    "gemma3n_text": "gemma3n_text",
    "gemma4": "gemma4",
    "gemma4_assistant": "gemma4_assistant",
    "gemma4_text": "gemma4_text",
    "gemma4_unified": "gemma4_unified",
    "gemma4_unified_assistant": "gemma4_unified_assistant",
    "gemma4_unified_text": "gemma4_unified_text",
    "git": "git",
    "glm": "glm",
    "glm4": "glm4",
    "glm46v": "glm4v",
    "glm4_moe": "glm4_moe",
    "glm4_moe_lite": "glm4_moe_lite",
    "glm4v": "glm4v",
    "glm4v_moe": "glm4v_moe",
    "glm_moe_dsa": "glm_moe_dsa",
    "got_ocr2": "got_ocr2",
    "gpt-sw3": "gpt_sw3",
    "gpt2": "gpt2",
    "gpt_bigcode": "gpt_bigcode",
    "gpt_neo": "gpt_neo",
    "gpt_neox": "gpt_neox",
    "gpt_neox_japanese": "gpt_neox_japanese",
    "gpt_oss": "gpt_oss",
    "gptj": "gptj",
    "granite": "granite",
    "granite_swa": "granite_swa",
    "granitemoe": "granitemoe",
    "granitemoe_swa": "granitemoe_swa",
    "granitemoehybrid": "granitemoehybrid",
    "granitemoeshared": "granitemoeshared",
    "grok": "grok",
    "helium": "helium",
    "hrm_text": "hrm_text",
    "hunyuan_v1_dense": "hunyuan_v1_dense",
    "hunyuan_v1_moe": "hunyuan_v1_moe",
    "hy_v3": "hy_v3",
    "hy_v4": "hy_v4",
    "hyperclovax": "hyperclovax",
    "idefics3": "idefics3",
    "inkling2_text": "inkling2_text",
    "inkling_text": "inkling_text",
    "internlm": "internlm",
    "internlm2": "internlm2",
    "internlm3": "internlm3",
    "internvl": "internvl",
    "internvl_chat": "internvl_chat",
    "iquestcoder": "iquestcoder",
    "jais2": "jais2",
    "jamba": "jamba",
    "jetmoe": "jetmoe",
    "kimi_k2": "deepseek_v3",  # DeepSeek-V3's module under another name
    "kimi_k25": "kimi_k25",
    "kimi_k3": "kimi_k3",
    "kimi_linear": "kimi_linear",
    "kolibri1": "kolibri1",
    "laguna": "laguna",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2_moe",
    "lfm3": "lfm3",
    "llama": "llama",
    "llama4": "llama4",
    "llama4_text": "llama4_text",
    "llava": "llava",
    "llava_next": "llava_next",
    "llava_onevision": "llava_onevision",
    "longcat_flash": "longcat_flash",
    "mamba": "mamba",
    "mamba2": "mamba2",
    "marian": "seq2seq_decoder",
    "mbart": "seq2seq_decoder",
    "mellum": "mellum",
    "mimo": "mimo",
    "mimo_v2_flash": "mimo_v2_flash",
    "minicpm": "minicpm",
    "minicpm3": "minicpm3",
    "minimax": "minimax",
    "minimax_m1": "minimax",
    "minimax_m2": "minimax_m2",
    "minimax_m3": "minimax_m3_vl_text",
    "minimax_m3_vl": "minimax_m3_vl",
    "minimax_m3_vl_text": "minimax_m3_vl_text",
    "minimax_text_01": "minimax",
    "ministral": "ministral",
    "ministral3": "ministral3",
    "mistral": "mistral",
    "mistral3": "mistral3",
    "mixtral": "mixtral",
    "mllama": "mllama",
    "modernbert-decoder": "modernbert_decoder",
    "molmo": "molmo",
    "moshi": "moshi",
    "moss_transcribe_diarize": "moss_transcribe_diarize",
    "mpt": "mpt",
    "multi_modality": "multi_modality",
    "muse_glimmer": "muse_glimmer",
    "mvp": "seq2seq_decoder",
    "nanochat": "nanochat",
    "nemotron": "nemotron",
    "nemotron-nas": "nemotron_nas",
    "nemotron_h": "nemotron_h",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmo3": "olmo3",
    "olmo_hybrid": "olmo_hybrid",
    "olmoe": "olmoe",
    "openai-gpt": "openai_gpt",
    "opt": "opt",
    "orion": "orion",
    "paligemma": "paligemma",
    "pegasus": "seq2seq_decoder",
    "persimmon": "persimmon",
    "phi": "phi",
    "phi3": "phi3",
    "phi3_v": "phi3_v",
    "phi3small": "phi3small",
    "phi4_multimodal": "phi4_multimodal",
    "phimoe": "phimoe",
    "plbart": "seq2seq_decoder",
    "prophetnet": "prophetnet",
    "qwen": "qwen",
    "qwen2": "qwen2",
    "qwen2_5_omni": "qwen2_5_omni",
    "qwen2_5_omni_thinker": "qwen2_5_omni",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen2_audio": "qwen2_audio",
    "qwen2_moe": "qwen2_moe",
    "qwen2_vl": "qwen2_vl",
    "qwen3": "qwen3",
    "qwen3_5": "qwen3_5",
    "qwen3_5_moe": "qwen3_5",
    "qwen3_5_moe_text": "qwen3_5",
    "qwen3_5_text": "qwen3_5",
    "qwen3_moe": "qwen3_moe",
    "qwen3_next": "qwen3_next",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl_moe",
    "recurrent_gemma": "recurrent_gemma",
    "rwkv": "rwkv",
    "seed_oss": "seed_oss",
    "smollm3": "smollm3",
    "smolvlm": "idefics3",
    "solar_open": "solar_open",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
    "step3p7": "step3p7",
    "trocr": "seq2seq_decoder",
    "vaultgemma": "vaultgemma",
    "whisper": "seq2seq_decoder",
    "xglm": "xglm",
    "xlstm": "xlstm",
    "xverse": "xverse",
    "youtu": "youtu",
    "zamba": "zamba",
    "zamba2": "zamba2",
    "zaya": "zaya",
}

# Whose model_type is that of another family.
_GROK = frozenset({"Grok1ForCausalLM", "Grok1ModelForCausalLM"})


def build(config: Config) -> Architecture:
    """
    The architecture of a config, by the family that its `model_type` names.

    Raises UnsupportedArchitectureError for a family that is not in the register and ConfigError for a
    config that names none.
    """
    model_type = model_type_of(config)
    if any("Eagle3" in name for name in config.texts("architectures", default=())):
        model_type = "eagle3"  # a draft head says that it is one by its class alone
    module = FAMILIES.get(model_type)
    if module is None:
        raise _unsupported(model_type)
    family = import_module(f"{__name__}.{module}")
    architecture: Architecture = family.build(config)
    if not architecture.towers or not isinstance(config.raw("vision_config"), dict):
        return architecture
    return replace(architecture, vision=_vision(config.sub("vision_config"), model_type))


def _vision(config: Config, family: str) -> Vision:
    """The sizes that a vision_config names: its own words, for engines size their reserve by them."""

    def size(key: str) -> int | None:
        return None if config.raw(key) is None else config.integer(key)

    return Vision(
        family=family, layers=size("num_hidden_layers"), depth=size("depth"), hidden=size("hidden_size")
    )


def _unsupported(model_type: str) -> UnsupportedArchitectureError:
    import difflib  # noqa: PLC0415  only for mistakes

    from vram_planner.model_profiles.families.refused import REFUSED  # noqa: PLC0415  only for mistakes

    if model_type in REFUSED:
        return UnsupportedArchitectureError(
            f"the model family {model_type!r} is not planned: {REFUSED[model_type]}",
            hint="this program plans models that generate text token by token: give one of those",
        )
    near = difflib.get_close_matches(model_type[:60], FAMILIES, n=3, cutoff=0.5)
    known = f"the nearest that we know: {', '.join(near)}; " if near else ""
    return UnsupportedArchitectureError(
        f"the model family {model_type[:60]!r} is not supported",
        hint=f"{known}a new family is one small file: docs/how-to/add-a-model-family.md",
    )


def model_type_of(config: Config) -> str:
    """`model_type`, or what the class in `architectures` stands for: Grok 2 has "git" as its model_type."""
    classes = config.texts("architectures", default=())
    if config.raw("model_type") is not None and not (classes and classes[0] in _GROK):
        return config.text("model_type")
    if not classes:
        raise ConfigError(
            "the config has neither model_type nor architectures",
            hint="is it the config.json of a language model? Add its 'model_type'",
        )
    from vram_planner.model_profiles.families.classes import CLASSES  # noqa: PLC0415  rarely needed

    return CLASSES.get(classes[0], classes[0])
