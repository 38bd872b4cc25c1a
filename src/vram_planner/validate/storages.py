"""Live bytes of every torch storage, op by op, without the storages: what a caching allocator would hold."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vram_planner.units import round_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# The CUDA caching allocator rounds every block to this: kMinBlockSize, c10/core/CachingDeviceAllocator.h.
_BLOCK_BYTES = 512
_OTHER = "between layers"
# A word in the name of a module's class, and what its tensors are called. The first that matches counts.
_CATEGORIES = (
    ("norm", "norms"),
    ("attention", "attention"),
    ("attn", "attention"),
    ("mixer", "attention"),
    ("deltanet", "attention"),
    ("mlp", "feed-forward"),
    ("moe", "feed-forward"),
    ("expert", "feed-forward"),
    ("feedforward", "feed-forward"),
    ("embedding", "embedding"),
    ("rotary", "embedding"),
)
_CACHE_CALLS = ("update", "update_conv_state", "update_recurrent_state", "update_indexer")


@dataclass(slots=True)
class Ledger:
    """What is alive now and what was at the peak, by category."""

    live_bytes: int = 0
    by_category: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0
    peak_by_category: dict[str, int] = field(default_factory=dict)
    peak_op: str = ""
    where: list[tuple[str, str]] = field(default_factory=list)
    _held: dict[int, tuple[int, str]] = field(default_factory=dict)

    def see(self, storage: Any, tell: Callable[[], str]) -> None:
        """A storage that an op gave back; `tell` names the op should this be the peak."""
        key = storage._cdata  # noqa: SLF001  the one name that tells storages apart, fake ones too
        if key in self._held:
            return
        n_bytes = round_up(storage.nbytes(), _BLOCK_BYTES)
        category = self.where[-1][0] if self.where else _OTHER
        self._held[key] = (n_bytes, category)
        self._add(category, n_bytes)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes
            self.peak_by_category = self.by_category.copy()
            self.peak_op = tell()
        weakref.finalize(storage, self._free, key)

    def rename(self, keys: Iterable[int], category: str) -> None:
        """These storages turned out to be something else: the cache, the weights."""
        for key in keys:
            n_bytes, old = self._held.get(key, (0, category))
            if old != category:
                self._held[key] = (n_bytes, category)
                self._add(old, -n_bytes)
                self._add(category, n_bytes)

    def rename_all(self, category: str) -> None:
        """Everything alive is this."""
        self.rename(list(self._held), category)

    def restart(self) -> None:
        """Forget the peak: it is measured from here."""
        self.peak_bytes = self.live_bytes
        self.peak_by_category = self.by_category.copy()
        self.peak_op = "at rest"

    def _free(self, key: int) -> None:
        n_bytes, category = self._held.pop(key, (0, _OTHER))
        self._add(category, -n_bytes)

    def _add(self, category: str, n_bytes: int) -> None:
        self.live_bytes += n_bytes
        self.by_category[category] = self.by_category.get(category, 0) + n_bytes


def dispatch_mode(torch: Any, ledger: Ledger) -> Any:
    """A torch dispatch mode that enters every result of every op into the ledger."""
    mode: Any = import_module("torch.utils._python_dispatch").TorchDispatchMode
    leaves = import_module("torch.utils._pytree").tree_leaves

    def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG001
        out = func(*args, **(kwargs or {}))
        for leaf in leaves(out):
            if isinstance(leaf, torch.Tensor):
                ledger.see(leaf.untyped_storage(), partial(_told, func, leaf, ledger))
        return out

    return type("LiveBytes", (mode,), {"__torch_dispatch__": dispatch})()


def _told(func: Any, tensor: Any, ledger: Ledger) -> str:
    place = f" in {ledger.where[-1][1]}" if ledger.where else ""
    return f"{func} -> {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}{place}"


@contextmanager
def named_places(model: Any, ledger: Ledger) -> Iterator[None]:
    """While open, the ledger knows which module an op belongs to."""
    handles = []
    for name, module in model.named_modules():
        category = _category(name, module)
        if category is not None:
            place = (category, name)
            handles.append(module.register_forward_pre_hook(_enter(ledger, place)))
            handles.append(module.register_forward_hook(_leave(ledger), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _category(name: str, module: Any) -> str | None:
    if name == "lm_head":
        return "head"
    kind = type(module).__name__.lower()
    return next((category for word, category in _CATEGORIES if word in kind), None)


def _enter(ledger: Ledger, place: tuple[str, str]) -> Callable[..., None]:
    def enter(*_: Any) -> None:
        ledger.where.append(place)

    return enter


def _leave(ledger: Ledger) -> Callable[..., None]:
    def leave(*_: Any) -> None:
        ledger.where.pop()

    return leave


@contextmanager
def named_cache(cache_class: Any, ledger: Ledger, keys_of: Callable[[Any], Iterable[int]]) -> Iterator[None]:
    """While open, what a cache's `update` makes and keeps is called the cache; `keys_of` finds it in one layer."""
    originals = {name: getattr(cache_class, name) for name in _CACHE_CALLS if hasattr(cache_class, name)}

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            ledger.where.append(("kv_cache", "the cache"))
            try:
                out = original(self, *args, **kwargs)
            finally:
                ledger.where.pop()
            number = next((item for item in (*args, *kwargs.values()) if isinstance(item, int)), None)
            ledger.rename(keys_of(self if number is None else self.layers[number]), "kv_cache")
            return out

        return call

    for name, original in originals.items():
        setattr(cache_class, name, wrap(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(cache_class, name, original)
