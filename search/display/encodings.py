"""Characters that a terminal's encoding lacks, told by such as every one has."""

from __future__ import annotations

import codecs

ERRORS = "alike"
"""The name under which `str.encode` and streams know this."""

_ALIKE = str.maketrans("✓✗–−·•×±…→↓▁▂▃▄▅▆▇█▏▎▍▌▋▊▉", "+x--|*x~~>v123456781234567")


def _alike(error: UnicodeError) -> tuple[str, int]:
    """One character for each, so that columns stay; `?` for those that resemble none."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    told = error.object[error.start : error.end].translate(_ALIKE)
    return "".join(c if c.isascii() else "?" for c in told), error.end


codecs.register_error(ERRORS, _alike)
