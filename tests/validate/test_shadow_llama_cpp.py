"""llama.cpp's shadow: with a stand-in, and with a library where VRAM_PLANNER_LIBLLAMA names one."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import sys
import sysconfig
from math import prod
from pathlib import Path
from typing import Any

import pytest

import vram_planner as vp
from vram_planner.cli.main import main
from vram_planner.errors import RequestError
from vram_planner.validate import shadow_llama_cpp
from vram_planner.validate.faults import CannotMeasureError, ChildError
from vram_planner.validate.shadow_asked import EngineShadow
from vram_planner.validate.shadow_llama_cpp_child import _LAYOUTS, ModelParams, _differs
from vram_planner.validate.shadow_run import shadow

STAND_IN = Path(__file__).parent / "stand_in_engine.py"
LIBRARY = os.environ.get("VRAM_PLANNER_LIBLLAMA")
NEEDS_LIBRARY = "VRAM_PLANNER_LIBLLAMA names no libllama (b11434 or near it)"
HIDDEN, LAYERS, KV, FEED, WORDS = 256, 4, 128, 512, 1000


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A Llama of four layers in F32: a header, and data that no disk holds."""
    numbers = {
        "block_count": LAYERS, "embedding_length": HIDDEN, "feed_forward_length": FEED, "vocab_size": WORDS,
        "attention.head_count": 4, "attention.head_count_kv": 2, "context_length": 4096,
        "rope.dimension_count": 64,
    }  # fmt: skip
    keys = _text("general.architecture") + struct.pack("<I", 8) + _text("llama")
    keys += _text("tokenizer.ggml.model") + struct.pack("<I", 8) + _text("none")
    keys += _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5)
    for name, value in numbers.items():
        keys += _text(f"llama.{name}") + struct.pack("<II", 4, value)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (WORDS, HIDDEN), "output_norm.weight": (HIDDEN,), "output.weight": (WORDS, HIDDEN)
    }  # fmt: skip
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (KV, HIDDEN),
                "attn_v": (KV, HIDDEN), "attn_output": (HIDDEN, HIDDEN), "ffn_norm": (HIDDEN,),
                "ffn_gate": (FEED, HIDDEN), "ffn_up": (FEED, HIDDEN), "ffn_down": (HIDDEN, FEED),
            }.items()
        }  # fmt: skip
    infos, offset = b"", 0
    for name, shape in shapes.items():
        infos += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), 0, offset)
        offset += 4 * prod(shape)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), 3 + len(numbers)) + keys + infos
    head += bytes(-len(head) % 32)
    path = tmp_path / "tiny.gguf"
    path.write_bytes(head)
    os.truncate(path, len(head) + offset)
    return path


def answer_of(file: Path, buffer: str = "CPU", **changes: Any) -> dict[str, Any]:
    """What llama.cpp would say if the plan were right."""
    plan = vp.plan(str(file), ctx=4096, concurrency=2, engine="llama.cpp", gpu="none")
    on_card = not buffer.startswith("CPU")
    whole_file = plan.model.architecture.weights_bytes(plan.model.precision)
    sizes = {
        "model": plan.part("weights").n_bytes if on_card else whole_file,
        "context": plan.part("kv_cache").n_bytes,
        "compute": plan.part("compute_buffer").n_bytes,
    }
    buffers = {buffer: sizes, **({"CUDA_Host": dict.fromkeys(sizes, 7)} if on_card else {})}
    return {"ok": True, "package": "stand-in 1", "buffers": buffers, "n_ctx": 8192, **changes}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(shadow_llama_cpp, "_SCRIPT", STAND_IN)
    monkeypatch.setenv("STAND_IN_HEARD", str(tmp_path / "heard"))

    def say(answer: dict[str, Any], *, fault: str = "") -> None:
        monkeypatch.setenv("STAND_IN_ANSWERS", json.dumps({"ask": answer}))
        monkeypatch.setenv("STAND_IN_FAULT", fault)

    return say


def ask(file: Path, **options: Any) -> EngineShadow:
    found = shadow(str(file), engine="llama.cpp", **({"ctx": 4000, "concurrency": 2} | options))
    assert isinstance(found, EngineShadow)
    return found


def test_on_the_cpu_tensors_and_cache_are_judged(answers: Any, file: Path, tmp_path: Path) -> None:
    answers(answer_of(file))
    found = ask(file, kv_dtype="q8_0", flash_attn=True)
    asked = json.loads((tmp_path / "heard").read_text())

    assert [row.judged for row in found.rows] == [True, True, False]
    assert found.rows[0].error == 0
    assert "no GPU was seen" in found.notes[0]
    assert asked["context"] == {
        "n_ctx": 8192, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 2, "flash_attn_type": 1, "type_k": 8,
        "type_v": 8,
    }  # fmt: skip


def test_on_a_gpu_every_buffer_is_judged_and_the_host_left_out(answers: Any, file: Path) -> None:
    answers(answer_of(file, "CUDA0"))
    found = ask(file)

    assert found.held
    assert [(row.judged, row.error) for row in found.rows] == [(True, 0)] * 3
    wrong = answer_of(file, "CUDA0")
    wrong["buffers"]["CUDA0"]["compute"] *= 2
    answers(wrong)
    assert not ask(file).held


@pytest.mark.parametrize("fault", ["crash", "garbage"])
def test_what_happens_to_its_process_is_told(answers: Any, file: Path, fault: str) -> None:
    answers(answer_of(file), fault=fault)
    with pytest.raises(ChildError):
        ask(file)


@pytest.mark.parametrize("buffers", [None, {}, {"CPU": {"model": -1, "context": 0, "compute": 0}}])
def test_half_an_answer_is_none(answers: Any, file: Path, buffers: Any) -> None:
    answers(answer_of(file, buffers=buffers))
    with pytest.raises(ChildError):
        ask(file)


def test_a_model_by_name_and_missing_paths_are_refused(file: Path) -> None:
    with pytest.raises(RequestError, match=r"needs a \.gguf file"):
        shadow("7b", engine="llama.cpp")
    with pytest.raises(RequestError, match="--library"):
        ask(file, library="/nowhere/libllama.so")
    with pytest.raises(RequestError, match="--python"):
        ask(file, python="/nowhere/python")


def test_a_library_of_something_else_is_told(file: Path, tmp_path: Path) -> None:
    """The real process: a library without llama.cpp's names, and a file that is no library."""
    import _ctypes  # noqa: PLC0415  a library that every Python has

    place = getattr(_ctypes, "__file__", None)
    if place is None:
        pytest.skip("this Python has _ctypes built in")
    with pytest.raises(CannotMeasureError, match="too old, or something else"):
        ask(file, library=place)
    text = tmp_path / "libllama.so"
    text.write_text("no library")
    with pytest.raises(CannotMeasureError, match="does not load"):
        ask(file, library=str(text))


def test_no_package_with_a_library_is_status_4(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real process, in a Python that has no package at all."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    bare = str(Path(sysconfig.get_config_var("BINDIR")) / Path(sys.executable).name)
    if not Path(bare).exists():
        pytest.skip("the Python that this one was made from is not there")
    with pytest.raises(SystemExit) as end:
        main(["validate", "shadow", "--engine", "llama.cpp", "--model", str(file), "--python", bare])
    out, err = capsys.readouterr()

    assert (end.value.code, out) == (4, "")
    assert "pip install" in err


def test_a_layout_is_known_by_the_librarys_defaults() -> None:
    """Read one pointer off, defaults are not what they are: 160 and 80 bytes are the sizes in b11434's llama.h."""
    first, second = (context for _, context in _LAYOUTS)

    assert ModelParams.room.offset == 78
    assert second.ctx_other.offset - first.ctx_other.offset == 8
    assert first.ctx_other.offset + 8 == 160
    made = second(n_ctx=512, offload_kqv=True)
    assert _differs(made, {"n_ctx": 512, "offload_kqv": True, "of a later release": 1}) == ""
    assert _differs(first.from_buffer_copy(made), {"offload_kqv": True}) == "offload_kqv is not True"


@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install '.[test]'"
)
@pytest.mark.parametrize("kv_dtype", ["auto", "f32"])
def test_the_llama_cpp_of_an_installed_package_agrees_to_the_byte(file: Path, kv_dtype: str) -> None:
    """Source: llama_get_memory_breakdown of xllamacpp's own library under no_alloc; tolerance: none."""
    found = ask(file, ctx=4096, concurrency=4, kv_dtype=kv_dtype)

    assert found.answer["package"].startswith("xllamacpp")
    assert {("weights", 0.0), ("kv_cache", 0.0)} <= {(row.name, row.error) for row in found.rows}
    assert [row.error for row in found.counts] == [0]


@pytest.mark.skipif(LIBRARY is None, reason=NEEDS_LIBRARY)
@pytest.mark.parametrize("kv_dtype", ["auto", "f32"])
def test_llama_cpp_itself_agrees_to_the_byte(file: Path, kv_dtype: str) -> None:
    """Source: llama.cpp's own llama_get_memory_breakdown under no_alloc; tolerance: none."""
    found = ask(file, library=LIBRARY, ctx=4096, concurrency=4, kv_dtype=kv_dtype)

    assert {("weights", 0.0), ("kv_cache", 0.0)} <= {(row.name, row.error) for row in found.rows}
    assert [row.error for row in found.counts] == [0]


@pytest.mark.skipif(LIBRARY is None, reason=NEEDS_LIBRARY)
def test_the_structs_of_llama_cpp_python_are_used(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of the shape of llama-cpp-python: `llama_cpp.llama_cpp` with its library and its structs."""
    child = Path(shadow_llama_cpp.__file__).with_name("shadow_llama_cpp_child.py")
    package = tmp_path / "llama_cpp"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "llama_cpp.py").write_text(
        f"import ctypes, runpy\n_lib = ctypes.CDLL({LIBRARY!r})\n"
        f"_made = runpy.run_path({str(child)!r})\n"
        "llama_model_params, llama_context_params = _made['_LAYOUTS'][0]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = ask(file)

    assert found.answer["package"] == "llama_cpp"
    assert found.held
