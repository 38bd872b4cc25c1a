"""Granite 3, dense: Llama's layers with scaled residuals, which cost no memory."""

from __future__ import annotations

from vram_planner.model_profiles.families.llama import build

__all__ = ["build"]
