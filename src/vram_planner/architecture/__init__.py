"""What a model is made of: frozen value types, the standard library alone, no names of models."""
