"""What commands answer, as text for people and as plain data for JSON: a file a family of commands.

In flow the library's dataclasses, out flow text of a given width (`…_text`) and objects that JSON can print
(`…_json`). Nothing is printed here.
"""
