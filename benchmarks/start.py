"""Seconds until commands are done, and until the first epoch of a training, each in a process of its own.

    python benchmarks/start.py [--rounds 3]

Commands take turns; the fastest of each counts, in wall-clock and in CPU time.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import machine, write_section

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "`import torch, pyro` alone": ["-c", "import torch, pyro"],
    "`import pyro_models`": ["-c", "import pyro_models"],
    "`python -m pyro_models --help`": ["-m", "pyro_models", "--help"],
    "`python -m pyro_models story vae`": ["-m", "pyro_models", "story", "vae"],
    "`python train.py vae`, to the end of epoch 1": ["train.py", "vae"],
}


def seconds(words: list[str]) -> tuple[float, float]:
    """Return wall-clock and CPU seconds of a command; of a training to its first epoch, at which it is stopped."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trains = words[0] == "train.py"
        command = [sys.executable, *words, *(["--out", f"{folder}/run"] if trains else [])]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            for line in process.stdout or ():
                if re.match(r"epoch 1/", line):
                    process.kill()
                    break
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rounds = [{name: seconds(words) for name, words in COMMANDS.items()} for _ in range(given.rounds)]
    lines = ["| command | seconds | CPU seconds |", "| --- " * 3 + "|"]
    for name in COMMANDS:
        wall, cpu = (min(each) for each in zip(*(each[name] for each in rounds), strict=True))
        lines.append(f"| {name} | {wall:.1f} | {cpu:.1f} |")
    write_section("start", "\n".join([f"The fastest of {given.rounds}, a thread each. {machine()}.", "", *lines]))


if __name__ == "__main__":
    main()
