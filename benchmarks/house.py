"""How well the package keeps its own limits: sizes, words, imports, modules opened, help.

    python benchmarks/house.py              # everything, about a minute
    python benchmarks/house.py --static     # what is read from the source alone, a second

Prints one line for each limit: ok or OVER, the number, the limit, and what is largest.
"""

import argparse
import ast
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from pathline import cli

SRC = Path(cli.__file__).parent
BANNED = {
    *("found", "told", "said", "given", "made", "seen", "some", "one", "kept", "asked", "own"),
    *("wanted", "known", "spoken", "heard", "drawn", "ways", "way", "manner", "here", "there"),
}


def names_bound(tree: ast.AST) -> Iterator[str]:
    """Every name that the code gives: variables, arguments, functions and classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


def banned_names(trees: Iterable[ast.AST]) -> tuple[Counter[str], int]:
    """How often each banned name is bound, and the number of all bindings."""
    names = [name.strip("_").lower() for tree in trees for name in names_bound(tree)]
    return Counter(name for name in names if name in BANNED), len(names)


def imports_of(tree: ast.AST, modules: Iterable[str]) -> set[str]:
    """The modules of the package that a file imports."""
    modules = set(modules)
    targets: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` names a module, `from module import name` does not
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            targets |= (inner & modules) | ({node.module} if inner - modules else set())
    return targets & modules


def longest_chain(graph: Mapping[str, set[str]]) -> list[str]:
    """The longest chain of modules, each importing the next. Raises ValueError for a cycle."""
    entered = set()

    @cache
    def chain(module: str) -> tuple[str, ...]:
        if module in entered:
            raise ValueError(f"{module} imports itself, through others")
        entered.add(module)
        return (module, *max(map(chain, graph[module]), key=len, default=()))

    return list(max(map(chain, graph), key=len))


def functions(trees: Mapping[str, ast.AST]) -> Iterator[tuple[str, ast.FunctionDef]]:
    for module, tree in trees.items():
        inside = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
        yield from ((f"{module}:{node.name}", node) for node in inside)


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    body = function.body[ast.get_docstring(function, clean=False) is not None :]
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def positional(function: ast.FunctionDef) -> int:
    """Parameters that can be passed by position, without self."""
    names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def modules_opened(work: Callable[[], object]) -> set[str]:
    """The files of the package whose functions run in a work, on every thread."""
    files: set[str] = set()

    def watch(frame, event: str, _: object) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # pyright: ignore[reportArgumentType]
    return {str(Path(f).relative_to(SRC)) for f in files if f.startswith(str(SRC))}


def update_and_image() -> tuple[set[str], set[str]]:
    """Modules opened by an update of preset digits with its feed, and by an image in four steps."""
    from rich.console import Console

    from pathline.config.resolve import read
    from pathline.generate import sample_images
    from pathline.recipes import bench
    from pathline.tables import TABLES

    settings = ["sample.steps=4", "train.precision=fp32"]
    run = read("digits", (), settings, {"device": "cpu"}, tables=TABLES).run
    setup = bench.set_up(run, Console(quiet=True))
    player, feed = bench._player(setup, compiled=False), bench._feed(setup, run.train.batch)

    sampler = bench.sampler(run.sample, setup.parts.path)
    return (
        modules_opened(lambda: bench.update(player, feed(), 0)),
        modules_opened(lambda: sample_images(setup.parts, [3], [0], sampler, batch=1)),
    )


def help_seconds() -> dict[str, float]:
    """Seconds of `pathline COMMAND --help` for every command: the faster of two."""
    commands = [name for name, *_ in cli.COMMANDS]
    commands += [f"{group} {name}" for group, (_, *rows) in cli.GROUPS.items() for name, *_ in rows]

    def once(command: str) -> float:
        start = time.perf_counter()
        line = [sys.executable, "-m", "pathline", *command.split(), "--help"]
        subprocess.run(line, check=True, capture_output=True)
        return time.perf_counter() - start

    return {command: min(once(command), once(command)) for command in commands}


def line(title: str, value: float, limit: float, detail: str = "", *, least: bool = False) -> None:
    """One limit; least: the number is to be at least the limit."""
    state, sign = value >= limit if least else value <= limit, "≥" if least else "≤"
    print(f"{'ok  ' if state else 'OVER'} {title:<36} {value:>9,.6g} {sign} {limit:<8,g} {detail}")


def largest(title: str, sizes: Mapping[str, float], limit: float, count: int = 3) -> None:
    """The largest of these sizes, and by name those that are largest."""
    ranked = sorted(sizes.items(), key=lambda row: -row[1])
    over = sum(size > limit for size in sizes.values())
    names = ", ".join(f"{name} {size:,.4g}" for name, size in ranked[:count])
    line(title, ranked[0][1], limit, f"{over} over: {names}" if over else names)


def static() -> None:
    """What the source itself shows."""
    files = sorted(SRC.rglob("*.py"))
    texts = {
        ".".join(f.relative_to(SRC.parent).with_suffix("").parts): f.read_text("utf-8")
        for f in files
    }
    trees = {name: ast.parse(text) for name, text in texts.items()}
    lines = {name: len(text.splitlines()) for name, text in texts.items()}
    folders = Counter(str(file.parent.relative_to(SRC)) for file in files)
    comments = sum(row.lstrip().startswith("#") for t in texts.values() for row in t.splitlines())
    banned, bindings = banned_names(trees.values())
    graph = {name: imports_of(tree, trees) - {name} for name, tree in trees.items()}
    recipes = {n: len(graph[n]) for n in graph if n.startswith("pathline.recipes.")}
    chain = [name.removeprefix("pathline.") for name in longest_chain(graph)]
    bodies = {name: body_lines(node) for name, node in functions(trees)}

    largest("python files in a folder", folders, 18)
    line("lines of src", sum(lines.values()), 22_500, f"in {len(lines)} files")
    line("% of lines that are comments", 100 * comments / sum(lines.values()), 2, least=True)
    top = ", ".join(f"{name} {count}" for name, count in banned.most_common(6))
    line("% of bindings with banned names", 100 * banned.total() / bindings, 0.5, top)
    largest("modules of ours a recipe imports", recipes, 15)
    line("modules in the longest import chain", len(chain), 12, " > ".join(chain))
    largest("lines of a file", lines, 300)
    largest("lines of a function's body", bodies, 40)
    largest("positional parameters", {n: positional(f) for n, f in functions(trees)}, 4)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--static", action="store_true", help="only what the source shows")
    only_static = arguments.parse_args().static
    static()
    if only_static:
        return
    update, image = update_and_image()
    line("modules opened by an update", len(update), 18, " ".join(sorted(update)))
    line("modules opened by an image", len(image), 20, " ".join(sorted(image)))
    largest("seconds of COMMAND --help", help_seconds(), 1.0)


if __name__ == "__main__":
    main()
