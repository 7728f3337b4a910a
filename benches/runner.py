#!/usr/bin/env python3
"""Benchmarks the pipeline runner against other runners on the same machine at the same time.

    cargo build --release
    python3 benches/runner.py                    # all installed tools
    python3 benches/runner.py --quick            # a tenth of the size, one round: checks that everything works
    python3 benches/runner.py --only seven,chain --tools voxpipe,ninja

All tools run the same synthetic pipelines: `seven` (a chain of 7 stages), `chain` (a chain of 1,000), `wide` (1 stage, then 1,000 in parallel),
`clips` (one stage that reads 10,000 small WAV files, then another), `big` (the same with 2,000 files of 1 MiB). Every stage copies a small
file. Tools are looked up in PATH: ninja, make, doit, razel, dvc (`pip install ninja doit razel dvc`); missing tools are skipped with a message.

Each number is the minimum wall time of several rounds; in each round, every tool takes a turn. Outputs are moved aside between rounds and deleted
at the end, because deleting files can slow down a file system for minutes. The goals are times on an idle machine with two cores, where
ninja's times are known: a goal is met if it is met in milliseconds or relative to ninja's time in the same benchmark. If a goal is missed, the
exit code is 1, so that a nightly job notices. Uses only the Python standard library.
"""

import argparse
import json
import os
import platform
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Goals in milliseconds (memory: MB) on an idle machine with two cores.
GOALS = {
    "start": 3, "check, 7 stages": 4, "plan, 7 stages": 4, "7 stages, no-op": 4, "7 stages, full run": 20,
    "wide, full run": 800, "chain, full run": 1200, "chain, no-op": 10, "wide, no-op": 10,
    "clips, no-op": 30, "clips, no-op, cold": 120, "clips, first run": 150, "clips, all touched": 150, "clips, no-op after that": 30,
    "big, first run": 300, "big, no-op": 10, "memory": 20,
}
ROWS = list(GOALS)
# ninja's times on that machine.
NINJA_THERE = {
    "start": 2, "check, 7 stages": 2, "plan, 7 stages": 2, "7 stages, no-op": 2, "7 stages, full run": 11,
    "wide, full run": 730, "chain, full run": 1370, "chain, no-op": 7, "wide, no-op": 7,
    "clips, no-op": 18, "clips, no-op, cold": 77, "clips, no-op after that": 18, "big, no-op": 4,
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def wav(path, samples, seed):
    """16 kHz mono, noise."""
    data = random.Random(seed).randbytes(2 * samples)
    head = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    path.write_bytes(head + b"data" + struct.pack("<I", len(data)) + data)


# A pipeline is a list of stages (name, dependencies, input folder); a stage without dependencies or input folder reads `head.txt`.
def chain(count):
    return [(f"s{n:04}", [f"s{n - 1:04}"] if n else [], None) for n in range(count)]


def wide(count):
    return [("head", [], None)] + [(f"w{n:04}", ["head"], None) for n in range(count)]


def folder():
    return [("read", [], "data"), ("next", ["read"], None)]


class Voxpipe:
    name = "voxpipe"

    def __init__(self, program):
        self.program = [str(program)]
        self.version = subprocess.run([*self.program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]

    def lay_out(self, at, stages, files):
        lines = ["schema = 1", "[pipeline]", 'name = "bench"']
        for name, needs, reads in stages:
            lines += [f"[stage.{name}]", 'uses = "command"']
            if needs:
                lines += [f'from = {{ before = "{needs[0]}" }}', 'with = { run = ["cp", "${from.before}/made", "${out}/made"] }']
            else:
                code = reads or "head.txt"
                lines += [f'with = {{ run = ["cp", "head.txt", "${{out}}/made"], code = ["{code}"] }}']
        write(at / "pipeline.toml", "\n".join(lines) + "\n")

    def run(self):
        return [*self.program, "run"]

    def check(self):
        return [*self.program, "check"]

    def plan(self):
        return [*self.program, "plan"]

    def start(self):
        return [*self.program, "--version"]

    def made(self, at):
        return [at / ".voxpipe"]


class Peer:
    def __init__(self, program):
        self.program = [program]
        said = subprocess.run([program, "--version"], capture_output=True, text=True)
        self.version = (said.stdout or said.stderr).split("\n")[0].split()[-1]

    def start(self):
        return [*self.program, "--version"]

    check = plan = lambda self: None


class Ninja(Peer):
    name = "ninja"

    def lay_out(self, at, stages, files):
        lines = ["rule cp", "  command = cp $head $out"]
        for name, needs, reads in stages:
            head = f"{needs[0]}.made" if needs else "head.txt"
            inputs = " ".join(files) if reads else ""
            lines += [f"build {name}.made: cp {head}" + (f" | {inputs}" if inputs else ""), f"  head = {head}"]
        write(at / "build.ninja", "\n".join(lines) + "\n")

    def run(self):
        return self.program

    def check(self):
        return [*self.program, "-n"]

    plan = check

    def made(self, at):
        return [*at.glob("*.made"), at / ".ninja_log", at / ".ninja_deps"]


class Make(Peer):
    name = "make"

    def lay_out(self, at, stages, files):
        lines = ["all: " + " ".join(f"{name}.made" for name, _, _ in stages)]
        for name, needs, reads in stages:
            head = f"{needs[0]}.made" if needs else "head.txt"
            inputs = " ".join(files) if reads else ""
            lines += [f"{name}.made: {head} {inputs}", f"\t@cp {head} $@"]
        write(at / "Makefile", "\n".join(lines) + "\n")

    def run(self):
        return [*self.program, f"-j{os.cpu_count()}"]

    def check(self):
        return [*self.program, "-n"]

    plan = check

    def made(self, at):
        return at.glob("*.made")


class Doit(Peer):
    name = "doit"

    def lay_out(self, at, stages, files):
        tasks = []
        for name, needs, reads in stages:
            head = f"{needs[0]}.made" if needs else "head.txt"
            tasks.append((name, head, bool(reads)))
        write(
            at / "dodo.py",
            f"TASKS = {tasks!r}\nimport os\nFILES = ['data/' + name for name in sorted(os.listdir('data'))] if os.path.isdir('data') else []\n"
            "def task_bench():\n    for name, head, reads in TASKS:\n"
            "        yield {'name': name, 'actions': [['cp', head, name + '.made']], 'file_dep': [head] + (FILES if reads else []),\n"
            "               'targets': [name + '.made']}\n",
        )

    def run(self):
        return [*self.program, "-n", str(os.cpu_count())]

    def made(self, at):
        return [*at.glob("*.made"), *at.glob(".doit.db*")]


class Razel(Peer):
    name = "razel"

    def lay_out(self, at, stages, files):
        lines = []
        for name, needs, reads in stages:
            head = f"{needs[0]}.made" if needs else "head.txt"
            lines.append(json.dumps({
                "name": name, "executable": "cp", "args": [head, f"{name}.made"],
                "inputs": [head, *(files if reads else [])], "outputs": [f"{name}.made"],
            }))
        write(at / "razel.jsonl", "\n".join(lines) + "\n")

    def run(self):
        return [*self.program, "exec", "-f", "razel.jsonl", "--cache-dir", "cache"]

    def made(self, at):
        return [at / "cache", at / "razel-out"]


class Dvc(Peer):
    name = "dvc"

    def lay_out(self, at, stages, files):
        if len(stages) > 100:
            raise NotImplementedError("takes a quarter of an hour")
        lines = ["stages:"]
        for name, needs, reads in stages:
            head = f"{needs[0]}.made" if needs else "head.txt"
            lines += [f"  {name}:", f"    cmd: cp {head} {name}.made", "    deps:", f"      - {head}"]
            lines += ["      - data"] if reads else []
            lines += ["    outs:", f"      - {name}.made"]
        write(at / "dvc.yaml", "\n".join(lines) + "\n")
        subprocess.run([*self.program, "init", "--no-scm", "-q", "-f"], cwd=at, check=True, capture_output=True)
        subprocess.run([*self.program, "config", "core.analytics", "false"], cwd=at, check=True, capture_output=True)

    def run(self):
        return [*self.program, "repro", "-q"]

    def check(self):
        return [*self.program, "status", "-q"]

    def plan(self):
        return [*self.program, "repro", "--dry", "-q"]

    def made(self, at):
        return [at / "dvc.lock", *at.glob("*.made"), at / ".dvc/cache", at / ".dvc/tmp"]


class Measured:
    """Minimum wall time over some rounds, and peak memory over all."""

    def __init__(self):
        self.memory = 0.0

    def once(self, command, at, expect=(0,)):
        quiet = os.open(os.devnull, os.O_RDWR)
        log = at / ".bench-log"
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        program = shutil.which(command[0]) or command[0]
        actions = [(os.POSIX_SPAWN_DUP2, quiet, 0), (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)]
        before = os.getcwd()
        os.chdir(at)
        begun = time.perf_counter()
        pid = os.posix_spawn(program, command, {**os.environ, "NO_COLOR": "1"}, file_actions=actions)
        _, status, _ = os.wait4(pid, 0)
        wall = time.perf_counter() - begun
        os.chdir(before)
        os.close(quiet)
        os.close(out)
        code = os.waitstatus_to_exitcode(status)
        if code not in expect:
            sys.exit(f"{' '.join(command)} ended with {code} in {at}:\n{log.read_text(errors='replace')[-2000:]}")
        return wall * 1000

    def best(self, rounds, command, at, before=None, expect=(0,)):
        least = float("inf")
        for _ in range(rounds):
            if before:
                before()
            least = min(least, self.once(command, at, expect))
        return least

    def peak(self, command, at):
        """Peak memory in MB, measured by GNU time: a child of Python would be charged for Python's own memory."""
        timer = "/usr/bin/time"
        if not os.access(timer, os.X_OK):
            return
        said = at / ".bench-memory"
        subprocess.run([timer, "-f", "%M", "-o", str(said), *command], cwd=at, capture_output=True, stdin=subprocess.DEVNULL)
        self.memory = max(self.memory, int(said.read_text().split()[-1]) / 1024)


def settle():
    """Waits until the last file change is older than the timestamp resolution of the file system."""
    time.sleep(0.2)


def forget_names():
    """Drops the kernel's dentry and inode caches; needs root."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
    except OSError:
        return False
    return True


def measure(tool, shape, place, work, options):
    """Measures one pipeline with one tool in one round: long runs once, short runs several times. Returns times by row name."""
    found, measured = {}, Measured()
    few = 1 if options.quick else 5

    def aside(paths):
        gone = work / "gone"
        gone.mkdir(exist_ok=True)
        into = gone / str(len(os.listdir(gone)))
        into.mkdir()
        for path in paths:
            if path.exists():
                path.rename(into / path.name)

    def forget(at):
        aside(tool.made(at))
        os.sync()

    def prepare(stages, files=(), data=None):
        at = place / tool.name
        at.mkdir(parents=True)
        write(at / "head.txt", "head\n")
        if data:
            # A separate copy, as tools may change times or permissions. This also warms the page cache.
            shutil.copytree(data, at / "data")
        tool.lay_out(at, stages, list(files))
        settle()
        return at

    def first(at):
        return measured.best(1, tool.run(), at, before=lambda: forget(at))

    if shape == "seven":
        at = prepare(chain(7))
        found["start"] = measured.best(few, tool.start(), at)
        for row, command in [("check, 7 stages", tool.check()), ("plan, 7 stages", tool.plan())]:
            if command:
                forget(at)
                found[row] = measured.best(few, command, at, expect=(0, 1, 255) if tool.name == "dvc" else (0,))
        found["7 stages, full run"] = first(at)
        settle()
        measured.once(tool.run(), at)
        found["7 stages, no-op"] = measured.best(few, tool.run(), at)
    elif shape in ["chain", "wide"]:
        try:
            at = prepare((chain if shape == "chain" else wide)(options.stages))
        except NotImplementedError:
            return found
        found[f"{shape}, full run"] = first(at)
        settle()
        measured.once(tool.run(), at)
        found[f"{shape}, no-op"] = measured.best(few, tool.run(), at)
        measured.peak(tool.run(), at)
        aside([at])
    else:
        data = work / shape
        names = sorted(f"data/{name}" for name in os.listdir(data))
        at = prepare(folder(), names, data)
        os.sync()
        found[f"{shape}, first run"] = first(at)
        settle()
        measured.once(tool.run(), at)
        found[f"{shape}, no-op"] = measured.best(few, tool.run(), at)
        measured.peak(tool.run(), at)
        if shape == "clips":
            if forget_names():
                found["clips, no-op, cold"] = measured.best(1, tool.run(), at, before=forget_names)

            def touch():
                for name in names:
                    os.utime(at / name)
                settle()

            found["clips, all touched"] = measured.best(1, tool.run(), at, before=touch)
            settle()
            measured.once(tool.run(), at)
            found["clips, no-op after that"] = measured.best(few, tool.run(), at)
            aside([at])
        else:
            # The last and largest pipeline: nothing is measured after it.
            subprocess.run(["chmod", "-R", "u+w", str(at)], capture_output=True)
            shutil.rmtree(at, ignore_errors=True)
    if measured.memory:
        found["memory"] = measured.memory
    return found


def shown(row, value):
    if value is None:
        return "–"
    if row == "memory":
        return f"{value:.0f} MB"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/voxpipe", help="the voxpipe to measure")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, one round; goals are not judged")
    parser.add_argument("--rounds", type=int, help="how often each tool has its turn (5)")
    parser.add_argument("--only", default="seven,chain,wide,clips,big", help="which pipelines")
    parser.add_argument("--tools", default="voxpipe,make,ninja,doit,razel,dvc", help="which tools")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--dir", type=Path, help="make the pipelines below this folder (a temporary one)")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.stages = 100 if options.quick else 1000
    rows = options.only.split(",")

    tools = []
    if not options.program.exists():
        sys.exit(f"{options.program} is not there: cargo build --release")
    peers = {peer.name: peer for peer in [Make, Ninja, Doit, Razel, Dvc]}
    for name in options.tools.split(","):
        if name == "voxpipe":
            tools.append(Voxpipe(options.program.resolve()))
        elif name not in peers:
            sys.exit(f"no tool is called `{name}`: voxpipe, {', '.join(peers)}")
        elif shutil.which(name):
            tools.append(peers[name](shutil.which(name)))
        else:
            print(f"{name} is not installed: left out", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="voxpipe-bench-", dir=options.dir) as work:
        work = Path(work)
        for shape, count, samples in [("clips", options.stages * 10, 200), ("big", options.stages * 2, (1 << 20) // 2 - 22)]:
            if shape in rows:
                (work / shape).mkdir()
                for number in range(count):
                    wav(work / shape / f"{number:05}.wav", samples, number)
        results = {tool.name: {} for tool in tools}
        for shape in ["seven", "chain", "wide", "clips", "big"]:
            for number in range(options.rounds if shape in rows else 0):
                for tool in tools:
                    print(f"{shape}, round {number + 1}: {tool.name} {tool.version} …", file=sys.stderr)
                    so_far = results[tool.name]
                    for row, value in measure(tool, shape, work / f"{shape}-{number}", work, options).items():
                        least = max if row == "memory" else min
                        so_far[row] = least(so_far.get(row, value), value)
        # Some tools make their outputs read-only.
        subprocess.run(["chmod", "-R", "u+w", str(work)], capture_output=True)

    cores = os.cpu_count()
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    print(f"{date.today()}, {cores} cores ({model}), {platform.system()} {platform.release()}; "
          f"{options.stages} stages, {options.stages * 10} clips, {options.stages * 2} MiB; least of {options.rounds} rounds\n")
    print("| test | " + " | ".join(f"{tool.name} {tool.version}" for tool in tools) + " | goal | in units of ninja's time, goal | met |")
    print("|---|" + "---|" * (len(tools) + 3))
    missed = 0
    for row in ROWS:
        values = [results[tool.name].get(row) for tool in tools]
        if all(value is None for value in values):
            continue
        ours = results.get("voxpipe", {}).get(row)
        ninja, there = results.get("ninja", {}).get(row), NINJA_THERE.get(row)
        met, units = "–", "–"
        if ours is not None:
            enough = ours <= GOALS[row]
            if ninja and there:
                units = f"{ours / ninja:.2f}, {GOALS[row] / there:.2f}"
                enough = enough or ours / ninja <= GOALS[row] / there
            met = "–" if options.quick else "yes" if enough else f"no, {ours / GOALS[row]:.1f} ×"
        missed += met.startswith("no")
        print(f"| {row} | " + " | ".join(shown(row, value) for value in values) + f" | {shown(row, GOALS[row])} | {units} | {met} |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
