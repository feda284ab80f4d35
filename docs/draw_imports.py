"""
Draws which module imports which into docs/architecture.md: one Mermaid graph of the rooms, one for each room.

    python docs/draw_imports.py
"""

from itertools import permutations
from pathlib import Path

import grimp


PAGE = Path(__file__).with_name("architecture.md")
START, END = "<!-- drawn by: python docs/draw_imports.py -->\n", "<!-- end of the drawing -->"

Arrow = tuple[str, str]


def redrawn(page: str) -> str:
    """The page with a drawing of today's imports between the markers."""
    graph = grimp.build_graph("hf_quals", exclude_type_checking_imports=True)
    rooms = sorted(room for room in graph.find_children("hf_quals") if graph.find_children(room))
    drawn = ["\n### Rooms\n", _mermaid(graph, "hf_quals", _shortest)]
    for room in rooms:
        drawn += [f"### In `{room.split('.')[1]}`\n", _mermaid(graph, room)]
    before, after = page.split(START)[0], page.split(END)[1]
    return before + START + "\n".join(drawn) + END + after


def _mermaid(graph: grimp.ImportGraph, package: str, choose=lambda arrows: arrows) -> str:
    modules = sorted(graph.find_children(package))
    arrows = [
        (importer, imported)
        for importer, imported in permutations(modules, 2)
        if graph.direct_import_exists(importer=importer, imported=imported, as_packages=True)
    ]
    ids = {module: "_".join(module.split(".")[1:]) for module in modules}
    nodes = [f"    {ids[module]}[{module.split('.')[-1]}]" for module in modules]
    lines = [f"    {ids[importer]} --> {ids[imported]}" for importer, imported in choose(arrows)]
    return "\n".join(["```mermaid", "flowchart TD", *nodes, *lines, "```", ""])


def _shortest(arrows: list[Arrow]) -> list[Arrow]:
    """Leaves out an arrow if a way over other rooms leads there too."""
    return [arrow for arrow in arrows if not _leads([other for other in arrows if other != arrow], *arrow)]


def _leads(arrows: list[Arrow], start: str, goal: str) -> bool:
    reached = {start}
    while more := {imported for importer, imported in arrows if importer in reached} - reached:
        reached |= more
    return goal in reached


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
