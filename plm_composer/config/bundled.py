"""Where the YAMLs of the project lie: in the package of an installed one, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

import plm_composer

_PACKAGE = Path(plm_composer.__file__).parent
_INSTALLED, _CHECKED_OUT = _PACKAGE / "yamls", _PACKAGE.parent / "yamls"
BUNDLED_YAMLS = _INSTALLED if _INSTALLED.is_dir() else _CHECKED_OUT
