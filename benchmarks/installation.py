"""The environment of the measured product: what an installation has, and no more.

A developer's has more, and libraries import what they find. For example requests imports chardet,
which is there for a tool that lists licences (16 ms of CPU and 2.7 MB).
"""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements() -> list[str]:
    """What an installation of the product has, from setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    return [line.replace(" ", "") for line in lines if line.strip()]


def python(cache: Path) -> str:
    """The interpreter of a virtual environment in `cache`, which is made once for each version of
    the requirements. Raises CalledProcessError."""
    place = cache / "installation"
    interpreter, noted = place / "bin" / "python", place / "requirements.txt"
    wanted = "\n".join([*requirements(), "", (ROOT / "constraints.txt").read_text()])
    if not noted.exists() or noted.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run(
            [str(interpreter), "-m", "pip", "install", "--quiet", *constraints, *requirements()],
            check=True,
        )
        noted.write_text(wanted)
    return str(interpreter)
