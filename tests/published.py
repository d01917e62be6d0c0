"""The table of the original report, row by row: what its author published of the baseline."""

from __future__ import annotations

# op, k, p, s, d, Jin, Nin, Nout, Rin, Rout, Jout
BASELINE = """\
CONV1 3 1 1 1 1 32 32 1 3 1
CONV2 3 1 1 1 1 32 32 3 5 1
CONV3 1 0 1 1 1 32 32 5 5 1
CONV4 3 0 2 2 1 32 14 5 9 2
CONV5 3 1 1 2 2 14 12 9 17 2
CONV6 3 1 1 1 2 12 12 17 21 2
CONV7 1 0 1 1 2 12 12 21 21 2
CONV8 3 0 2 2 2 12 4 21 29 4
CONV9 3 1 1 1 4 4 4 29 37 4
CONV10 1 0 1 1 4 4 4 37 37 4
CONV11 3 1 1 1 4 4 4 37 45 4
CONV12 1 0 1 1 4 4 4 45 45 4
CONV13 3 1 1 1 4 4 4 45 53 4
CONV14 3 1 1 1 4 4 4 53 61 4
""".splitlines()
