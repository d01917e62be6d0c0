"""Which search finds good networks at the least cost, simulated on a landscape.

    python -m benchmarks.search [TABLE] [--json] [--studies N] [--arms NAME…]

Read `world` first: what a simulated training answers.  `surrogate` says where that comes from,
`arms` who competes, `simulation` runs one study, `document` sums all up.  A search is one entry
in `arms.ARMS`.
"""
