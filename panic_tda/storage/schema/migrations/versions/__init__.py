"""One module for each revision. The SQL of a released revision never changes."""
