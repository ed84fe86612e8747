"""Backends: each builds the spanning tree of the mutual reachability graph in its own way."""
