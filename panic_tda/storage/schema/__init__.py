"""The schema of a database: its tables, their migrations, and the downsampling rule.

`tables`      the tables of the generation pipeline and of panic_tda
`migrations`  one file for each change of panic_tda's tables
`upgrade`     add panic_tda's tables to a database of the pipeline: print the plan, then apply it
`sampling`    the downsampling rule, as SQL
"""
