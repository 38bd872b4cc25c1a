"""What `generate` does, pass by pass, on any torch device: the same code drives the shadow and the live run."""

from __future__ import annotations

import gc
from inspect import signature
from typing import Any

_CONFIG_EXTRAS = ("quantization_config", "auto_map", "torch_dtype", "dtype")
_UNKNOWN = "Unrecognized configuration"
_DEPTH = 6


def make_config(transformers: Any, values: dict[str, Any]) -> Any:
    """A transformers configuration from the fields of a config.json."""
    fields = {key: value for key, value in values.items() if key not in _CONFIG_EXTRAS}
    return transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)


def build_model(transformers: Any, config: Any, *, dtype: Any, attn: str) -> Any:
    """The causal model of a configuration with random weights, or the image-and-text one around it."""
    options = {"dtype": dtype, "attn_implementation": attn}
    try:
        model = transformers.AutoModelForCausalLM.from_config(config, **options)
    except ValueError as error:
        if _UNKNOWN not in str(error):
            raise
        model = transformers.AutoModelForImageTextToText.from_config(config, **options)
    return model.eval()


def build_spread(
    torch: Any, transformers: Any, config: Any, *, dtype: Any, attn: str, max_memory: dict[int | str, int]
) -> Any:
    """
    The same with random weights dealt out as from_pretrained deals out stored ones: device_map="auto" within `max_memory`.

    A model without any stored tensor is made where its layers go. Tensors that others are tied to are given, for
    transformers 5 takes a checkpoint with neither of a pair as one where they are not tied.
    """
    with torch.device("meta"):
        bare = build_model(transformers, config, dtype=dtype, attn=attn)
    named = dict(bare.named_parameters())
    given = {
        name: torch.empty(named[name].shape, dtype=dtype).normal_(std=0.02)
        for name in sorted(set(bare.all_tied_weights_keys.values()))
        if name in named
    }
    model = type(bare).from_pretrained(
        None,
        config=config,
        state_dict=given,
        dtype=dtype,
        attn_implementation=attn,
        device_map="auto",
        max_memory=max_memory,
    )
    return model.eval()


def layer_devices(torch: Any, model: Any) -> list[str]:
    """Where each decoder layer's weights lie, in order; "meta" for what was left to the CPU or the disk."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return [str(next(layer.parameters()).device) for layer in module]
    return []


class Generation:
    """One batch through a model: the prompt, single tokens, and a fast way to a full cache."""

    def __init__(self, torch: Any, model: Any, *, batch: int, device: str) -> None:
        self._torch, self._model = torch, model
        self._batch, self._device = batch, device
        parameters = signature(model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in parameters else "past_key_values"
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self.cache: Any = None

    def forward(self, n_tokens: int) -> Any:
        """Tokens through the model; the cache grows; the last logits come back."""
        ids = self._torch.zeros(self._batch, n_tokens, dtype=self._torch.long, device=self._device)
        past = {} if self.cache is None else {self._cache_name: self.cache}
        out = self._model(input_ids=ids, use_cache=True, **past, **self._options)
        found = getattr(out, "past_key_values", None)
        self.cache = getattr(out, "cache_params", None) if found is None else found
        return out.logits

    def fill(self, n_tokens: int, chunk: int) -> None:
        """Grow the cache by `n_tokens`, `chunk` at a time."""
        while n_tokens > 0:
            step = min(n_tokens, chunk)
            self.forward(step)
            n_tokens -= step

    def sample(self, logits: Any) -> Any:
        """As `generate` samples: the last logits in float32, softmax beside them."""
        scores = logits[:, -1, :].to(copy=True, dtype=self._torch.float32)
        return self._torch.nn.functional.softmax(scores, dim=-1).argmax(dim=-1)

    def drop(self) -> None:
        """Let the cache go."""
        self.cache = None
        gc.collect()


def storages_of(torch: Any, thing: Any) -> dict[int, Any]:
    """Every distinct storage that an object holds, modules' parameters and configurations left out."""
    found: dict[int, Any] = {}
    _walk(torch, thing, found, 0)
    return found


def bytes_held(torch: Any, thing: Any) -> int:
    """Bytes of the distinct storages that an object holds; views that pin a larger storage count in full."""
    return sum(storage.nbytes() for storage in storages_of(torch, thing).values())


def bytes_held_by_card(torch: Any, thing: Any, cards: int) -> list[int]:
    """The same for each of the first CUDA devices."""
    found = [0] * cards
    for storage in storages_of(torch, thing).values():
        if storage.device.type == "cuda":
            found[storage.device.index or 0] += storage.nbytes()
    return found


def module_bytes(module: Any) -> int:
    """Bytes of the distinct storages of a module's parameters and buffers."""
    found = {}
    for tensor in (*module.parameters(), *module.buffers()):
        storage = tensor.untyped_storage()
        found[storage.data_ptr() or id(storage)] = storage.nbytes()
    return sum(found.values())


def _walk(torch: Any, thing: Any, found: dict[int, Any], depth: int) -> None:
    if isinstance(thing, torch.Tensor):
        storage = thing.untyped_storage()
        found[storage._cdata] = storage  # noqa: SLF001  the one name that tells storages apart, fake ones too
    elif isinstance(thing, list | tuple):
        for item in thing:
            _walk(torch, item, found, depth + 1)
    elif isinstance(thing, dict):
        for item in thing.values():
            _walk(torch, item, found, depth + 1)
    elif depth < _DEPTH and hasattr(thing, "__dict__") and not _left_out(torch, thing):
        for item in vars(thing).values():
            _walk(torch, item, found, depth + 1)


def _left_out(torch: Any, thing: Any) -> bool:
    return isinstance(thing, torch.nn.Module) or "Config" in type(thing).__name__
