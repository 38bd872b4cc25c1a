"""The fleet on real Ray clusters of several nodes on loopback: CPU, versions, losses, leases, and what is told."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import vram_planner
from vram_planner.cli.main import main
from vram_planner.report.fleet import fleet_text
from vram_planner.validate.fleet_run import fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own sockets, processes and advice
CONFIG = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "max_position_embeddings": 4096,
}  # fmt: skip
LIVE = {"device": "cpu", "ctx": 128, "concurrency": 1, "random_weights": True, "save": False, "tolerance": 0.9}


@dataclass
class Machines:
    """A cluster and its nodes, each with folders and packages of its own."""

    cluster: Any
    folder: Path
    address: str = ""

    def add(self, name: str, *paths: Path, wait: bool = True, **options: Any) -> Any:
        own = self.folder / f"{name}-home"
        own.mkdir()
        words = {
            "XDG_CONFIG_HOME": str(own),
            "XDG_RUNTIME_DIR": str(own),
            "HF_HUB_OFFLINE": "1",
            "VRAM_PLANNER_GPU": "none",
            "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
        }
        made = self.cluster.add_node(
            node_name=name, env_vars=words, include_dashboard=False, wait=wait, **options
        )
        self.address = self.cluster.address
        return made
