"""How each engine spends GPU memory: one module an engine, one register."""
