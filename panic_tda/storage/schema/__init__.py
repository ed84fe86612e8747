"""The layout of a database: its tables, their migrations, and the rule that samples invocations.

`tables`      the tables of the generation pipeline, and our own
`migrations`  one file for each change of our own tables
`upgrade`     bring a database of the pipeline to our tables: print the plan, then do it
`sampling`    the downsampling rule, as SQL
"""
