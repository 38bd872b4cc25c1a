"""Weights on this machine become models: single files, shards, directories, splits, and what hostile ones get."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.architecture.parallel import Layout, rank_weight_bytes
from vram_planner.architecture.precision import Uniform
from vram_planner.architecture.stored_header import FromHeader, GgufFile
from vram_planner.basis import Basis
from vram_planner.errors import ConfigError, HeaderError, PlannerError
from vram_planner.model_profiles.checkpoint import find_weights, read_checkpoint
from vram_planner.model_profiles.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BYTES = 2 * (2 * 100 * 64 + 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64))


@pytest.fixture
def folder(tmp_path: Path, tiny_config: dict[str, Any]) -> Path:
    """A directory with a config.json and no weights yet."""
    found = tmp_path / "tiny"
    found.mkdir()
    (found / "config.json").write_text(json.dumps(tiny_config))
    return found


@pytest.fixture
def sharded(folder: Path, write_safetensors: Callable[..., Path], tiny_tensors: Callable[..., Any]) -> Path:
    """The same model in two files with an index."""
    tensors = list(tiny_tensors().items())
    files = {
        "model-00001-of-00002.safetensors": tensors[:10],
        "model-00002-of-00002.safetensors": tensors[10:],
    }
    for name, own in files.items():
        write_safetensors(folder / name, dict(own))
    write_index(folder, {name: file for file, own in files.items() for name, _ in own}, BYTES)
    return folder


def write_index(folder: Path, weight_map: dict[str, str], total: int | None) -> None:
    index = {"metadata": {} if total is None else {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_directory_with_weights_is_exact(
    folder: Path, write_safetensors: Callable[..., Path], tiny_tensors: Callable[..., Any]
) -> None:
    write_safetensors(folder / "model.safetensors", tiny_tensors())
    profile = resolve(str(folder))

    assert profile.basis is Basis.EXACT
    assert profile.architecture.weights_bytes() == BYTES
    assert profile.architecture.notes == ()
    assert profile.name == "tiny"
    assert resolve(str(folder / "model.safetensors")).architecture.weights_bytes() == BYTES


@pytest.mark.parametrize(
    "name",
    [
        "",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ],
)
def test_shards_are_read_by_their_index(name: str, sharded: Path) -> None:
    profile = resolve(str(sharded / name))

    assert profile.basis is Basis.EXACT
    assert profile.architecture.weights_bytes() == BYTES
    assert profile.architecture.notes == ()


def test_shards_without_an_index_are_found_by_their_names(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()

    assert resolve(str(sharded)).architecture.weights_bytes() == BYTES


def test_ranks_and_stages_hold_what_the_formula_says(sharded: Path) -> None:
    """Where nothing differs from the formula, no split of it differs."""
    model = resolve(str(sharded)).architecture
    assert isinstance(model.precision, FromHeader)
    for layout in (Layout(), Layout(tp=2), Layout(pp=2), Layout(tp=4, pp=2)):
        exact = rank_weight_bytes(model, model.precision, layout)
        assert exact == rank_weight_bytes(model, model.precision.formula, layout)


def test_another_total_in_the_index_is_told(sharded: Path) -> None:
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    write_index(sharded, index["weight_map"], BYTES + 2)

    (note,) = resolve(str(sharded)).architecture.notes
    assert f"{BYTES:,}" in note
    assert f"{BYTES + 2:,}" in note


def test_a_missing_shard_is_refused(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(HeaderError, match=r"1 of 2 files are missing.*model-00002") as error:
        resolve(str(sharded))
    assert "download" in error.value.hint


def test_an_index_alone_is_compared_with_the_formula(sharded: Path) -> None:
    for number in (1, 2):
        (sharded / f"model-0000{number}-of-00002.safetensors").unlink()
    profile = resolve(str(sharded))

    assert profile.basis is Basis.FORMULA
    assert "says the same" in profile.architecture.notes[-1]


def test_a_pytorch_checkpoint_is_read_by_its_index_alone(folder: Path) -> None:
    (folder / "pytorch_model-00001-of-00001.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    index = {"metadata": {"total_size": BYTES + 100}, "weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    profile = resolve(str(folder))

    assert profile.basis is Basis.FORMULA
    assert "100 B more than the formula" in profile.architecture.notes[-1]
    assert read_checkpoint(folder).names == ("a",)


def test_a_tensor_that_is_not_where_the_index_says_is_refused(sharded: Path) -> None:
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    moved = index["weight_map"] | {"lm_head.weight": "model-00001-of-00002.safetensors"}
    write_index(sharded, moved, None)

    with pytest.raises(HeaderError, match="lm_head"):
        resolve(str(sharded))


def test_a_link_out_of_the_directory_is_refused(sharded: Path, tmp_path: Path) -> None:
    shard = sharded / "model-00002-of-00002.safetensors"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(HeaderError, match="leads out"):
        resolve(str(sharded))


def test_two_models_in_one_directory_are_refused(
    folder: Path, write_safetensors: Callable[..., Path], tiny_tensors: Callable[..., Any]
) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        write_safetensors(folder / name, tiny_tensors())

    with pytest.raises(HeaderError, match=r"several models.*a\.safetensors"):
        resolve(str(folder))


def test_adapters_and_second_copies_are_no_weights(folder: Path) -> None:
    for name in (
        "adapter_model.safetensors",
        "consolidated.safetensors",
        "mmproj-F16.gguf",
        "training_args.bin",
    ):
        (folder / name).write_bytes(b"")

    assert find_weights(folder) is None
    assert resolve(str(folder)).basis is Basis.FORMULA


def test_weights_without_a_config_are_refused(tmp_path: Path, write_safetensors: Callable[..., Path]) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"a": ("F32", (1,))})

    with pytest.raises(ConfigError, match=r"no config\.json beside"):
        resolve(str(path))


def test_a_config_without_dtype_takes_the_files(
    folder: Path,
    tiny_config: dict[str, Any],
    write_safetensors: Callable[..., Path],
    tiny_tensors: Callable[..., Any],
) -> None:
    del tiny_config["torch_dtype"]
    (folder / "config.json").write_text(json.dumps(tiny_config))
    write_safetensors(folder / "model.safetensors", tiny_tensors("F16"))
    model = resolve(str(folder)).architecture

    assert model.precision.name == "float16"
    assert model.notes == ()


def test_floats_that_engines_cast_are_counted_as_they_load_them(
    folder: Path, write_safetensors: Callable[..., Path], tiny_tensors: Callable[..., Any]
) -> None:
    write_safetensors(folder / "model.safetensors", tiny_tensors("F32"))
    profile = resolve(str(folder))

    assert profile.basis is Basis.FORMULA
    assert isinstance(profile.architecture.precision, Uniform)
    assert profile.architecture.weights_bytes() == BYTES
    assert "float32; engines load them as bfloat16" in profile.architecture.notes[-1]


def test_a_tied_head_that_is_stored_is_loaded_once(
    folder: Path,
    tiny_config: dict[str, Any],
    write_safetensors: Callable[..., Path],
    tiny_tensors: Callable[..., Any],
) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_config | {"tie_word_embeddings": True}))
    write_safetensors(folder / "model.safetensors", tiny_tensors())
    model = resolve(str(folder)).architecture

    assert model.weights_bytes() == BYTES - 100 * 64 * 2
    assert "tied head" in model.notes[-1]


def test_scales_belong_to_their_matrix(
    folder: Path,
    tiny_config: dict[str, Any],
    write_safetensors: Callable[..., Path],
    tiny_tensors: Callable[..., Any],
) -> None:
    quantisation = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(tiny_config | {"quantization_config": quantisation}))
    tensors = tiny_tensors()
    for name, (_, shape) in list(tensors.items()):
        if "proj" in name:
            tensors[name] = ("F8_E4M3", shape)
            tensors[f"{name}_scale_inv"] = ("F32", (1, 1))
    write_safetensors(folder / "model.safetensors", tensors)
    model = resolve(str(folder)).architecture

    assert model.precision.name == "fp8-block"
    assert model.notes == ()
    assert isinstance(model.precision, FromHeader)
    assert model.precision.bytes_of[0, "q_proj"] == 64 * 64 + 4
    assert model.weights_bytes() == model.weights_bytes(model.precision.formula)


def test_a_quantisation_without_a_name_of_ours_is_read_from_its_header(
    folder: Path,
    tiny_config: dict[str, Any],
    write_safetensors: Callable[..., Path],
    tiny_tensors: Callable[..., Any],
) -> None:
    """The config alone is refused, the bytes in the header are what they are."""
    quantisation = {"quant_method": "spqr", "bits": 3}
    (folder / "config.json").write_text(json.dumps(tiny_config | {"quantization_config": quantisation}))
    tensors = tiny_tensors()
    for name in [name for name in tensors if "proj" in name]:
        del tensors[name]
        module = name.removesuffix(".weight")
        tensors |= {f"{module}.qweight": ("I32", (8, 64)), f"{module}.scales": ("F16", (1, 64))}
    path = write_safetensors(folder / "model.safetensors", tensors)
    model = resolve(str(path)).architecture

    assert model.precision.name == "spqr"
    assert model.notes == ()
    assert model.weights_bytes() == read_checkpoint(path).tensor_bytes


def test_what_the_family_does_not_know_is_told_and_counted(
    folder: Path, write_safetensors: Callable[..., Path], tiny_tensors: Callable[..., Any]
) -> None:
    tensors = tiny_tensors()
    tensors |= {
        "model.layers.1.self_attn.strange.weight": ("BF16", (8,)),
        "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (8,)),
        "model.layers.2.eh_proj.weight": ("BF16", (8,)),
    }
    del tensors["model.layers.1.mlp.up_proj.weight"]
    path = write_safetensors(folder / "model.safetensors", tensors)
    model = resolve(str(path)).architecture

    missing, unknown, draft = model.notes
    assert "layer 1 up_proj" in missing
    assert unknown.startswith("16 B")
    assert draft.startswith("16 B")
    assert model.weights_bytes() == BYTES - 2 * 64 * 128 + 16
    assert read_checkpoint(path).tensor_bytes == model.weights_bytes() + 16 + 32


def test_a_gguf_file_needs_no_config(
    tmp_path: Path,
    write_gguf: Callable[..., Path],
    tiny_gguf: tuple[dict[str, Any], dict[str, tuple[int, ...]]],
) -> None:
    path = write_gguf(tmp_path / "tiny-f32.gguf", *tiny_gguf)
    profile = resolve(str(path))

    assert profile.basis is Basis.EXACT
    assert profile.name == "tiny-f32"
    assert profile.architecture.weights_bytes() == 4 * profile.architecture.parameters
    assert isinstance(profile.architecture.precision, GgufFile)
    assert profile.architecture.precision.basis is Basis.EXACT
    assert resolve(str(tmp_path)).architecture.parameters == profile.architecture.parameters


def split_gguf(
    folder: Path, write: Callable[..., Path], tiny: Any, count: int = 2, **first: object
) -> list[Path]:
    """The tiny model in several files, as llama-gguf-split makes them."""
    metadata, shapes = tiny
    names = list(shapes)
    files = []
    for number in range(count):
        own = {name: shapes[name] for name in names[number::count]}
        facts = {"split.no": number, "split.count": count, "split.tensors.count": len(shapes)}
        keys = {**(metadata if number == 0 else {}), **facts, **(first if number == 0 else {})}
        files.append(write(folder / f"tiny-{number + 1:05}-of-{count:05}.gguf", keys, own))
    return files


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_split_gguf_is_read_as_one(
    number: int, tmp_path: Path, write_gguf: Callable[..., Path], tiny_gguf: Any
) -> None:
    files = split_gguf(tmp_path, write_gguf, tiny_gguf, 3)
    header = read_checkpoint(files[number])

    assert len(header.tensors) == len(tiny_gguf[1])
    assert header.file_bytes == sum(file.stat().st_size for file in files)
    assert resolve(str(files[number])).architecture.notes == ()
    assert resolve(str(tmp_path)).basis is Basis.EXACT


def test_a_split_gguf_that_does_not_fit_together_is_refused(
    tmp_path: Path, write_gguf: Callable[..., Path], tiny_gguf: Any
) -> None:
    files = split_gguf(tmp_path, write_gguf, tiny_gguf)
    second = files[1].read_bytes()
    for change, what in (
        (lambda: files[1].write_bytes(files[0].read_bytes()), "does not say that it is file 2"),
        (lambda: write_gguf(files[1], {"split.no": 1, "split.count": 2}, {}), "instead of 12"),
        (
            lambda: write_gguf(files[1], {"split.no": 1, "split.count": 2}, {"token_embd.weight": (3, 64)}),
            "another file",
        ),
        (files[1].unlink, "1 of 2 files are missing"),
    ):
        change()
        with pytest.raises(HeaderError, match=what):
            read_checkpoint(files[0])
    files[1].write_bytes(second)
    lonely = files[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(HeaderError, match="one of 2 files"):
        read_checkpoint(lonely)


def test_one_of_no_files_is_refused(tmp_path: Path, write_gguf: Callable[..., Path], tiny_gguf: Any) -> None:
    for name in ("a-00000-of-00002.gguf", "a-00003-of-00002.gguf", "a-00001-of-99999.gguf"):
        with pytest.raises(HeaderError):
            read_checkpoint(write_gguf(tmp_path / name, *tiny_gguf))


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "model.safetensors.index.json"])
def test_a_pipe_does_not_hang(name: str, folder: Path) -> None:
    os.mkfifo(folder / name)

    with pytest.raises(PlannerError, match="no regular file"):
        resolve(str(folder / name))


def test_gguf_precisions_of_two_files_differ(
    tmp_path: Path, write_gguf: Callable[..., Path], tiny_gguf: Any
) -> None:
    """Engines keep results by precision: two files of one type must not be taken for each other."""
    one, two = (resolve(str(write_gguf(tmp_path / name, *tiny_gguf))) for name in ("a.gguf", "b.gguf"))
    first, second = one.architecture.precision, two.architecture.precision

    assert first != second
    assert isinstance(first, GgufFile)
    assert replace(first) == first
