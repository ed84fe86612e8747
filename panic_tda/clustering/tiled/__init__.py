"""The exact engine: float32 tiles find candidates within proven margins, float64 decides.

One file per pass: `neighbours`, `cores`, `forest` and `joining`, `verify`; `engine` is the recipe.
"""
