"""What legal networks of `studies/wide.toml` reach, measured once, in one table.

    python -m benchmarks.landscape IMAGES        trains what the table lacks
    python -m benchmarks.landscape.report        prints what the table says

Read `table` first: a row and how a table is read.  `recipes` says how a network is trained,
`plan` which and in what order, `work` how several processes share that.
"""
