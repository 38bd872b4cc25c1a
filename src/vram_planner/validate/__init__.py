"""Prove it on the machine: torch and its kin are imported here alone, inside functions."""
