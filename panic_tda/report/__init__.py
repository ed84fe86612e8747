"""The page a person looks at, one self-contained file, and the figures for a paper.

The door is here and the rooms are to come: a section of the page is a file of its own, which takes plain
data from `insight` and `storage` and returns its part of the page. Nothing here computes what a number
says.
"""
