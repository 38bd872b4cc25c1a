"""
The process that asks llama.cpp's library: a script of its own, with nothing imported but the standard library.

`no_alloc` makes llama.cpp lay out tensors, cache and compute graph as for a run, and allocate none of it;
`llama_get_memory_breakdown` then says the bytes of every kind of buffer. Only the header of the file is read.
Source: https://github.com/ggml-org/llama.cpp/blob/b11434/include/llama.h and src/llama-ext.h.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, ClassVar

_U32, _I32, _F32, _BOOL, _POINTER, _SIZE = (
    ctypes.c_uint32,
    ctypes.c_int32,
    ctypes.c_float,
    ctypes.c_bool,
    ctypes.c_void_p,
    ctypes.c_size_t,
)
# A C++ function: its name as GCC and Clang write it.
_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
_KINDS = ("model", "context", "compute")
_MOST_BUFFERS = 4096
_KEPT_LINES = 8
_WARNING = 3  # GGML_LOG_LEVEL_WARN
_MEMORY_UNIT = 1024  # Linux counts ru_maxrss in KiB
_PACKAGES = {"llama_cpp": "llama-cpp-python", "xllamacpp": "xllamacpp"}


class ModelParams(ctypes.Structure):
    """llama_model_params of llama.cpp b11434."""

    _fields_: ClassVar = [
        ("devices", _POINTER),
        ("tensor_buft_overrides", _POINTER),
        ("n_gpu_layers", _I32),
        ("split_mode", _I32),
        ("load_mode", _I32),
        ("lazy_mode", _I32),
        ("main_gpu", _I32),
        ("tensor_split", _POINTER),
        ("progress_callback", _POINTER),
        ("progress_callback_user_data", _POINTER),
        ("kv_overrides", _POINTER),
        ("vocab_only", _BOOL),
        ("check_tensors", _BOOL),
        ("use_extra_bufts", _BOOL),
        ("no_host", _BOOL),
        ("no_alloc", _BOOL),
        ("load_mtp", _BOOL),
        ("room", ctypes.c_uint8 * 256),  # a later release may return more; it may not write beyond
    ]


def _context_params(name: str, n_pointers: int) -> type[ctypes.Structure]:
    """llama_context_params with so many pointers between the cache's types and the switches."""
    fields = [
        *((name, _U32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")),
        *((name, _U32) for name in ("n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq")),
        *((name, _I32) for name in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type")),
        *((name, _I32) for name in ("pooling_type", "attention_type", "flash_attn_type")),
        *((name, _F32) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor")),
        *((name, _F32) for name in ("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", _U32),
        ("defrag_thold", _F32),
        ("cb_eval", _POINTER),
        ("cb_eval_user_data", _POINTER),
        ("type_k", _I32),
        ("type_v", _I32),
        *((f"pointer_{number}", _POINTER) for number in range(n_pointers)),
        *((name, _BOOL) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload")),
        *((name, _BOOL) for name in ("swa_full", "kv_unified")),
        ("samplers", _POINTER),
        ("n_samplers", _SIZE),
        ("ctx_other", _POINTER),
        ("room", ctypes.c_uint8 * 256),
    ]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


# As of release b11434 (an abort callback and its data) and of b11549 (one pointer more).
_LAYOUTS = tuple(
    (ModelParams, _context_params(name, count)) for name, count in (("B11434", 2), ("B11549", 3))
)
# What the library's own defaults are in these structs: read in a wrong layout they come out as something else.
_MODEL_DEFAULTS: dict[str, Any] = {
    "n_gpu_layers": -1,
    "split_mode": 1,
    "main_gpu": 0,
    "tensor_split": None,
    "kv_overrides": None,
    "vocab_only": False,
    "use_extra_bufts": True,
    "no_host": False,
    "no_alloc": False,
}
_CONTEXT_DEFAULTS: dict[str, Any] = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "yarn_orig_ctx": 0,
    "type_k": 1,
    "type_v": 1,
    "embeddings": False,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
}


class _Map(ctypes.Structure):
    """libstdc++'s std::map: a header whose parent is the root."""

    _fields_: ClassVar = [
        ("compare", _SIZE),
        ("color", _SIZE),
        *((name, _POINTER) for name in ("parent", "left", "right")),
        ("count", _SIZE),
    ]


class _Node(ctypes.Structure):
    """A node of map<buffer type, {model, context, compute}>."""

    _fields_: ClassVar = [
        ("color", _SIZE),
        *((name, _POINTER) for name in ("parent", "left", "right", "buffer_type")),
        *((name, _SIZE) for name in _KINDS),
    ]


class CannotAskError(Exception):
    """The library is not what we know how to ask."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


_OTHER = "pip install -U xllamacpp, or name a newer libllama with --library"


class Library:
    """One libllama with the structs that fit it."""

    def __init__(self, path: str | None) -> None:
        self.name, self.layouts = "", _LAYOUTS
        found: Any = None
        if path is None:
            found, path = self._from_packages()
        self.path = str(path)
        try:
            self.lib: Any = found or ctypes.CDLL(self.path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise CannotAskError(f"{self.path} does not load: {error}", _OTHER) from error
        missing = [
            name
            for name in ("llama_model_load_from_file", "llama_init_from_model", _BREAKDOWN)
            if not hasattr(self.lib, name)
        ]
        if missing:
            raise CannotAskError(f"{self.path} is too old, or something else: it has no {missing[0]}", _OTHER)
        self.lines: list[str] = []
        model_params, context_params = self._structs()
        self._keep = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _POINTER)(self._log)
        self.lib.llama_log_set(self._keep, None)
        self._prepare(model_params, context_params)

    def _from_packages(self) -> tuple[Any, str]:
        """llama-cpp-python brings its structs along; xllamacpp is one extension that exports llama.cpp's names."""
        if find_spec("llama_cpp") is not None:
            package: Any = import_module("llama_cpp.llama_cpp")
            kinds = (package.llama_model_params, package.llama_context_params)
            if "no_alloc" in {name for name, *_ in kinds[0]._fields_}:
                self.layouts = (kinds,)
                self.name = _named("llama_cpp")
                return package._lib, str(package._lib._name)  # noqa: SLF001  the one library it loaded
        spec = find_spec("xllamacpp")
        for root in (spec.submodule_search_locations or ()) if spec is not None else ():
            for file in sorted(Path(root).glob("xllamacpp*.so")):
                self.name = _named("xllamacpp")
                return None, str(file)
        raise CannotAskError("no package here has a libllama that can be asked", _OTHER)

    def _structs(self) -> tuple[Any, Any]:
        """The layout in which the library's own defaults read as they are documented."""
        wrong = ""
        for kinds in self.layouts:
            functions = (self.lib.llama_model_default_params, self.lib.llama_context_default_params)
            for function, kind, known in zip(
                functions, kinds, (_MODEL_DEFAULTS, _CONTEXT_DEFAULTS), strict=True
            ):
                function.restype, function.argtypes = kind, []
                wrong = _differs(function(), known)
                if wrong:
                    break
            else:
                return kinds
        raise CannotAskError(
            f"{self.path} has structs of a release that we do not know ({wrong})",
            "pip install llama-cpp-python, which brings its own; or take a release near b11434 to b11549",
        )

    def _prepare(self, model_params: Any, context_params: Any) -> None:
        lib = self.lib
        for name, result, arguments in (
            ("llama_model_load_from_file", _POINTER, [ctypes.c_char_p, model_params]),
            ("llama_init_from_model", _POINTER, [_POINTER, context_params]),
            ("llama_model_size", ctypes.c_uint64, [_POINTER]),
            ("ggml_backend_buft_name", ctypes.c_char_p, [_POINTER]),
            (_BREAKDOWN, _POINTER, [ctypes.POINTER(_Map), _POINTER]),
            ("llama_n_ctx", _U32, [_POINTER]),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        if hasattr(lib, "ggml_backend_load_all_from_path"):  # where backends are libraries of their own
            lib.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
            lib.ggml_backend_load_all_from_path(str(Path(self.path).resolve().parent).encode())
        lib.llama_backend_init()

    def ask(self, file: str, context: dict[str, int], *, offload: bool) -> dict[str, Any]:
        """Bytes of every buffer type for this file and these context parameters."""
        lib = self.lib
        params = lib.llama_model_default_params()
        said = {"no_alloc": True, "load_mode": 0, "use_mmap": False, "use_mlock": False, "split_mode": 0}
        said |= {"use_extra_bufts": False, "load_mtp": False, "n_gpu_layers": -1 if offload else 0}
        _set(params, said)
        model = lib.llama_model_load_from_file(os.fsencode(file), params)
        if not model:
            raise CannotAskError(f"llama.cpp does not load {file}: {self._last()}", _OTHER)
        wanted = lib.llama_context_default_params()
        _set(wanted, {**context, "kv_unified": False, "swa_full": False})
        made = lib.llama_init_from_model(model, wanted)
        if not made:
            raise CannotAskError(
                f"llama.cpp makes no context: {self._last()}", "try another --ctx or --kv-dtype"
            )
        return {
            "buffers": self._breakdown(made),
            "tensor_bytes": lib.llama_model_size(model),
            "n_ctx": lib.llama_n_ctx(made),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MEMORY_UNIT,
        }

    def _breakdown(self, context: Any) -> dict[str, dict[str, int]]:
        found = _Map()
        getattr(self.lib, _BREAKDOWN)(ctypes.byref(found), context)
        if found.count > _MOST_BUFFERS:
            raise CannotAskError("the memory breakdown is not what we know", _OTHER)
        buffers: dict[str, dict[str, int]] = {}
        waiting, seen = [found.parent], 0
        while waiting:
            address = waiting.pop()
            if not address:
                continue
            seen += 1
            if seen > found.count:
                raise CannotAskError("the memory breakdown is not what we know", _OTHER)
            node = _Node.from_address(address)
            waiting += [node.left, node.right]
            name = self.lib.ggml_backend_buft_name(node.buffer_type).decode(errors="replace")
            row = buffers.setdefault(name, dict.fromkeys(_KINDS, 0))
            for kind in _KINDS:
                row[kind] += getattr(node, kind)
        return buffers

    def _log(self, level: int, text: bytes | None, _: Any) -> None:
        if level >= _WARNING and text:
            self.lines = [*self.lines, text.decode(errors="replace").strip()][-_KEPT_LINES:]

    def _last(self) -> str:
        return " / ".join(line for line in self.lines if line)[:500] or "it does not say why"


def _differs(params: Any, known: dict[str, Any]) -> str:
    """The first field that is not what it is by default."""
    for name, value in known.items():
        if hasattr(params, name) and (getattr(params, name) or 0) != (value or 0):
            return f"{name} is not {value}"
    return ""


def _named(package: str) -> str:
    with suppress(PackageNotFoundError):
        return f"{_PACKAGES[package]} {version(_PACKAGES[package])}"
    return package


def _set(params: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if hasattr(params, name):
            setattr(params, name, value)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        library = Library(request["library"])
        answer = library.ask(request["file"], request["context"], offload=request["offload"])
    except CannotAskError as error:
        return {"ok": False, "error": "refused", "message": str(error), "hint": error.hint}
    return {"ok": True, "library": library.path, "package": library.name, **answer}


def _private_stdout() -> IO[bytes]:
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def main() -> None:
    """Answer one request: a library cannot be loaded twice."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() != here]
    pipe = _private_stdout()
    line = sys.stdin.buffer.readline()
    pipe.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")
    pipe.flush()
    pipe.close()
    os._exit(0)  # no destructor of the library's can turn the answer into a crash


if __name__ == "__main__":
    main()
