"""Render results as text for people and as plain data for JSON, one module per family of commands.

Functions named `…_text` return text of a given width; functions named `…_json` return objects for
`json.dumps`. Both take dataclasses of the library. Nothing is printed here.
"""
